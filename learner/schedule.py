"""Learning-rate schedule, as a pure function of the step."""

from __future__ import annotations

from learner.config import LearnerConfig


def learning_rate(config: LearnerConfig, step: int, total_steps: int) -> float:
    """Learning rate of update ``step`` (from 0) of a run of ``total_steps``.

    Warm-up step s of w uses peak * (s + 1) / w, so that no update is lost at 0. After it, linear
    decay reaches 0 one update after the last, so that none is lost there either.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    remaining = total_steps - step
    return config.learning_rate * max(remaining, 0) / max(total_steps - config.warmup_steps, 1)

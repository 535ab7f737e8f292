"""Learning-rate schedule, as a pure function of the step."""

from __future__ import annotations

from learner.config import LearnerConfig


def learning_rate(config: LearnerConfig, step: int, total_steps: int) -> float:
    """Learning rate of update ``step`` (from 0) of a run of ``total_steps``.

    Warm-up step s of w has the rate peak * (s + 1) / w. After it the rate falls linearly, and would
    be 0 one update after the last. So no update of the run has a rate of 0.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    remaining = total_steps - step
    return config.learning_rate * max(remaining, 0) / max(total_steps - config.warmup_steps, 1)

"""Which steps of a replay are trained on trajectories that another policy has sampled.

The trajectories say the version of the weights that sampled them. With the run's settings a replay
has the same weights at each version. With others it has them at its first step alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from orchestrator.settings.run_config import RunConfig, load_saved
from orchestrator.settings.unchanged import changed_settings
from policy.errors import UserError


@dataclass(frozen=True)
class OffPolicy:
    """From which step on, counted from 1, and why."""

    first_step: int
    reason: str

    def __str__(self) -> str:
        return (
            f"{self.reason}: from step {self.first_step} on, the trajectories are of another policy"
            " (off-policy)"
        )

    @classmethod
    def of(
        cls, config: RunConfig, source: Path, steps: range, checkpoint: Path | None
    ) -> Self | None:
        """None if the replay of ``steps`` of the run in ``source`` has the run's policy throughout.

        ``checkpoint`` is the one that it begins with; None is the model of the configuration.
        """
        try:
            before = load_saved(source / "config.yaml")
        except UserError as error:
            return cls(steps[0], f"the run's settings are not known ({error})")
        changed = changed_settings(config, before)
        updates = [key for key in sorted(changed) if _changes_updates(key, config, before)]
        others = set(_of_the_distribution(config))
        if checkpoint is None:
            others.add("model.path")
            if config.learner.lora is not None:
                others.add("seed")  # draws the adapter
            begins_as_the_run = True
        else:
            begins_as_the_run = checkpoint.absolute().is_relative_to(source.absolute())
        at_once = sorted(changed & others)
        if not (updates or at_once):
            return None
        first = steps[0] + (begins_as_the_run and not at_once)
        keys = dict.fromkeys((*at_once, *updates))
        return cls(first, f"other settings than the run's ({', '.join(keys)})")


def _changes_updates(key: str, config: RunConfig, before: RunConfig) -> bool:
    """Whether a setting decides what an update makes of the weights."""
    if key == "steps":  # the rate falls until the last of them
        return not config.learner.schedule == before.learner.schedule == "constant"
    return key.startswith(("learner.", "algorithm.", "model."))


def _of_the_distribution(config: RunConfig) -> Iterator[str]:
    """Settings that decide which distribution the learner computes with given weights."""
    yield "rollout.temperature"
    if config.algorithm.trained_distribution == "guided":
        yield from ("rollout.guidance_scale", "rollout.final_guidance_scale")

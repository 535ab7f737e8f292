"""The batch of a step in words."""

from __future__ import annotations

import math

from orchestrator.settings.run_config import RunConfig


def batch_text(config: RunConfig) -> str:
    """The batch of a step, and the number of micro-batches in a learner rank's share, as text."""
    share = config.trajectories_per_rank
    micro_batches = math.ceil(share / config.learner.micro_batch_size)
    batch = (
        f"{_counted(config.prompts_per_step, 'prompt')} x {config.rollout.group_size} ="
        f" {_counted(config.trajectories_per_step, 'trajectory', 'trajectories')} a step"
    )
    if not config.learner_ranks:
        return batch
    return (
        f"{batch}, over {_counted(config.learner_ranks, 'rank')} in up to"
        f" {_counted(micro_batches, 'micro-batch', 'micro-batches')} of"
        f" {min(share, config.learner.micro_batch_size)}"
    )


def _counted(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"

"""Rewards in the caller's own process, without workers: for commands that score a few images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from rewards.config import RewardConfig
from rewards.factory import build_reward
from rewards.scoring import RewardScorer


@contextmanager
def scorer_in_process(config: RewardConfig) -> Iterator[RewardScorer]:
    """Build the reward, with its ``env_vars`` in the environment until the block ends.

    Packages of its ``runtime_env.pip`` must be installed here. Raises ``UserError`` when the reward
    cannot be built.
    """
    before = dict(os.environ)
    os.environ.update(config.runtime_env.resolved().env_vars)
    try:
        yield RewardScorer(build_reward(config), config.batch_size)
    finally:
        os.environ.clear()
        os.environ.update(before)

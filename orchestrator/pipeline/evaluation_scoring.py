"""Scores the images of an evaluation with one reward, some prompts at a time.

The images are read from files. Only those of a few hundred are in the object store at once, and the
next are read while the workers score.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from orchestrator.pipeline.roles import Rewards, Waiting
from orchestrator.workers.rollout_events import GroupRef
from policy.types import Group, RewardResult
from rewards.config import RewardConfig

_LONGEST_TURN_S = 1.0
# Batches of each reward worker in a round: one that it scores and one that waits for it.
_BATCHES = 2
# There are two rounds at a time, so that no worker waits for the last of a round.
ROUNDS = 2


def prompts_per_round(reward: RewardConfig, images_per_prompt: int) -> int:
    """How many prompts are scored together, and have their images in the object store at once."""
    return reward.workers * _BATCHES * max(1, reward.batch_size // images_per_prompt)


def score(
    images: Mapping[int, int],
    read: Callable[[int], Group],
    scorer: str,
    per_round: int,
    rewards: Rewards,
    store: Callable[[Group], GroupRef],
    wait: Waiting,
    keep: Callable[[int, Sequence[RewardResult]], None],
) -> None:
    """Score the images of every place with the one reward of ``rewards``, called ``scorer``.

    ``images`` says how many of a place are to be scored. ``read`` gives the group of them, and
    ``store`` puts it into the object store. ``per_round`` prompts, all with the same number of
    images, are scored together. ``keep`` is called once for each place, as soon as it is scored.
    """
    waiting = [
        alike[start : start + per_round]
        for size in sorted(set(images.values()), reverse=True)
        for alike in [[place for place, count in images.items() if count == size]]
        for start in range(0, len(alike), per_round)
    ]
    rounds: dict[int, Sequence[int]] = {}
    left: dict[int, int] = {}
    begun = 0
    while waiting or rounds:
        while waiting and len(rounds) < ROUNDS:
            chosen = waiting.pop(0)
            groups = [read(place) for place in chosen]
            rounds[begun], left[begun] = chosen, len(chosen)
            size = len(groups[0].trajectories)
            rewards.begin(begun, [group.prompt for group in groups], size)
            for index, group in enumerate(groups):
                rewards.add(begun, index, store(group))
            begun += 1
        rewards.advance()
        longest = min(_LONGEST_TURN_S, max(0.0, rewards.wake_at - time.monotonic()))
        for call in wait(rewards.calls, longest):
            rewards.receive(call)
        for key, index in rewards.take_lost():
            assert isinstance(key, int)
            rewards.forget(key, [index])
            rewards.add(key, index, store(read(rounds[key][index])))
        rewards.take_failures()
        for key, index, scored in rewards.take_scored():
            assert isinstance(key, int)
            keep(rounds[key][index], scored.results[scorer])
            left[key] -= 1
            if not left[key]:
                rewards.end(key)
                del rounds[key], left[key]

"""A batch of groups, and how it is shared out among the learner ranks.

The driver reads this module, so it imports no torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TrainingGroup:
    """One prompt's group and the advantage of each member (eq. 4).

    ``group`` is a ``Group``, or a Ray ``ObjectRef`` to one, which the ranks fetch themselves. An
    advantage of ``None`` marks a failed trajectory, which is not trained on.
    """

    group: Any
    advantages: tuple[float | None, ...]
    # Whether other weights sampled it than those with this number here: those of another run.
    off_policy: bool = False


@dataclass(frozen=True)
class GroupSlice:
    """The members of one group that one rank trains on."""

    source: TrainingGroup
    indices: tuple[int, ...]


def split_over_ranks(batch: Sequence[TrainingGroup], ranks: int) -> list[list[GroupSlice]]:
    """Give each rank consecutive surviving trajectories; the numbers differ by one at most."""
    survivors = [
        (group_index, index)
        for group_index, group in enumerate(batch)
        for index, advantage in enumerate(group.advantages)
        if advantage is not None
    ]
    bounds = [len(survivors) * rank // ranks for rank in range(ranks + 1)]
    shares = []
    for start, stop in itertools.pairwise(bounds):
        members: dict[int, list[int]] = {}
        for group_index, index in survivors[start:stop]:
            members.setdefault(group_index, []).append(index)
        shares.append(
            [GroupSlice(batch[group], tuple(indices)) for group, indices in members.items()]
        )
    return shares

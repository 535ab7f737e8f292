"""How a rank's share of a batch is cut into micro-batches, and the tensors of a micro-batch.

The cuts are deterministic, like the shares (``learner.shares``). They need not be even: the loss is
divided by the counts of the whole batch, so that the gradient does not depend on them.
Shape legend: B = trajectories, T = CoT columns then image columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from learner.algorithm.advantages import has_variance
from learner.group_weights import GroupStage
from learner.shares import GroupSlice
from policy.encoding import SpecialIds
from policy.sequences import TrajectoryBatch, collate
from policy.types import Group, Trajectory


@dataclass(frozen=True)
class TrainingTrajectory:
    """A trajectory and what the loss needs to know about its group."""

    trajectory: Trajectory
    advantage: float
    group_has_variance: bool
    # Weights of the image tokens from the token method's group stage, N; None stands for 1.
    surrogate_weights: NDArray[np.float64] | None = None
    kl_weights: NDArray[np.float64] | None = None
    off_policy: bool = False  # see ``TrainingGroup``

    def is_stale(self, weight_version: int) -> bool:
        """Whether other weights sampled it than those that are trained, which have this version."""
        return self.off_policy or self.trajectory.weight_version != weight_version


def training_trajectories(
    slices: Sequence[GroupSlice], group_stage: GroupStage | None = None
) -> list[TrainingTrajectory]:
    """The trajectories of a rank's share. Every ``group`` must be a ``Group``, no ``ObjectRef``.

    ``group_stage`` gives the weights of a group's survivors, of which the rank may hold only some.
    Raises ValueError when a group and its advantages differ in length.
    """
    flat = []
    for part in slices:
        group, advantages = part.source.group, part.source.advantages
        if not isinstance(group, Group) or len(group.trajectories) != len(advantages):
            raise ValueError(f"{len(advantages)} advantages do not fit {type(group).__name__}")
        varied = has_variance(advantages)
        survivors = [index for index, advantage in enumerate(advantages) if advantage is not None]
        weights = None
        if group_stage is not None:
            members = [group.trajectories[index] for index in survivors]
            weights = group_stage(members, [a for a in advantages if a is not None])
        for index in part.indices:
            advantage = advantages[index]
            if advantage is None:
                raise ValueError(f"{group.prompt.id}: trajectory {index} has no advantage")
            item = TrainingTrajectory(
                group.trajectories[index], advantage, varied, off_policy=part.source.off_policy
            )
            if weights is not None:
                place = survivors.index(index)
                item = replace(
                    item,
                    surrogate_weights=weights.surrogate_GN[place],
                    kl_weights=weights.kl_GN[place],
                )
            flat.append(item)
    return flat


def cut_micro_batches(
    trajectories: Sequence[TrainingTrajectory], size: int
) -> list[list[TrainingTrajectory]]:
    """Cut into micro-batches of ``size`` trajectories; the last one may have fewer.

    They keep their order. The members of a group then come together, and what their prompts have in
    common is computed once a micro-batch.
    """
    return [list(trajectories[start : start + size]) for start in range(0, len(trajectories), size)]


@dataclass(frozen=True)
class MicroBatch:
    """The tensors of one forward and backward pass."""

    tokens: TrajectoryBatch
    advantage_B: Tensor
    has_variance_B: Tensor
    is_stale_B: Tensor  # bool, whether other weights than those trained sampled the trajectory
    # Recorded at rollout under the trained distribution, in nats; 0 outside the mask.
    recorded_logprob_BT: Tensor
    recorded_entropy_BT: Tensor
    # Of the token method's group stage, 1 on CoT tokens; None without one.
    surrogate_weight_BT: Tensor | None = None
    kl_weight_BT: Tensor | None = None

    @property
    def mask_BT(self) -> Tensor:
        """Valid tokens, CoT and image."""
        return self.tokens.mask_BT

    @property
    def cot_mask_BT(self) -> Tensor:
        """Valid CoT tokens, over all T columns."""
        cot = self.tokens.cot.mask_BT
        return torch.cat([cot, torch.zeros_like(self.tokens.image.mask_BT)], dim=1)

    @property
    def image_mask_BT(self) -> Tensor:
        """Valid image tokens, over all T columns."""
        image = self.tokens.image.mask_BT
        return torch.cat([torch.zeros_like(self.tokens.cot.mask_BT), image], dim=1)


def micro_batch(
    items: Sequence[TrainingTrajectory],
    special: SpecialIds,
    weight_version: int,
    guided: bool,
    device: torch.device,
) -> MicroBatch:
    """Lay trajectories out as tensors on ``device``."""
    trajectories = [item.trajectory for item in items]
    tokens = collate(trajectories, special)
    cot_mask, image_mask = tokens.cot.mask_BT, tokens.image.mask_BT
    logprob_BT = _recorded(
        [t.cot_logprobs for t in trajectories],
        [t.image_logprobs_guided if guided else t.image_logprobs_conditional for t in trajectories],
        (cot_mask, image_mask),
    )
    entropy_BT = _recorded(
        [t.cot_entropies for t in trajectories],
        [
            t.image_entropies_guided if guided else t.image_entropies_conditional
            for t in trajectories
        ],
        (cot_mask, image_mask),
    )
    return MicroBatch(
        tokens=tokens.to(device),
        advantage_B=torch.tensor([item.advantage for item in items], device=device),
        has_variance_B=torch.tensor([item.group_has_variance for item in items], device=device),
        is_stale_B=torch.tensor([item.is_stale(weight_version) for item in items], device=device),
        recorded_logprob_BT=logprob_BT.to(device),
        recorded_entropy_BT=entropy_BT.to(device),
        surrogate_weight_BT=_weights(items, [i.surrogate_weights for i in items], tokens, device),
        kl_weight_BT=_weights(items, [i.kl_weights for i in items], tokens, device),
    )


def _weights(
    items: Sequence[TrainingTrajectory],
    image: Sequence[NDArray[np.float64] | None],
    tokens: TrajectoryBatch,
    device: torch.device,
) -> Tensor | None:
    """Weights of all tokens, 1 on CoT tokens; None when the trajectories have no weights."""
    given = [weights for weights in image if weights is not None]
    if not given:
        return None
    ones = [np.ones(len(item.trajectory.cot_ids)) for item in items]
    return _recorded(ones, given, (tokens.cot.mask_BT, tokens.image.mask_BT)).to(device)


def _recorded(
    cot: Sequence[NDArray[Any]], image: Sequence[NDArray[Any]], masks: tuple[Tensor, Tensor]
) -> Tensor:
    """Recorded values of CoT and image tokens, over all T columns."""
    columns = []
    for values, mask_BT in zip((cot, image), masks, strict=True):
        flat_N = torch.from_numpy(np.concatenate(values).astype(np.float32))
        columns.append(torch.zeros(mask_BT.shape).masked_scatter(mask_BT, flat_N))
    return torch.cat(columns, dim=1)

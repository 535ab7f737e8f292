"""An update as the public code makes it, on our objective, to compare a whole learner step with.

It takes one prompt's group at a time, pads it to its longest member, and computes log-softmax and
entropy of the whole vocabulary at every position: also at those of the prompt and of the padding,
whose values are dropped. Entropies are computed under autograd. Reference, loss and optimizer are
ours, so both ways make the same update. docs/benchmarks.md has the ratio.

Shape legend: B = trajectories, L = positions, T = tokens, V = vocabulary.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.torch_model import TorchModel
from learner.micro_batches import MicroBatch, TrainingTrajectory, micro_batch
from learner.update import Updater
from policy.janus import JanusPolicy
from policy.sequences import PhaseBatch, TrajectoryBatch
from policy.token_tree import TokenTree


class PublicUpdater(Updater):
    """One prompt at a time, in the order of the batch."""

    def micro_batches(
        self, items: Sequence[TrainingTrajectory], weight_version: int
    ) -> list[MicroBatch]:
        return [
            micro_batch(list(group), self._special, weight_version, False, self._model.device)
            for _, group in itertools.groupby(items, lambda item: item.trajectory.prompt_id)
        ]


def public_model(model: TorchModel) -> TorchModel:
    """The same weights and optimizer with the public code's forward pass, of policy and reference.

    It has the conditional distribution at temperature 1 alone.
    """
    other = copy.copy(model)
    other._module = _forward(model._policy)
    if model.reference is not None:
        other._reference_module = _forward(model.reference)
    return other


def _forward(policy: JanusPolicy) -> Any:
    def forward(batch: TrajectoryBatch, *_: Any) -> tuple[Tensor, Tensor]:
        head = policy.model.model.generation_head
        phases = (
            (batch.cot, policy.model.lm_head),
            (batch.image, lambda hidden: head.vision_head(policy.image_features(hidden))),
        )
        columns = [
            _logprobs(policy, batch.tree, rows.node_BL, phase, logits)
            for rows, (phase, logits) in zip(batch.tree.phases, phases, strict=True)
        ]
        logprob_BT, entropy_BT = (torch.cat(parts, dim=1) for parts in zip(*columns, strict=True))
        return logprob_BT, entropy_BT.detach()

    return forward


def _logprobs(
    policy: JanusPolicy, tree: TokenTree, node_BL: Tensor, phase: PhaseBatch, logits: Any
) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies of a phase's tokens, B T, zero where the mask is false."""
    is_image_P = torch.zeros_like(tree.ids_P, dtype=torch.bool)
    is_image_P[tree.image_N] = True
    hidden_BLD = policy.hidden_states(policy.embed(tree.ids_P[node_BL], is_image_P[node_BL]))
    logprob_BLV = torch.log_softmax(logits(hidden_BLD).float(), dim=-1)
    entropy_BL = -(logprob_BLV.exp() * logprob_BLV).sum(dim=-1)
    rows_B1 = torch.arange(len(node_BL), device=node_BL.device)[:, None]
    column_BT = tree.position_P[phase.source_BT]
    logprob_BT = logprob_BLV[rows_B1, column_BT, phase.target_BT]
    entropy_BT = entropy_BL.gather(1, column_BT)
    return logprob_BT * phase.mask_BT, entropy_BT * phase.mask_BT

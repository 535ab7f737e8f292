"""The group stage of a token method, on the trajectories that a rank holds.

A rank that trains on some members of a group has fetched all of them. Each rank therefore computes
the weights of its groups by itself, and they are the same whichever way a group is cut.

Shape legend: G = surviving trajectories of a group, N = image tokens, V = image codebook, D =
vector size.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import torch
from torch.nn import functional

from learner.algorithm.methods.token_method import GroupRecord, GroupWeights, Need
from policy.errors import UserError
from policy.janus import JanusPolicy
from policy.types import FloatArray, Trajectory

# The weights of a group's survivors, from these and their advantages.
GroupStage = Callable[[Sequence[Trajectory], Sequence[float]], GroupWeights]


def group_record(
    trajectories: Sequence[Trajectory],
    advantages: Sequence[float],
    needs: Collection[Need],
    grid: tuple[int, int],
    vector_VD: FloatArray | None,
) -> GroupRecord:
    """What the group stage sees of a group's survivors.

    Raises ``UserError`` when the method needs the unconditional log-probs and a trajectory has
    none: it was sampled without guidance, or by a version that did not record them.
    """
    unconditional_GN = None
    if "unconditional" in needs:
        for trajectory in trajectories:
            if len(trajectory.image_logprobs_unconditional) < len(trajectory.image_ids):
                raise UserError(
                    f"algorithm.method: the trajectories of prompt {trajectory.prompt_id} hold no"
                    " unconditional log-probs, which this method needs: they were sampled without"
                    " guidance, or by an older version"
                )
        unconditional_GN = np.stack([t.image_logprobs_unconditional for t in trajectories])
    return GroupRecord(
        advantage_G=np.array(advantages, dtype=np.float64),
        image_ids_GN=np.stack([t.image_ids for t in trajectories]),
        entropy_GN=np.stack([t.image_entropies_guided for t in trajectories]),
        conditional_logprob_GN=np.stack([t.image_logprobs_conditional for t in trajectories]),
        unconditional_logprob_GN=unconditional_GN,
        grid=grid,
        vector_VD=vector_VD,
    )


@torch.no_grad()
def token_vectors(policy: JanusPolicy, needs: Collection[Need]) -> FloatArray | None:
    """Unit vectors of all image tokens, V D, in host memory, if the method needs any.

    They are frozen. They must be read before ZeRO-3 shards the parameters.
    """
    if "codebook" in needs:
        vector_VD = policy.model.model.vqmodel.quantize.embedding.weight
    elif "aligned_embedding" in needs:
        codes_1V = torch.arange(policy.num_codes, device=policy.device).unsqueeze(0)
        vector_VD = policy.embed_image(codes_1V).squeeze(0)
    else:
        return None
    return functional.normalize(vector_VD.float(), dim=-1).cpu().numpy()

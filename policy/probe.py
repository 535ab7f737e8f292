"""The fixed probe, whose log-probs show that a policy computes with the weights it was sent.

They are part of a worker's receipt (``policy.receipt``).
"""

from __future__ import annotations

import numpy as np
import torch

from policy.encoding import SpecialIds
from policy.janus import JanusPolicy
from policy.sequences import TrajectoryBatch, collate
from policy.trajectory_logprobs import trajectory_logprobs
from policy.types import FloatArray, Trajectory

_PROBE_ROWS, _PROBE_COT_TOKENS, _PROBE_SEED = 2, 12, 20_26


def probe_trajectories(policy: JanusPolicy, special: SpecialIds) -> list[Trajectory]:
    """The probe: fixed random tokens. Processes with equal model sizes get equal sequences."""
    rng = np.random.Generator(np.random.Philox(_PROBE_SEED))
    none = np.zeros(0, dtype=np.float32)

    def text(count: int) -> np.ndarray:
        return rng.integers(policy.text_vocab_size, size=count, dtype=np.int32)

    return [
        Trajectory(
            prompt_id="probe",
            index_in_group=index,
            weight_version=0,
            seed=_PROBE_SEED,
            cot_prompt_ids=np.append(np.int32(special.bos), text(6)),
            cot_ids=text(_PROBE_COT_TOKENS),
            cot_logprobs=none,
            cot_entropies=none,
            cot_text="",
            image_prompt_ids=np.concatenate(
                [[np.int32(special.bos)], text(9), [np.int32(special.begin_of_image)]]
            ),
            image_ids=rng.integers(policy.num_codes, size=policy.num_image_tokens, dtype=np.int32),
            image_logprobs_conditional=none,
            image_entropies_conditional=none,
            image_logprobs_guided=none,
            image_entropies_guided=none,
            image=np.zeros((0, 0, 3), dtype=np.uint8),
        )
        for index in range(_PROBE_ROWS)
    ]


def probe_batch(policy: JanusPolicy, special: SpecialIds) -> TrajectoryBatch:
    """The probe as a batch on the policy's device."""
    return collate(probe_trajectories(policy, special), special).to(policy.device)


@torch.no_grad()
def probe_logprobs(policy: JanusPolicy, special: SpecialIds) -> FloatArray:
    """Log-probs of the probe's tokens under the current weights of the policy, in nats.

    They are conditional log-probs at temperature 1, however trajectories are sampled. The array is
    flat: row by row, and in each row the CoT tokens before the image tokens.
    """
    batch = probe_batch(policy, special)
    logprob_BT = trajectory_logprobs(policy, batch, 1.0, None).logprob_BT
    return logprob_BT[batch.mask_BT].cpu().numpy()

"""Phase 1: sampling the chains of thought of a batch.

Shape legend: B = trajectories, R = rows still decoded, T = CoT tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from policy.distribution import Softmax, temper
from policy.janus import JanusPolicy
from policy.sampling import Sampling
from policy.types import FloatArray, IntArray
from rollout.decoding import RowDecoder
from rollout.drawing import Phase, draw_tokens, token_noise

# Finished rows leave the batch when at most this share of its rows still runs. A smaller share
# would decode finished rows for nothing. A larger one would copy the KV cache so often that it
# costs more than it saves.
_REPACK_SHARE = 0.75


@dataclass(frozen=True)
class CotSample:
    """One CoT, which ends with its EOS or at the length cap; records are in nats."""

    ids: IntArray
    logprobs: FloatArray
    entropies: FloatArray


def sample_cots(
    policy: JanusPolicy,
    eos: int,
    prompts: Sequence[IntArray],
    seeds: Sequence[int],
    sampling: Sampling,
) -> list[CotSample]:
    """Sample one CoT per prompt. Equal prompts, such as those of a group, are read only once."""
    device, cap = policy.device, sampling.max_cot_tokens
    noise_BT = token_noise(seeds, Phase.COT, cap).to(device)
    ids_BT = torch.full((len(prompts), cap), eos, device=device)
    logprob_BT = torch.zeros(len(prompts), cap, device=device)
    entropy_BT = torch.zeros(len(prompts), cap, device=device)

    distinct, source_B = _distinct(prompts)
    decoder = RowDecoder(policy, distinct, num_steps=cap - 1)
    trajectory_R = torch.arange(len(prompts), device=device)
    hidden_RD = decoder.prefill()[source_B.to(device)]
    decoder.select_rows(source_B.to(device))
    running_R = torch.ones(len(prompts), dtype=torch.bool, device=device)
    for t in range(cap):
        softmax = Softmax.of(temper(policy.text_logits(hidden_RD), sampling.temperature))
        ids_R = draw_tokens(softmax.weight_NV, noise_BT[trajectory_R, t])
        # A finished row is still decoded until it leaves the batch. What it writes stands after its
        # EOS and is cut off below.
        ids_BT[trajectory_R, t] = ids_R
        logprob_BT[trajectory_R, t] = softmax.logprob(ids_R)
        entropy_BT[trajectory_R, t] = softmax.entropy()
        running_R = running_R & (ids_R != eos)
        num_running = int(running_R.sum())
        if num_running == 0 or t == cap - 1:
            break
        if num_running <= _REPACK_SHARE * len(running_R):
            kept_R = running_R.nonzero().squeeze(1)
            decoder.select_rows(kept_R)
            trajectory_R, ids_R, running_R = trajectory_R[kept_R], ids_R[kept_R], running_R[kept_R]
        hidden_RD = decoder.step(policy.embed_text(ids_R))

    ids, logprobs, entropies = (
        tensor.cpu().numpy() for tensor in (ids_BT.int(), logprob_BT, entropy_BT)
    )
    lengths = [_length(row, eos) for row in ids]
    return [
        CotSample(ids[b, :n].copy(), logprobs[b, :n].copy(), entropies[b, :n].copy())
        for b, n in enumerate(lengths)
    ]


def _distinct(prompts: Sequence[IntArray]) -> tuple[list[IntArray], torch.Tensor]:
    """The distinct prompts, and for each given prompt its index among them."""
    places: dict[bytes, int] = {}
    sources = [places.setdefault(prompt.tobytes(), len(places)) for prompt in prompts]
    first = {place: prompt for prompt, place in zip(prompts[::-1], sources[::-1], strict=True)}
    return [first[place] for place in range(len(places))], torch.tensor(sources)


def _length(ids: IntArray, eos: int) -> int:
    """The number of tokens up to and including the first EOS; of all tokens without one."""
    ends = np.flatnonzero(ids == eos)
    return int(ends[0]) + 1 if len(ends) else len(ids)

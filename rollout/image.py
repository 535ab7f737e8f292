"""Phase 2: sampling the image tokens of a batch, with classifier-free guidance.

Shape legend: B = trajectories, N = image tokens, D = hidden size, V = image codebook.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from policy.distribution import Softmax, guide, temper
from policy.encoding import SpecialIds, unconditional_twin
from policy.janus import JanusPolicy
from policy.sampling import Sampling
from policy.types import FloatArray, IntArray
from rollout.decoding import RowDecoder
from rollout.drawing import Phase, draw_tokens, token_noise


@dataclass(frozen=True)
class ImageSamples:
    """Image tokens, B N, and their records under the distributions, in nats, B N."""

    ids: IntArray
    logprobs_conditional: FloatArray
    entropies_conditional: FloatArray
    logprobs_guided: FloatArray
    entropies_guided: FloatArray
    logprobs_unconditional: FloatArray  # B 0 at w = 1


def sample_images(
    policy: JanusPolicy,
    special: SpecialIds,
    prompts: Sequence[IntArray],
    seeds: Sequence[int],
    sampling: Sampling,
) -> ImageSamples:
    """Draw image tokens from softmax((u + w (c - u)) / temperature).

    c are the logits of the prompt. u are those of its unconditional twin, which is decoded as one
    more row of the same length. At w = 1 no twin is decoded, the guided records are the conditional
    ones, and there is no record of u.
    """
    guided = sampling.guided
    rows = [*prompts, *(unconditional_twin(p, special) for p in prompts)] if guided else prompts
    batch, count = len(prompts), policy.num_image_tokens
    noise_BN = token_noise(seeds, Phase.IMAGE, count).to(policy.device)
    ids_BN = torch.empty(batch, count, dtype=torch.long, device=policy.device)
    # With guidance, the rows of the conditional distribution come before those of the guided one.
    views = 2 if guided else 1
    logprob_BN, entropy_BN = (
        torch.empty(views * batch, count, device=policy.device) for _ in range(2)
    )
    twin_BN = torch.empty(batch, count if guided else 0, device=policy.device)

    decoder = RowDecoder(policy, rows, num_steps=count - 1)
    hidden = decoder.prefill()
    for n in range(count):
        # The logits of all rows are one product, so that the head's weights are read only once.
        logits = policy.image_logits(hidden)
        if guided:
            twin = Softmax.of(temper(logits[batch:], sampling.temperature))
            logits[batch:] = guide(logits[:batch], logits[batch:], sampling.guidance_scale)
        softmax = Softmax.of(temper(logits, sampling.temperature))
        ids_B = draw_tokens(softmax.weight_NV[-batch:], noise_BN[:, n])
        ids_BN[:, n] = ids_B
        if guided:
            twin_BN[:, n] = twin.logprob(ids_B)
        logprob_BN[:, n], entropy_BN[:, n] = softmax.logprob(ids_B.repeat(views)), softmax.entropy()
        if n < count - 1:
            embedding_BD = policy.embed_image(ids_B.unsqueeze(1)).squeeze(1)
            hidden = decoder.step(embedding_BD.repeat(views, 1))

    logprobs, entropies = logprob_BN.cpu().numpy(), entropy_BN.cpu().numpy()
    return ImageSamples(
        ids_BN.int().cpu().numpy(),
        logprobs[:batch],
        entropies[:batch],
        logprobs[-batch:],
        entropies[-batch:],
        twin_BN.cpu().numpy(),
    )

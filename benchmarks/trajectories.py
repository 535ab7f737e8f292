"""Groups of random trajectories with exactly the log-probs and entropies of a given policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from benchmarks.small_models.random_janus import tiny_tokenizer
from policy.encoding import SpecialIds, special_ids
from policy.janus import JanusPolicy
from policy.sampling import Sampling
from policy.sequences import collate
from policy.trajectory_logprobs import (
    LogprobKernel,
    TokenLogprobs,
    plain_kernel,
    trajectory_logprobs,
)
from policy.types import Group, Prompt, Trajectory

UNGUIDED = Sampling(guidance_scale=1.0, temperature=1.0, max_cot_tokens=64)
TINY_SPECIAL: SpecialIds = special_ids(tiny_tokenizer())
AS_PAPER = {"bonus": "budget", "aggregation": "sequence-mean"}  # configs/presets/as-paper.yaml


def random_groups(
    policy: JanusPolicy,
    cot_lengths: Sequence[Sequence[int]],
    seed: int = 0,
    weight_version: int = 0,
    sampling: Sampling = UNGUIDED,
    special: SpecialIds = TINY_SPECIAL,
    prompt_lengths: tuple[int, int] = (5, 9),
    kernel: LogprobKernel = plain_kernel,
) -> list[Group]:
    """One group per row of ``cot_lengths``, one trajectory per entry, of prompts whose lengths lie
    in ``prompt_lengths``, BOS apart.

    Tokens are uniformly random; log-probs and entropies are what ``policy`` gives them by
    ``kernel``, the distribution that ``sampling`` draws from.
    """
    rng = np.random.Generator(np.random.Philox(seed))
    groups = []
    for number, lengths in enumerate(cot_lengths):
        prompt = Prompt(id=f"random:{number}", text="a red circle", task_type="color")
        prompt_ids = _text(
            rng, policy, special, int(rng.integers(prompt_lengths[0], prompt_lengths[1] + 1))
        )
        bare = [
            _trajectory(rng, policy, special, prompt_ids, prompt.id, index, count)
            for index, count in enumerate(lengths)
        ]
        fresh = [replace(item, weight_version=weight_version) for item in bare]
        recorded = _recorded(fresh, policy, special, sampling, kernel)
        groups.append(Group(prompt, tuple(recorded)))
    return groups


def _text(
    rng: np.random.Generator, policy: JanusPolicy, special: SpecialIds, count: int
) -> np.ndarray:
    ids = rng.integers(len(TINY_SPECIAL.__dict__), policy.text_vocab_size, size=count)
    return np.append(special.bos, ids).astype(np.int32)


def _trajectory(
    rng: np.random.Generator,
    policy: JanusPolicy,
    special: SpecialIds,
    prompt_ids: np.ndarray,
    prompt_id: str,
    index: int,
    cot_length: int,
) -> Trajectory:
    none = np.zeros(0, dtype=np.float32)
    cot_ids = _text(rng, policy, special, cot_length)[1:]
    if cot_length:
        cot_ids[-1] = special.eos
    return Trajectory(
        prompt_id=prompt_id,
        index_in_group=index,
        weight_version=0,
        seed=index,
        cot_prompt_ids=prompt_ids,
        cot_ids=cot_ids,
        cot_logprobs=none,
        cot_entropies=none,
        cot_text="",
        # As with a template, the prompts of the two phases begin alike and then differ.
        image_prompt_ids=np.concatenate(
            [prompt_ids[:1], prompt_ids[:0:-1], cot_ids[:-1], [special.begin_of_image]]
        ).astype(np.int32),
        image_ids=rng.integers(policy.num_codes, size=policy.num_image_tokens, dtype=np.int32),
        image_logprobs_conditional=none,
        image_entropies_conditional=none,
        image_logprobs_guided=none,
        image_entropies_guided=none,
        image=np.zeros((4, 4, 3), dtype=np.uint8),
    )


@torch.no_grad()
def _recorded(
    trajectories: Sequence[Trajectory],
    policy: JanusPolicy,
    special: SpecialIds,
    sampling: Sampling,
    kernel: LogprobKernel,
) -> list[Trajectory]:
    batch = collate(trajectories, special).to(policy.device)
    temperature, w = sampling.temperature, sampling.guidance_scale
    conditional = trajectory_logprobs(policy, batch, temperature, None, kernel)
    guided = trajectory_logprobs(policy, batch, temperature, w, kernel)
    unconditional = None
    if sampling.guided:
        unconditional = trajectory_logprobs(policy, batch, temperature, 0.0, kernel)
    longest = batch.cot.mask_BT.shape[1]

    def rows(scores: TokenLogprobs, row: int, cot: bool) -> tuple[np.ndarray, np.ndarray]:
        columns = slice(0, len(trajectories[row].cot_ids)) if cot else slice(longest, None)
        values = scores.logprob_BT[row, columns], scores.entropy_BT[row, columns]
        return values[0].cpu().numpy(), values[1].cpu().numpy()

    none = np.zeros(0, dtype=np.float32)
    recorded = []
    for row, item in enumerate(trajectories):
        cot, image = rows(conditional, row, cot=True), rows(conditional, row, cot=False)
        guided_image = rows(guided, row, cot=False)
        twin = none if unconditional is None else rows(unconditional, row, cot=False)[0]
        recorded.append(
            replace(
                item,
                cot_logprobs=cot[0],
                cot_entropies=cot[1],
                image_logprobs_conditional=image[0],
                image_entropies_conditional=image[1],
                image_logprobs_guided=guided_image[0],
                image_entropies_guided=guided_image[1],
                image_logprobs_unconditional=twin,
            )
        )
    return recorded

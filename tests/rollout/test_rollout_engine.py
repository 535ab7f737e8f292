"""The transformers engine: what it records is what the policy says, whatever the batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from benchmarks.small_models.random_janus import PROMPTS, tiny_encoder, tiny_policy
from policy.encoding import unconditional_twin
from policy.sampling import Sampling
from policy.sequences import collate
from policy.trajectory_logprobs import trajectory_logprobs
from policy.types import Trajectory
from rollout.config import RolloutConfig
from rollout.cot import sample_cots
from rollout.drawing import Phase, draw_tokens, token_noise
from rollout.engine import GenerationRequest
from rollout.image import sample_images
from rollout.transformers_engine import TransformersEngine

CAP = 20
REQUESTS = [
    GenerationRequest(prompt, tuple(range(100 * place, 100 * place + 5)))
    for place, prompt in enumerate(PROMPTS)
]


def engine(batch_size: int = 64, layers: int = 2) -> TransformersEngine:
    config = RolloutConfig(guidance_scale=1.0, max_cot_tokens=CAP, batch_size=batch_size)
    return TransformersEngine(tiny_policy(layers=layers), tiny_encoder(), config)


def sample(
    batch_size: int = 64, guidance_scale: float = 1.0, temperature: float = 1.0
) -> list[Trajectory]:
    groups = engine(batch_size).generate(REQUESTS, Sampling(guidance_scale, temperature, CAP))
    return [trajectory for group in groups for trajectory in group.trajectories]


def assert_close(found: np.ndarray, expected: np.ndarray, guidance_scale: float = 1.0) -> None:
    """To 1e-5; guidance adds up w times the rounding of c and w - 1 times that of u."""
    tolerance = 1e-5 * (guidance_scale + abs(guidance_scale - 1))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=tolerance)


def assert_same(found: Trajectory, expected: Trajectory, guidance_scale: float) -> None:
    for field in fields(Trajectory):
        a, b = getattr(found, field.name), getattr(expected, field.name)
        if field.name == "image":  # uint8 of floats: a rounding error may be worth one step
            assert np.abs(a.astype(int) - b.astype(int)).max() <= 1
        elif isinstance(a, np.ndarray) and a.dtype == np.float32:
            assert_close(a, b, guidance_scale if field.name.endswith("guided") else 1.0)
        else:
            assert np.array_equal(a, b), field.name


@pytest.mark.parametrize(
    ("guidance_scale", "temperature"), [(1.0, 1.0), (2.0, 1.0), (5.0, 1.0), (2.0, 0.7), (1.0, 1.5)]
)
def test_cached_decoding_equals_teacher_forcing(guidance_scale: float, temperature: float) -> None:
    """Recorded log-probs and entropies are those of a full forward pass over the trajectory.

    Of the tempered distribution, for CoT, conditional and guided image tokens, in float32 to 1e-5.
    """
    trajectories = sample(guidance_scale=guidance_scale, temperature=temperature)
    policy, special = tiny_policy(), tiny_encoder().special
    batch = collate(trajectories, special)
    with torch.no_grad():
        conditional = trajectory_logprobs(policy, batch, temperature, None)
        guided = trajectory_logprobs(policy, batch, temperature, guidance_scale)
    longest = batch.cot.mask_BT.shape[1]
    for row, trajectory in enumerate(trajectories):
        count = len(trajectory.cot_ids)
        for name in ("logprob", "entropy"):
            plural = name.replace("y", "ie") + "s"
            expected = getattr(conditional, f"{name}_BT")[row].numpy()
            assert_close(getattr(trajectory, f"cot_{plural}"), expected[:count])
            recorded = getattr(trajectory, f"image_{plural}_conditional")
            assert_close(recorded, expected[longest:])
            expected = getattr(guided, f"{name}_BT")[row].numpy()[longest:]
            assert_close(getattr(trajectory, f"image_{plural}_guided"), expected, guidance_scale)


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_a_trajectory_is_the_same_in_any_batch(batch_size: int, guidance_scale: float) -> None:
    """Alone, in small batches that split groups, or with all others: same tokens, same records."""
    together = sample(guidance_scale=guidance_scale)
    apart = sample(batch_size=batch_size, guidance_scale=guidance_scale)
    assert len({len(t.image_prompt_ids) for t in together}) > 2, "nothing was padded"
    assert len({len(t.cot_ids) for t in together}) > 2, "no CoT ended before another"
    for found, expected in zip(apart, together, strict=True):
        assert_same(found, expected, guidance_scale)


def test_the_order_of_requests_does_not_matter() -> None:
    """Requests in reverse give the same groups in reverse, and trajectories keep their places."""
    forth, back = engine(), engine()
    groups = forth.generate(REQUESTS)
    for found, expected in zip(reversed(back.generate(REQUESTS[::-1])), groups, strict=True):
        assert found.prompt == expected.prompt
        for a, b in zip(found.trajectories, expected.trajectories, strict=True):
            assert_same(a, b, 1.0)
    assert [t.index_in_group for t in groups[0].trajectories] == [0, 1, 2, 3, 4]
    assert [t.seed for t in groups[2].trajectories] == list(REQUESTS[2].seeds)


def test_the_same_seeds_give_the_same_bits() -> None:
    """Two engines with the same weights, requests and batch layout agree in every array."""
    for a, b in zip(sample(guidance_scale=2.0), sample(guidance_scale=2.0), strict=True):
        for field in fields(Trajectory):
            assert np.array_equal(getattr(a, field.name), getattr(b, field.name)), field.name


def test_several_guidance_scales_at_once_give_the_bits_of_each_alone() -> None:
    """CoTs, which are drawn once, and images, also of groups that two batches share."""
    scales = (1.0, 2.0, 5.0)
    at_once = engine(batch_size=7).generate_at_scales(
        REQUESTS, [Sampling(scale, 1.0, CAP) for scale in scales]
    )
    for scale, groups in zip(scales, at_once, strict=True):
        alone = engine(batch_size=7).generate(REQUESTS, Sampling(scale, 1.0, CAP))
        assert [group.prompt for group in groups] == [group.prompt for group in alone]
        for found, expected in zip(groups, alone, strict=True):
            for a, b in zip(found.trajectories, expected.trajectories, strict=True):
                for field in fields(Trajectory):
                    name = field.name
                    assert np.array_equal(getattr(a, name), getattr(b, name)), name


def test_trajectories_of_a_group_differ() -> None:
    """Seeds are all that sets the members of a group apart, and they do."""
    trajectories = sample()[:5]
    assert len({t.cot_ids.tobytes() for t in trajectories}) == 5
    assert len({t.image_ids.tobytes() for t in trajectories}) == 5


def test_a_cot_ends_with_its_first_eos_or_at_the_cap() -> None:
    """EOS occurs once, at the end, and is part of the CoT; a CoT without it has the full length."""
    eos = tiny_encoder().special.eos
    trajectories = sample()
    for trajectory in trajectories:
        ends = np.flatnonzero(trajectory.cot_ids == eos)
        assert ends.tolist() in ([len(trajectory.cot_ids) - 1], [])
        assert len(ends) == 1 or len(trajectory.cot_ids) == CAP
        assert trajectory.num_tokens == len(trajectory.cot_logprobs) + 16
        assert "<" not in trajectory.cot_text
    assert {trajectory.cot_ids[-1] == eos for trajectory in trajectories} == {True, False}


def test_a_cap_of_one_token_is_enough() -> None:
    """The shortest possible CoT has one token, EOS or not, and the image follows."""
    (group,) = engine().generate(REQUESTS[:1], Sampling(1.0, 1.0, 1))
    assert all(len(trajectory.cot_ids) == 1 for trajectory in group.trajectories)


def test_without_a_cot_the_prompt_alone_asks_for_the_image() -> None:
    """A cap of 0 skips phase 1: its arrays are empty, and the image is drawn as for an image prompt
    that has no CoT and no text around it. The image noise is that of the seed."""
    (group,) = engine().generate(REQUESTS[1:2], Sampling(2.0, 1.0, 0))
    prompt_ids = tiny_encoder().image_prompt_ids(PROMPTS[1], None)
    words = tiny_encoder().tokenizer.decode(prompt_ids)
    assert words == (
        "<bos> <|User|> : a blue square above a small red circle <|Assistant|> : <begin_of_image>"
    )
    with torch.inference_mode():
        images = sample_images(
            tiny_policy(), tiny_encoder().special, [prompt_ids] * 5, REQUESTS[1].seeds,
            Sampling(2.0, 1.0, 0),
        )  # fmt: skip
    for row, trajectory in enumerate(group.trajectories):
        assert trajectory.cot_text == ""
        assert trajectory.num_tokens == 16
        for name in ("cot_prompt_ids", "cot_ids", "cot_logprobs", "cot_entropies"):
            assert len(getattr(trajectory, name)) == 0
        assert np.array_equal(trajectory.image_prompt_ids, prompt_ids)
        assert np.array_equal(trajectory.image_ids, images.ids[row])


def test_several_images_of_one_cot() -> None:
    """Each CoT is that of its seed in all its images. The first image is the one that a group of
    the same seeds has, and the others have noise of their own. Batches cut CoTs and images apart.
    """
    sampling = Sampling(2.0, 1.0, CAP)
    (single,) = engine().generate([GenerationRequest(PROMPTS[0], (7, 8, 9))], sampling)
    for batch_size in (64, 2):
        group = engine(batch_size).generate_per_cot(PROMPTS[0], (7, 8, 9), 4, sampling)
        assert [t.index_in_group for t in group.trajectories] == list(range(12))
        for place, expected in enumerate(single.trajectories):
            images = group.trajectories[4 * place : 4 * place + 4]
            assert_same(replace(images[0], index_in_group=place), expected, 2.0)
            assert len({t.image_ids.tobytes() for t in images}) == 4
            assert len({t.seed for t in images}) == 4
            for trajectory in images:
                assert np.array_equal(trajectory.cot_ids, expected.cot_ids)
                assert np.array_equal(trajectory.image_prompt_ids, expected.image_prompt_ids)


def test_a_longer_cap_only_goes_on() -> None:
    """Noise belongs to a position: a CoT cut at 6 tokens is the beginning of the one cut at 20."""
    short = engine().generate(REQUESTS, Sampling(1.0, 1.0, 6))
    for cut, group in zip(short, engine().generate(REQUESTS), strict=True):
        for a, b in zip(cut.trajectories, group.trajectories, strict=True):
            assert a.cot_ids.tolist() == b.cot_ids[:6].tolist()


def test_recorded_prompts_are_those_that_were_read() -> None:
    """Phase 2 reads the prompt with the sampled CoT as text, between BOS and begin-of-image."""
    encoder = tiny_encoder()
    for trajectory, prompt in zip(sample(), np.repeat(np.arange(3), 5), strict=True):
        text = encoder.cot_text(trajectory.cot_ids)
        assert trajectory.cot_text == text
        expected = encoder.image_prompt_ids(PROMPTS[prompt], text)
        assert trajectory.image_prompt_ids.tolist() == expected.tolist()
        assert (
            trajectory.cot_prompt_ids.tolist() == encoder.cot_prompt_ids(PROMPTS[prompt]).tolist()
        )


@torch.no_grad()
def test_each_phase_draws_from_its_own_noise() -> None:
    """First tokens are the quantiles of the seed's COT and IMAGE streams, which differ."""
    policy = tiny_policy()

    def first(prompt: np.ndarray, head: Callable[[Tensor], Tensor], phase: Phase, seed: int) -> int:
        ids = torch.from_numpy(prompt).long().unsqueeze(0)
        logits = head(policy.hidden_states(policy.embed_text(ids))[:, -1])
        return int(draw_tokens(logits.softmax(-1), token_noise([seed], phase, 1)[:, 0]))

    for t in sample():
        cot = first(t.cot_prompt_ids, policy.text_logits, Phase.COT, t.seed)
        image = first(t.image_prompt_ids, policy.image_logits, Phase.IMAGE, t.seed)
        assert (cot, image) == (t.cot_ids[0], t.image_ids[0])


def test_without_guidance_both_records_are_one() -> None:
    """At w = 1 the guided distribution is the conditional one, bit for bit, and there is no record
    without the prompt."""
    for t in sample(guidance_scale=1.0):
        assert len(t.image_logprobs_unconditional) == 0
        assert np.array_equal(t.image_logprobs_guided, t.image_logprobs_conditional)
        assert np.array_equal(t.image_entropies_guided, t.image_entropies_conditional)
    t = sample(guidance_scale=2.0)[0]
    assert not np.allclose(t.image_entropies_guided, t.image_entropies_conditional, atol=1e-3)


@torch.no_grad()
def test_entropies_are_shannon_entropies_in_nats() -> None:
    """-sum p log p in float64 from one unpadded, uncached row per trajectory (paper eq. 2)."""
    policy = tiny_policy()
    trajectory = sample()[7]
    prompt, tokens = trajectory.image_prompt_ids, trajectory.image_ids
    embeddings = torch.cat(
        [
            policy.embed_text(torch.from_numpy(prompt).long().unsqueeze(0)),
            policy.embed_image(torch.from_numpy(tokens[:-1]).long().unsqueeze(0)),
        ],
        dim=1,
    )
    hidden = policy.hidden_states(embeddings)[0, len(prompt) - 1 :]
    p = torch.softmax(policy.image_logits(hidden).double(), dim=-1).numpy()
    assert_close(trajectory.image_entropies_conditional, -(p * np.log(p)).sum(-1))
    assert trajectory.image_entropies_conditional.dtype == np.float32


def pooled_chisquare(tokens: np.ndarray, probability: np.ndarray) -> float:
    """p-value of the counts of ``tokens``; tokens expected fewer than 5 times count as one."""
    counts = np.bincount(tokens, minlength=len(probability)).astype(float)
    expected = probability / probability.sum() * len(tokens)
    rare = expected < 5
    pool = [*counts[~rare], counts[rare].sum()], [*expected[~rare], expected[rare].sum()]
    return float(chisquare(*(np.array(side)[np.array(pool[1]) > 0] for side in pool)).pvalue)


@pytest.mark.parametrize(("w", "temperature"), [(1.0, 1.0), (2.0, 1.0), (5.0, 2.0), (3.0, 0.8)])
@torch.no_grad()
def test_image_tokens_follow_the_guided_distribution(w: float, temperature: float) -> None:
    """2,000 seeds draw the first token from softmax((u + w (c - u)) / temperature).

    Chi-square at level 0.001 over the codes; the conditional distribution is refused (p < 1e-6).
    """
    policy, encoder = tiny_policy(), tiny_encoder()
    prompt = encoder.image_prompt_ids(PROMPTS[1], "a small red circle")
    c, u = (
        policy.image_logits(
            policy.hidden_states(policy.embed_text(torch.from_numpy(ids).long().unsqueeze(0)))
        )[0, -1].double()
        for ids in (prompt, unconditional_twin(prompt, encoder.special))
    )
    seeds = range(2000)
    found = sample_images(
        policy, encoder.special, [prompt] * len(seeds), seeds, Sampling(w, temperature, 1)
    )
    guided = torch.softmax((u + w * (c - u)) / temperature, dim=-1).numpy()
    assert pooled_chisquare(found.ids[:, 0], guided) > 0.001
    if w != 1.0:
        conditional = torch.softmax(c / temperature, dim=-1).numpy()
        assert pooled_chisquare(found.ids[:, 0], conditional) < 1e-6


@torch.no_grad()
def test_cot_tokens_follow_the_tempered_distribution() -> None:
    """2,000 seeds draw the first CoT token from softmax(logits / 1.5), chi-square at 0.001.

    No token is excluded: there is no top-k and no top-p.
    """
    policy, encoder = tiny_policy(), tiny_encoder()
    prompt = encoder.cot_prompt_ids(PROMPTS[0])
    hidden = policy.hidden_states(policy.embed_text(torch.from_numpy(prompt).long().unsqueeze(0)))
    probability = torch.softmax(policy.text_logits(hidden)[0, -1].double() / 1.5, dim=-1).numpy()
    seeds = range(2000)
    cots = sample_cots(policy, 2, [prompt] * len(seeds), seeds, Sampling(1.0, 1.5, 1))
    assert pooled_chisquare(np.array([cot.ids[0] for cot in cots]), probability) > 0.001


def test_images_are_the_decoded_tokens() -> None:
    """The pixels of a trajectory are the policy's decoding of its image tokens: uint8, H W 3."""
    policy = tiny_policy()
    for trajectory in sample()[:3]:
        (expected,) = policy.decode(torch.from_numpy(trajectory.image_ids).long().unsqueeze(0))
        assert trajectory.image.shape == (16, 16, 3)
        assert trajectory.image.dtype == np.uint8
        assert np.abs(trajectory.image.astype(int) - expected.astype(int)).max() <= 1


def test_identity_says_what_runs() -> None:
    """Sizes and settings of the policy in service, and weight version 0 before any push."""
    identity = engine().identity()
    assert (identity.engine, identity.dtype, identity.device) == ("transformers", "float32", "cpu")
    assert (identity.text_vocab_size, identity.num_codes, identity.image_grid) == (24, 32, (4, 4))
    assert 0 < identity.num_trained_parameters < identity.num_parameters
    assert identity.weight_version == 0


def test_no_request_gives_no_group() -> None:
    """The empty call is allowed."""
    assert engine().generate([]) == []

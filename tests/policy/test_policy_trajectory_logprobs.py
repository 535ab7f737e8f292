"""Teacher forcing: a trajectory's scores are its own, whatever it is batched with."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.small_models.random_janus import tiny_encoder, tiny_policy
from policy.distribution import logprob_entropy
from policy.probe import probe_logprobs, probe_trajectories
from policy.sequences import collate
from policy.trajectory_logprobs import trajectory_logprobs
from policy.types import Trajectory

SPECIAL = tiny_encoder().special
POLICY = tiny_policy()
NONE = np.zeros(0, dtype=np.float32)


def trajectory(cot_prompt: int, cot: int, image_prompt: int, seed: int) -> Trajectory:
    """Random ids of the given lengths."""
    rng = np.random.default_rng(seed)

    def text(count: int) -> np.ndarray:
        return rng.integers(7, 24, size=count, dtype=np.int32)

    return Trajectory(
        prompt_id="p", index_in_group=0, weight_version=0, seed=seed,
        cot_prompt_ids=np.append(np.int32(SPECIAL.bos), text(cot_prompt)),
        cot_ids=text(cot), cot_logprobs=NONE, cot_entropies=NONE, cot_text="",
        image_prompt_ids=np.concatenate([[1], text(image_prompt), [4]]).astype(np.int32),
        image_ids=rng.integers(32, size=16, dtype=np.int32),
        image_logprobs_conditional=NONE, image_entropies_conditional=NONE,
        image_logprobs_guided=NONE, image_entropies_guided=NONE,
        image=np.zeros((1, 1, 3), dtype=np.uint8),
    )  # fmt: skip


@torch.no_grad()
def scores(
    trajectories: list[Trajectory], temperature: float = 1.0, w: float | None = None
) -> tuple[Tensor, Tensor, int]:
    batch = collate(trajectories, SPECIAL)
    found = trajectory_logprobs(POLICY, batch, temperature, w)
    return found.logprob_BT, found.entropy_BT, batch.cot.mask_BT.shape[1]


@settings(max_examples=12, deadline=None)
@given(
    lengths=st.lists(
        st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(1, 12)), min_size=2, max_size=5
    ),
    guidance_scale=st.sampled_from([None, 2.0]),
)
def test_alone_equals_batched(
    lengths: list[tuple[int, int, int]], guidance_scale: float | None
) -> None:
    """Also with empty CoTs, to 1e-5; what pads a row is exactly zero."""
    rows = [trajectory(*length, seed=seed) for seed, length in enumerate(lengths)]
    logprob, entropy, longest = scores(rows, w=guidance_scale)
    for place, row in enumerate(rows):
        alone = scores([row], w=guidance_scale)
        count = len(row.cot_ids)
        for together, apart in ((logprob, alone[0]), (entropy, alone[1])):
            valid = torch.cat([together[place, :count], together[place, longest:]])
            torch.testing.assert_close(valid, apart[0], rtol=1e-5, atol=1e-5)
            assert not together[place, count:longest].any()


@torch.no_grad()
def test_scores_are_those_of_a_plain_forward_pass() -> None:
    """Log-softmax of the logits at the position before each token, in float64, to 1e-5."""
    row = trajectory(4, 5, 6, seed=0)
    logprob, entropy, _ = scores([row], temperature=1.5)
    ids = torch.from_numpy(np.append(row.cot_prompt_ids, row.cot_ids)).long().unsqueeze(0)
    logits = POLICY.text_logits(POLICY.hidden_states(POLICY.embed_text(ids)))[0, 4:9].double() / 1.5
    p = torch.softmax(logits, dim=-1).numpy()
    expected = np.log(p[np.arange(5), row.cot_ids])
    np.testing.assert_allclose(logprob[0, :5].numpy(), expected, rtol=1e-5, atol=1e-5)
    expected = -(p * np.log(p)).sum(-1)
    np.testing.assert_allclose(entropy[0, :5].numpy(), expected, rtol=1e-5, atol=1e-5)


def test_at_guidance_one_both_distributions_agree() -> None:
    """w = 1 and ``None`` are the same, bit for bit; w = 2 is not."""
    rows = [trajectory(4, 5, 6, seed=0)]
    assert torch.equal(scores(rows, w=1.0)[0], scores(rows)[0])
    assert not torch.allclose(scores(rows, w=2.0)[0], scores(rows)[0])


def test_logprob_and_entropy_of_literal_logits() -> None:
    """p = (1/2, 1/4, 1/4): log 1/2 and 1.5 log 2; one certain token: 0 and 0."""
    logits = torch.tensor([[2.0, 1.0, 1.0], [1.0, 0.0, 0.0]]).log()
    logprob, entropy = logprob_entropy(logits, torch.tensor([0, 0]))
    expected = np.log(2.0)
    torch.testing.assert_close(logprob, torch.tensor([-expected, 0.0]).float())
    torch.testing.assert_close(entropy, torch.tensor([1.5 * expected, 0.0]).float())


def test_entropies_are_float32_whatever_the_logits_are() -> None:
    """bfloat16 logits that differ have entropies that differ."""
    logits = torch.tensor([[0.0, 0.0, 4.0], [0.0, 0.0, 4.03125]], dtype=torch.bfloat16)
    _, entropy = logprob_entropy(logits, torch.tensor([0, 0]))
    assert entropy.dtype == torch.float32
    assert entropy[0] != entropy[1]


def test_the_probe_is_fixed_and_sees_the_trained_part() -> None:
    """The same sequences and numbers every time; any trained tensor that moves moves it."""
    first, second = (probe_trajectories(POLICY, SPECIAL)[1] for _ in range(2))
    assert np.array_equal(first.image_ids, second.image_ids)
    before = probe_logprobs(POLICY, SPECIAL)
    assert np.array_equal(probe_logprobs(tiny_policy(), SPECIAL), before)
    for name, _ in POLICY.trained_parameters():
        policy = tiny_policy()
        with torch.no_grad():
            dict(policy.trained_parameters())[name].mul_(1.5)
        assert not np.array_equal(probe_logprobs(policy, SPECIAL), before), name


@pytest.mark.parametrize("part", ["cot", "image", "unconditional"])
def test_collate_reads_each_token_at_the_place_that_predicts_it(part: str) -> None:
    """``source`` of token t is the position before it; the last token is never read."""
    rows = [trajectory(3, 2, 5, seed=0), trajectory(5, 4, 2, seed=1)]
    batch = collate(rows, SPECIAL)
    phase = getattr(batch, part)
    tree = batch.twin_tree if part == "unconditional" else batch.tree
    node_BL = tree.phases[1 if part == "image" else 0].node_BL
    for place, row in enumerate(rows):
        prompt = row.cot_prompt_ids if part == "cot" else row.image_prompt_ids
        tokens = row.cot_ids if part == "cot" else row.image_ids
        count = len(tokens)
        assert phase.mask_BT[place].tolist() == [True] * count + [False] * (
            phase.mask_BT.shape[1] - count
        )
        assert phase.target_BT[place, :count].tolist() == tokens.tolist()
        sources = phase.source_BT[place, :count]
        read = node_BL[place, : len(prompt) + count - 1]
        assert sources.tolist() == read[len(prompt) - 1 :].tolist()
        assert tree.position_P[read].tolist() == list(range(len(read)))
        expected = [1] + [0] * (len(prompt) - 2) + [4] if part == "unconditional" else prompt
        assert tree.ids_P[read].tolist() == [*expected, *tokens[:-1]]
        images = sum(node in tree.image_N for node in read)
        assert images == (0 if part == "cot" else count - 1)

"""softmax((u + w (c - u)) / T) in bfloat16: rollout and learner against the formula in float64.

Every expected value is of the very bfloat16 features that the code read, so what is left is the
rounding of float32. With guidance and temperature on features it is 0.1 nats here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.small_models.random_janus import PROMPTS, tiny_encoder, tiny_policy
from learner.logprob_module import entropy_kernel
from policy.distribution import guide, temper, wide_product
from policy.janus import JanusPolicy
from policy.sequences import collate
from policy.trajectory_logprobs import plain_kernel, trajectory_logprobs
from policy.tree_states import tree_states
from policy.types import Trajectory
from rollout.config import RolloutConfig
from rollout.engine import GenerationRequest
from rollout.transformers_engine import TransformersEngine

W, T = 5.0, 0.7
SPECIAL = tiny_encoder().special


def formula(
    features_ND: Tensor, head: nn.Linear, target_N: Any, twin_ND: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Log-probs of the targets and entropies, in float64."""

    def logits(of_ND: Tensor) -> Tensor:
        bias = 0.0 if head.bias is None else head.bias.double()
        return of_ND.double() @ head.weight.double().T + bias

    c = logits(features_ND)
    z = c if twin_ND is None else W * c + (1 - W) * logits(twin_ND)
    logprob_NV = (z / T).log_softmax(-1)
    target_N1 = torch.as_tensor(target_N).long()[:, None]
    return logprob_NV.gather(1, target_N1)[:, 0], -(logprob_NV.exp() * logprob_NV).sum(-1)


def assert_close(found: Any, expected: Tensor) -> None:
    torch.testing.assert_close(torch.as_tensor(found).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.fixture
def policy() -> JanusPolicy:
    return tiny_policy().to(torch.bfloat16)


@pytest.fixture
def read(policy: JanusPolicy, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Tensor]]:
    """What the two heads' last layers read, call by call."""
    found: dict[str, list[Tensor]] = {"cot": [], "image": []}
    features, logits = policy.image_features, policy.text_logits

    def image_features(hidden: Tensor) -> Tensor:
        found["image"].append(features(hidden))
        return found["image"][-1]

    def text_logits(hidden: Tensor) -> Tensor:
        found["cot"].append(hidden)
        return logits(hidden)

    monkeypatch.setattr(policy, "image_features", image_features)
    monkeypatch.setattr(policy, "text_logits", text_logits)
    return found


def sampled(policy: JanusPolicy) -> Trajectory:
    config = RolloutConfig(max_cot_tokens=12, guidance_scale=W, temperature=T)
    engine = TransformersEngine(policy, tiny_encoder(), config)
    (group,) = engine.generate([GenerationRequest(PROMPTS[0], (1,))])
    return group.trajectories[0]


def test_rollout_records_the_formula(policy: JanusPolicy, read: dict[str, list[Tensor]]) -> None:
    """Of one trajectory, token by token: CoT, conditional, guided and unconditional image records
    to 1e-5."""
    t = sampled(policy)
    logprob, entropy = formula(torch.cat(read["cot"]), policy.model.lm_head, t.cot_ids)
    assert_close(t.cot_logprobs, logprob)
    assert_close(t.cot_entropies, entropy)
    conditional_ND, twin_ND = torch.stack(read["image"]).unbind(1)
    head = policy.model.model.generation_head.vision_head
    logprob, entropy = formula(conditional_ND, head, t.image_ids)
    assert_close(t.image_logprobs_conditional, logprob)
    assert_close(t.image_entropies_conditional, entropy)
    logprob, entropy = formula(conditional_ND, head, t.image_ids, twin_ND)
    assert_close(t.image_logprobs_guided, logprob)
    assert_close(t.image_entropies_guided, entropy)
    logprob, _ = formula(twin_ND, head, t.image_ids)
    assert_close(t.image_logprobs_unconditional, logprob)


@pytest.mark.parametrize("kernel", [plain_kernel, entropy_kernel])
@torch.no_grad()
def test_teacher_forcing_scores_the_formula(
    policy: JanusPolicy,
    read: dict[str, list[Tensor]],
    kernel: Callable[..., tuple[Tensor, Tensor]],
) -> None:
    """The same with the learner's kernel and with the plain one, on what they are given to read."""
    batch = collate([sampled(policy)], SPECIAL)
    read["image"].clear()
    scores = trajectory_logprobs(policy, batch, T, W, kernel)
    cot_ND = tree_states(policy, batch.tree)[batch.cot.source_BT[0]]
    cot = formula(cot_ND, policy.model.lm_head, batch.cot.target_BT[0])
    head = policy.model.model.generation_head.vision_head
    image = formula(read["image"][0], head, batch.image.target_BT[0], read["image"][1])
    assert_close(scores.logprob_BT[0], torch.cat([cot[0], image[0]]))
    assert_close(scores.entropy_BT[0], torch.cat([cot[1], image[1]]))


def test_guidance_and_temperature_refuse_16_bits() -> None:
    """What is not yet a float32 logit is not guided or tempered by mistake. Literals in float32."""
    c, u = torch.tensor([3.0, -1.0]), torch.tensor([1.0, 2.0])
    assert guide(c, u, 5.0).tolist() == [11.0, -13.0]
    assert torch.equal(guide(c, u * 1e9, 1.0), c)  # u + (c - u) would have lost c
    assert guide(c, u, torch.tensor([1.0, 0.0])).tolist() == [3.0, 2.0]
    assert temper(c, 0.5).tolist() == [6.0, -2.0]
    for dtype in (torch.bfloat16, torch.float16):
        with pytest.raises(TypeError, match="float32 logits"):
            guide(c.to(dtype), u.to(dtype), 5.0)
        with pytest.raises(TypeError, match="float32 logits"):
            temper(c.to(dtype), 0.5)


def test_a_wide_product_in_blocks_is_the_product() -> None:
    """bfloat16 weights of 3,001 ids, more than are converted at a time: the product is
    that in float64 to 1e-5, and float32. Its gradients are right to the rounding of bfloat16."""
    generator = torch.Generator().manual_seed(0)
    left, weight = (
        torch.randn(count, 512, generator=generator).to(torch.bfloat16).requires_grad_()
        for count in (3, 3001)
    )
    product = wide_product(left, weight.T, torch.float32)
    assert product.dtype == torch.float32
    exact = left.double() @ weight.double().T
    torch.testing.assert_close(product.double(), exact, rtol=1e-5, atol=1e-4)
    factor = torch.randn(product.shape, generator=generator)
    found = torch.autograd.grad((product * factor).sum(), (left, weight))
    expected = torch.autograd.grad((exact * factor).sum(), (left, weight))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2)  # rounded to bfloat16

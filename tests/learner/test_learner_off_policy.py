"""The off-policy correction: which log-prob the ratio divides by, and what is weighed instead.

One token of advantage 1 in each trajectory, plain GRPO without a KL term, so that the gradient of a
token's log-prob is -(correction) / 4 and can be read off.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from benchmarks.trajectories import TINY_SPECIAL
from learner.algorithm.loss_metrics import Metrics, add_metrics, finish_metrics
from learner.algorithm.objective import BatchCounts
from learner.batch_loss import BatchSize, ShareSize, micro_batch_loss, recorded_ratio_metrics
from learner.config import AlgorithmConfig
from learner.micro_batches import TrainingTrajectory, micro_batch
from policy.types import Trajectory

PLAIN = dict(modalities="none", kl_beta=0.0)
RECORDED = (0.5, 0.25, 0.5, 0.125)  # probabilities of the four tokens at sampling
CURRENT = (0.5, 0.5, 0.7, 0.5)  # and in the learner: ratios 1, 2, 1.4 and 4
VERSIONS = (3, 3, 1, 2)  # two fresh trajectories and two stale ones, for weights of version 3


def trajectory(probability: float, version: int) -> Trajectory:
    """No CoT and one image token of that recorded probability."""
    logprob = np.log(np.array([probability], dtype=np.float32))
    empty = np.zeros(0, dtype=np.float32)
    ids = np.array([TINY_SPECIAL.bos, TINY_SPECIAL.begin_of_image], dtype=np.int32)
    return Trajectory(
        prompt_id="p",
        index_in_group=0,
        weight_version=version,
        seed=0,
        cot_prompt_ids=ids,
        cot_ids=ids[:0],
        cot_logprobs=empty,
        cot_entropies=empty,
        cot_text="",
        image_prompt_ids=ids,
        image_ids=np.array([1], dtype=np.int32),
        image_logprobs_conditional=logprob,
        image_entropies_conditional=logprob * 0.0,
        image_logprobs_guided=logprob,
        image_entropies_guided=logprob * 0.0,
        image=np.zeros((1, 1, 3), dtype=np.uint8),
    )


def corrections(
    rows: range = range(4), off_policy: bool = False, **algorithm: object
) -> tuple[list[float], Metrics]:
    """-4 times the gradient of each row's log-prob, and the metrics as sums."""
    items = [
        TrainingTrajectory(
            trajectory(RECORDED[row], VERSIONS[row]), 1.0, True, off_policy=off_policy
        )
        for row in rows
    ]
    batch = micro_batch(items, TINY_SPECIAL, 3, guided=False, device=torch.device("cpu"))
    logprob_BT = torch.tensor([[CURRENT[row]] for row in rows]).log().requires_grad_()
    loss, metrics = micro_batch_loss(
        batch,
        logprob_BT,
        None,
        torch.zeros_like(logprob_BT),
        AlgorithmConfig.model_validate(PLAIN | algorithm),
        BatchCounts(tokens=4, sequences=4),
        None,
    )
    loss.backward()
    assert isinstance(logprob_BT.grad, Tensor)
    return [-4 * float(value) for value in logprob_BT.grad[:, 0]], metrics


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [
        # Fresh tokens count 1. Stale ones count their ratio, and nothing above 1 + clip_high.
        (dict(), [1.0, 1.0, 0.0, 0.0]),
        (dict(clip_high=0.5), [1.0, 1.0, 1.4, 0.0]),
        (dict(clip_high=9.0), [1.0, 1.0, 1.4, 4.0]),
        # A cap weighs the fresh tokens by theirs, and leaves the stale ones their ratio.
        (dict(clip_high=9.0, importance_cap=1.5), [1.0, 1.5, 1.4, 4.0]),
        # The learner's own log-prob: the weight alone, fresh or stale, never above the cap.
        (dict(behaviour_logprob="learner", importance_cap=1.5), [1.0, 1.5, 1.4, 1.5]),
        (dict(behaviour_logprob="learner", importance_cap=9.0), [1.0, 2.0, 1.4, 4.0]),
    ],
    ids=str,
)
def test_each_setting_corrects_as_its_method_says(algorithm, expected):
    """The gradient of a token is that of PPO's clipped surrogate, or of min(weight, cap) times the
    policy gradient."""
    found, _ = corrections(**algorithm)
    assert found == pytest.approx(expected, rel=1e-6)


def test_decoupled_ppo_is_the_published_formula():
    """AReaL's objective, written out: pi_prox / pi_behaviour x clipped surrogate of pi / pi_prox,
    where pi_prox is the policy before the update. Its gradient by autograd is the learner's."""
    logprob_B = torch.tensor(CURRENT, dtype=torch.float64).log().requires_grad_()
    proximal_B = logprob_B.detach()
    weight_B = torch.exp(proximal_B - torch.tensor(RECORDED, dtype=torch.float64).log())
    ratio_B = torch.exp(logprob_B - proximal_B)
    surrogate_B = torch.minimum(ratio_B, ratio_B.clamp(0.8, 1.2))  # advantage 1
    (weight_B.clamp(max=3.0) * surrogate_B).sum().backward()
    found, _ = corrections(behaviour_logprob="learner", importance_cap=3.0)
    assert found == pytest.approx(logprob_B.grad.tolist(), rel=1e-6)


@pytest.mark.parametrize("cap", [1.5, 9.0])
def test_fresh_trajectories_are_trained_alike_by_both(cap):
    """To the bit: at staleness 0 the setting does not matter."""
    fresh = range(2)
    rollout, _ = corrections(fresh, importance_cap=cap)
    learner, _ = corrections(fresh, behaviour_logprob="learner", importance_cap=cap)
    assert rollout == learner


def test_trajectories_of_another_run_are_stale_whatever_their_version():
    """Two of four have the learner's version. Ratios 1, 2, 1.4 and 4, none above the bound."""
    found, _ = corrections(off_policy=True, clip_high=9.0)
    assert found == pytest.approx([1.0, 2.0, 1.4, 4.0], rel=1e-6)


def test_ratio_metrics_are_exact_however_the_batch_is_cut():
    """Ratios 1, 2, 1.4 and 4: three of four outside 0.9 to 1.1, whether the sums are of one
    micro-batch or of four. The third and the fourth are clipped at 1.2; without a ratio none is.
    Weights above the cap: of the fresh tokens alone, or of all."""
    whole = finish_metrics(corrections(importance_cap=1.5)[1])
    parts = [corrections(range(row, row + 1), importance_cap=1.5)[1] for row in range(4)]
    assert finish_metrics(add_metrics(parts)) == pytest.approx(whole, nan_ok=True)
    assert whole["ratio/mean"] == pytest.approx((1 + 2 + 1.4 + 4) / 4)
    assert (whole["ratio/outside"], whole["ratio/clipped"]) == (0.75, 0.5)
    assert whole["ratio/capped"] == 0.25
    learner = finish_metrics(corrections(behaviour_logprob="learner", importance_cap=1.5)[1])
    assert learner["ratio/mean"] == pytest.approx(whole["ratio/mean"])
    assert (learner["ratio/outside"], learner["ratio/clipped"]) == (0.75, 0.0)
    assert learner["ratio/capped"] == 0.5
    assert "ratio/capped" not in corrections()[1]


def test_ratios_that_cancel_in_the_mean_are_outside():
    """Mean 1 exactly, and half of the tokens far from it. The bounds belong to the inside, and what
    is no number does not."""
    ratio_N = torch.tensor([0.5, 1.5, 0.9, 1.1], dtype=torch.float64)
    row = finish_metrics(recorded_ratio_metrics(ratio_N))
    assert row == {"ratio/mean": pytest.approx(1.0), "ratio/outside": 0.5}
    odd = torch.tensor([0.9, 1.1, math.nan, math.inf], dtype=torch.float64)
    assert finish_metrics(recorded_ratio_metrics(odd))["ratio/outside"] == 0.5


def test_the_oldest_trajectory_of_any_rank_is_the_batch_s_staleness():
    """A rank without trajectories counts 0."""
    shares = [
        ShareSize(9, 2, 1, 1, stale=True),
        ShareSize(9, 2, 1, 4, stale=True),
        ShareSize(0, 0, 0, 0, stale=False),
    ]
    assert BatchSize.of(shares).staleness == 4


@pytest.mark.parametrize(
    ("algorithm", "reason"),
    [
        (dict(), "importance_cap\n  behaviour_logprob learner corrects stale rollouts by"),
        (dict(importance_cap=2.0, clip_low=0.1), "clip_low\n  has no effect with behaviour_"),
        (dict(importance_cap=2.0, clip_high=0.3), "clip_high\n  has no effect with behaviour_"),
        (dict(importance_cap=2.0, dual_clip=3.0), "dual_clip\n  has no effect with behaviour_"),
    ],
    ids=str,
)
def test_combinations_without_sense_are_refused(algorithm, reason):
    """Nothing would correct the stale rollouts, or a bound of a ratio that is always 1."""
    with pytest.raises(ValidationError, match=reason):
        AlgorithmConfig(behaviour_logprob="learner", **algorithm)

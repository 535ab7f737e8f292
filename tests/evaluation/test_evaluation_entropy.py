"""The entropy analyses: from trajectories to findings, with literal numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from evaluation.entropy_cots import (
    Thresholds,
    cot_findings,
    instability_findings,
    middle_prompt,
    variance_parts,
    variance_ratio,
)
from evaluation.entropy_samples import (
    CotTable,
    ImageTable,
    SampledImage,
    Vocabulary,
    cot_table,
    image_tables,
    sampled_images,
)
from evaluation.entropy_spread import spread_findings, stability_findings, token_findings
from evaluation.entropy_tokens import token_counts, token_tables
from evaluation.findings import Finding
from policy.types import Group, Prompt, Trajectory


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test of this file looks at the ends of an interval."""
    monkeypatch.setattr("evaluation.bootstrap.RESAMPLES", 10)


ROW = SampledImage(
    setting="GRPO", prompt_id="p:1", prompt="a red circle", task_type="color", cot=0, image=0,
    cot_tokens=3, cot_entropy_mean=0.5, cot_entropy_std=0.1, image_entropy_mean_guided=0.2,
    image_entropy_std_guided=0.05, image_entropy_mean_conditional=0.3,
    image_entropy_std_conditional=0.06, reward=1.0, of_rewards={},
)  # fmt: skip


def trajectory(index: int, cot: list[float], guided: list[float]) -> Trajectory:
    """With these entropies in nats; those of the conditional distribution are twice the guided."""
    none = np.zeros(0, np.float32)
    entropies = np.array(guided, np.float32)
    return Trajectory(
        prompt_id="p:1", index_in_group=index, weight_version=0, seed=index,
        cot_prompt_ids=none.astype(np.int32), cot_ids=np.zeros(len(cot), np.int32),
        cot_logprobs=none, cot_entropies=np.array(cot, np.float32), cot_text="",
        image_prompt_ids=none.astype(np.int32), image_ids=np.zeros(len(guided), np.int32),
        image_logprobs_conditional=none, image_entropies_conditional=2 * entropies,
        image_logprobs_guided=none, image_entropies_guided=entropies,
        image=np.zeros((1, 1, 3), np.uint8),
    )  # fmt: skip


def images(
    prompt: list[int], cot: list[int], reward: list[float], entropy: list[float] | None = None
) -> ImageTable:
    count = len(prompt)
    return ImageTable(
        "GRPO", np.array(prompt), np.array(cot), np.zeros(count),
        np.zeros(count) if entropy is None else np.array(entropy), np.array(reward),
    )  # fmt: skip


def found(findings: list[Finding], **wanted: object) -> Finding:
    (one,) = [f for f in findings if all(getattr(f, key) == wanted[key] for key in wanted)]
    return one


def test_entropies_are_normalised_by_their_vocabularies() -> None:
    """Nats over ln 4 for text and ln 16 for codes; means and deviations are over the tokens."""
    group = Group(
        Prompt("p:1", "a red circle", "color"),
        (
            trajectory(0, [math.log(4), 0.0], [math.log(2), math.log(4)]),
            trajectory(1, [math.log(4), 0.0], [0.0, 0.0]),
            trajectory(2, [], [math.log(16), math.log(16)]),
        ),
    )
    rewards = {"light": [1.0, None, 0.4], "square": [0.0, 0.3, 1.0]}
    totals, sizes = [0.5, None, 0.7], Vocabulary(text=4, codes=16)
    rows = sampled_images("GRPO", group, totals, rewards, 2, sizes)
    assert rows[1].of_rewards == {"light": None, "square": 0.3}
    assert [(row.cot, row.image) for row in rows] == [(0, 0), (0, 1), (1, 0)]
    first, _, last = rows
    assert first.cot_tokens == 2
    assert (first.cot_entropy_mean, first.cot_entropy_std) == pytest.approx((0.5, 0.5))
    assert first.image_entropy_mean_guided == pytest.approx(0.375)
    assert first.image_entropy_std_guided == pytest.approx(0.125)
    assert first.image_entropy_mean_conditional == pytest.approx(0.75)
    assert math.isnan(last.cot_entropy_mean)
    assert last.image_entropy_mean_guided == pytest.approx(1.0)
    assert [row.reward for row in rows] == [0.5, None, 0.7]


def test_a_table_has_the_scored_images_of_one_setting() -> None:
    """A prompt has the same number in both settings, and the entropies are those asked for."""
    rows = [
        ROW,
        replace(ROW, prompt_id="p:2", reward=None),
        replace(ROW, setting="EG-GRPO", prompt_id="p:2", cot_entropy_mean=math.nan, reward=0.0),
    ]
    grpo, eg_grpo = image_tables(rows, "conditional")
    assert (grpo.setting, grpo.prompt_S.tolist(), grpo.with_cot) == ("GRPO", [0], True)
    assert (eg_grpo.setting, eg_grpo.prompt_S.tolist(), eg_grpo.with_cot) == ("EG-GRPO", [1], False)
    assert grpo.image_entropy_S.tolist() == [0.3]
    assert image_tables(rows, "guided")[0].image_entropy_S.tolist() == [0.2]


def test_a_cot_has_the_mean_and_the_spread_of_its_images() -> None:
    """Entropies 0.1, 0.2, 0.3: unbiased deviation 0.1. A CoT with a single image is left out."""
    table = cot_table(
        images([0, 0, 0, 1, 2, 2], [3, 3, 3, 0, 0, 0], [1, 2, 6, 5, 0, 0],
               [0.1, 0.2, 0.3, 0.9, 0.4, 0.4])
    )  # fmt: skip
    assert (table.prompt_K.tolist(), table.cot_K.tolist()) == ([0, 2], [3, 0])
    np.testing.assert_allclose(table.entropy_K, [0.2, 0.4])
    np.testing.assert_allclose(table.spread_K("std"), [0.1, 0], atol=1e-12)
    np.testing.assert_allclose(table.spread_K("variance"), [0.01, 0], atol=1e-12)
    np.testing.assert_allclose(table.reward_K, [3, 0])


def test_only_stable_cots_count_in_figure_3() -> None:
    """Below the threshold reward falls with CoT entropy; the two unstable CoTs would hide it."""
    cots = CotTable(
        setting="GRPO", prompt_K=np.array([0, 0, 1, 1, 2]), cot_K=np.array([0, 1, 0, 1, 0]),
        cot_entropy_K=np.array([0.1, 0.2, 0.3, 0.4, 0.5]), entropy_K=np.zeros(5),
        std_K=np.array([0.010, 0.005, 0.0109, 0.011, 0.2]),
        reward_K=np.array([0.9, 0.8, 0.7, 5.0, 9.0]),
    )  # fmt: skip
    findings = cot_findings(images([0, 0], [0, 1], [1, 2]), cots, Thresholds())
    stable = found(findings, subset="std < 0.011", statistic="Pearson", within_prompts=False)
    assert (stable.count, stable.prompts) == (3, 2)
    assert stable.interval.value == pytest.approx(-1)
    every = found(findings, subset="variance < 0.011", statistic="Pearson", within_prompts=False)
    assert every.count == 4  # 0.2 squared is 0.04
    within = found(findings, subset="std < 0.011", statistic="Pearson", within_prompts=True)
    assert within.interval.value == pytest.approx(-1)


def test_the_ratio_of_variances() -> None:
    """Prompt 0: CoT means 2 and 6 around 4, squares 2 (4 + 4) = 16 for one degree of freedom;
    within, 1 + 1 + 1 + 1 = 4 for two. So 16 / 2 = 8. What a prompt adds changes nothing.
    """
    table = images([0, 0, 0, 0], [0, 0, 1, 1], [1, 3, 5, 7])
    parts = variance_parts(table)
    assert parts.tolist() == [[16, 1, 4, 2]]
    assert variance_ratio(parts) == 8
    shifted = images([0] * 4 + [1] * 4, [0, 0, 1, 1] * 2, [1, 3, 5, 7, 101, 103, 105, 107])
    assert variance_ratio(variance_parts(shifted)) == 8
    assert math.isnan(variance_ratio(variance_parts(images([0, 0], [0, 0], [1, 2]))))
    assert math.isnan(variance_ratio(variance_parts(images([0] * 4, [0, 0, 1, 1], [1, 1, 2, 2]))))


def test_cots_without_effect_have_a_ratio_of_one() -> None:
    """Rewards drawn alike for all CoTs: 400 prompts of 4 CoTs of 4 images, F within 10 % of 1."""
    prompt, cot = np.repeat(np.arange(400), 16), np.tile(np.repeat(np.arange(4), 4), 400)
    reward = np.random.default_rng(0).standard_normal(len(prompt))
    table = images(prompt.tolist(), cot.tolist(), reward.tolist())
    assert variance_ratio(variance_parts(table)) == pytest.approx(1, abs=0.1)


def test_the_prompt_that_is_shown_is_the_middle_one() -> None:
    """Ratios 8, 0 and 32, and one prompt without any: the prompt of 8."""
    table = images(
        [3] * 4 + [4] * 4 + [5] * 4 + [6] * 2,
        [0, 0, 1, 1] * 3 + [0, 0],
        [1, 3, 5, 7, 1, 3, 1, 3, 1, 3, 9, 11, 5, 6],
    )
    assert middle_prompt(table) == 3


def test_instability_by_bins() -> None:
    """Two bins of four CoTs: in the stable one entropy and reward rise together, in the unstable
    one they run against each other. The change from the first to the last bin is -2,
    although the two share no prompt.
    """
    std_K = np.array([0.01, 0.02, 0.01, 0.02, 0.05, 0.06, 0.05, 0.06])
    entropy_K = np.array([0.1, 0.2, 0.3, 0.4, 0.1, 0.2, 0.3, 0.4])
    reward_K = np.array([1.0, 2, 3, 4, 4, 3, 2, 1])
    prompt_K = np.array([0, 0, 1, 1, 2, 2, 3, 3])
    cots = CotTable("GRPO", prompt_K, np.arange(8), entropy_K, entropy_K, std_K, reward_K)
    findings = instability_findings(cots, Thresholds(bins=2))
    pearsons = [
        f for f in findings
        if f.figure == "4 middle" and f.statistic == "Pearson" and not f.within_prompts
    ]  # fmt: skip
    assert [f.interval.value for f in pearsons] == pytest.approx([1, -1, -2])
    assert [f.count for f in pearsons] == [4, 4, 8]
    every = found(findings, subset="all CoTs", statistic="Pearson", within_prompts=False)
    assert (every.count, every.interval.value) == (8, pytest.approx(0, abs=1e-12))
    right = found(findings, subset="std >= 0.03", statistic="Spearman", within_prompts=True)
    assert (right.count, right.interval.value) == (4, pytest.approx(-1))
    assert found(findings, subset="variance >= 0.03", statistic="Pearson",
                 within_prompts=False).count == 0  # fmt: skip


def test_stability_is_a_mean_over_cots_and_its_change_over_shared_prompts() -> None:
    """Spreads 0.1, 0.3 and 0.8: mean 0.4. The other setting has 0.5 and 0.6 for prompts 1 and 2, of
    which 1 is shared: 0.5 - 0.8 = -0.3."""
    zeros, first = np.zeros(3), np.array([0.1, 0.3, 0.8])
    grpo = CotTable("GRPO", np.array([0, 0, 1]), np.arange(3), zeros, zeros, first, zeros)
    other = CotTable("EG-GRPO", np.array([1, 2]), np.arange(2), zeros[:2], zeros[:2],
                     np.array([0.5, 0.6]), zeros[:2])  # fmt: skip
    findings = stability_findings([grpo, other])
    own = found(findings, setting="GRPO")
    assert (own.interval.value, own.count, own.prompts) == (pytest.approx(0.4), 3, 2)
    change = found(findings, setting="EG-GRPO", minus="GRPO")
    assert (change.interval.value, change.prompts) == (pytest.approx(-0.3), 1)


def test_spread_within_prompts_forgets_the_prompts() -> None:
    """Prompt means 0 and 10 widen the distribution; within prompts a deviation of 1.15 is left."""
    table = images([0, 0, 1, 1], [0] * 4, [0.0] * 4, [-1.0, 1.0, 9.0, 11.0])
    wider = replace(table, setting="EG-GRPO", image_entropy_S=2 * table.image_entropy_S)
    findings = spread_findings([table, wider])
    wanted = {"quantity": "image entropy", "statistic": "std", "minus": ""}
    whole = found(findings, **wanted, setting="GRPO", within_prompts=False)
    assert whole.interval.value == pytest.approx(math.sqrt(104 / 3))
    within = found(findings, **wanted, setting="GRPO", within_prompts=True)
    assert within.interval.value == pytest.approx(math.sqrt(4 / 3))
    change = found(
        findings, quantity="image entropy", statistic="mean", minus="GRPO", within_prompts=False
    )
    assert (change.setting, change.interval.value) == ("EG-GRPO", 5)


def test_token_moments_are_over_all_tokens() -> None:
    """Three tokens of two prompts: mean 0.4, variance 0.0467. Two settings differ by prompts that
    both have, and the tables of another modality in between do not count."""
    counts = [
        token_counts("GRPO", "p:1", "CoT", [np.array([0.2, 0.3]), np.zeros(0)]),
        token_counts("GRPO", "p:2", "CoT", [np.array([0.7])]),
        token_counts("GRPO", "p:1", "image", []),
        token_counts("EG-GRPO", "p:2", "CoT", [np.array([0.1, 1.00001, -1e-9])]),
    ]
    grpo, eg_grpo = token_tables(counts)
    assert (grpo.setting, grpo.modality, grpo.prompts) == ("GRPO", "CoT", ("p:1", "p:2"))
    assert (grpo.count_PB[:, 20].tolist(), grpo.count_PB.sum()) == ([1, 0], 3)
    assert (eg_grpo.count_PB[0, 0], eg_grpo.count_PB[0, -1]) == (1, 1)
    of_images = [replace(table, modality="image") for table in (grpo, eg_grpo)]
    findings = token_findings([grpo, of_images[0], eg_grpo, of_images[1]])
    assert {f.quantity for f in findings if f.minus} == {"CoT token entropy", "image token entropy"}
    findings = [finding for finding in findings if finding.quantity == "CoT token entropy"]
    mean = found(findings, setting="GRPO", minus="", statistic="mean")
    assert (mean.interval.value, mean.count) == (pytest.approx(0.4), 3)
    variance = found(findings, setting="GRPO", minus="", statistic="variance")
    assert variance.interval.value == pytest.approx((0.04 + 0.01 + 0.09) / 3)
    change = found(findings, setting="EG-GRPO", minus="GRPO", statistic="mean")
    assert change.interval.value == pytest.approx(1.10001 / 3 - 0.7)
    assert change.prompts == 1


def test_a_dataset_without_a_stable_cot_is_no_error() -> None:
    """No CoT, or one, leaves the correlations unknown."""
    none = CotTable("GRPO", *(np.zeros(0, np.int64),) * 2, *(np.zeros(0),) * 4)
    findings = instability_findings(none, Thresholds())
    findings += cot_findings(images([0], [0], [1]), none, Thresholds())
    assert {f.count for f in findings if f.figure != "3 right"} == {0}
    assert all(math.isnan(f.interval.value) for f in findings)

"""The registered experiments can be run, and are judged and shown as registered."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from benchmarks.experiments.arms import DISTILLED, ONE_TASK, SCALES, WORLDS, Arm
from benchmarks.experiments.distil import distil, divergence
from benchmarks.experiments.estimates import cosine, cross_product, projection
from benchmarks.experiments.figure import draw
from benchmarks.experiments.gradient import expected_kernel
from benchmarks.experiments.records import Records
from benchmarks.experiments.results import status, table, verdict
from benchmarks.experiments.studies import STUDIES, Expected, Study
from policy.checkpoint.loading import load_encoder, load_policy
from policy.distribution import guide
from policy.errors import UserError
from policy.prompts import load_prompts
from policy.sequences import collate
from rollout.config import RolloutConfig
from rollout.engine import GenerationRequest
from rollout.transformers_engine import TransformersEngine

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_every_registered_arm_is_a_configuration(tmp_path: Path) -> None:
    """The command of each arm has settings that `eg-grpo train` takes; names are unique."""
    cells = {arm.name: arm.cell(11) for study in STUDIES for arm in study.arms}
    assert len(cells) == 55
    for cell in cells.values():
        config = cell.config(tmp_path)
        assert config.folder == tmp_path / cell.name
        assert {sampling.guidance_scale for sampling in config.evaluation_samplings} == set(SCALES)
    settings = " ".join(cells["mixed-distilled-w1-grpo"].command(tmp_path))
    assert settings.endswith(f"model.path={tmp_path / DISTILLED.format(seed=11)}")
    one_task = [name for name in cells if name.startswith("one-task")]
    assert all(f"data.train={tmp_path / ONE_TASK}" in cells[n].command(tmp_path) for n in one_task)


def test_names_of_hypotheses_and_their_arms_are_registered() -> None:
    """A hypothesis compares two arms of its own study, and no two have one name."""
    names = [hypothesis.name for study in STUDIES for hypothesis in study.hypotheses]
    assert len(set(names)) == len(names)
    for study in STUDIES:
        for hypothesis in study.hypotheses:
            assert {hypothesis.arm, hypothesis.base} <= set(study.arms)


@pytest.mark.parametrize(
    ("differences", "expected", "judged"),
    [
        ([0.09, 0.10, 0.11, 0.10, 0.10], "greater", "holds"),
        ([0.09, 0.10, 0.11, 0.10, 0.10], "less", "contradicted"),
        ([0.00, 0.20, 0.10, 0.05, 0.15], "greater", "undecided"),  # 0.1 +- 0.163 at 99 %
        ([0.00, 0.01, -0.01, 0.00, 0.00], "equal", "holds"),
        ([0.09, 0.10, 0.11, 0.10, 0.10], "equal", "contradicted"),
        ([0.02, 0.03, 0.04, 0.03, 0.03], "equal", "undecided"),
        ([-0.02, -0.01, 0.0, -0.01, -0.01], "not less", "holds"),
        ([-0.09, -0.10, -0.11, -0.10, -0.10], "not less", "contradicted"),
    ],
)
def test_verdicts(differences: list[float], expected: Expected, judged: str) -> None:
    """Intervals of five seeds against 0 and against the margin of 0.03."""
    assert verdict(differences, expected) == judged


def _record(
    arm: Arm, seed: int, records: Records, reward: float, torch_version: str = "2.0"
) -> None:
    """What a finished run leaves."""
    evaluations = [
        {"set": name, "guidance_scale": scale, "reward/mean": reward}
        for name in ("seen", "held_out")
        for scale in SCALES
    ]
    run = {
        "evaluations": evaluations,
        "last_steps": {"kl/mean": 0.01, "entropy/image/std": reward / 2, "entropy/cot/std": None},
        "skipped_updates": seed % 2,
        "versions": {"torch": torch_version},
    }
    records.add(arm, seed, run)


def _record_arm(study: Study, number: int, rewards: Sequence[float], records: Records) -> None:
    for seed, reward in zip(study.seeds, rewards, strict=False):
        _record(study.arms[number], seed, records, reward)


def test_runs_of_different_versions_are_not_compared(tmp_path: Path) -> None:
    """One of the 20 runs was made with another torch."""
    study, records = STUDIES[0], Records(tmp_path / "results", tmp_path)
    _record(*study.before, records, 0.4)
    for number in range(4):
        _record_arm(study, number, [0.5, 0.5, 0.5, 0.5], records)
        _record(study.arms[number], study.seeds[4], records, 0.5, torch_version=f"2.{number // 3}")
    with pytest.raises(
        UserError, match=r'different versions .*: {"torch": "2.0"}; {"torch": "2.1"}'
    ):
        table(records)


def test_tables_and_figures_show_finished_studies_alone(tmp_path: Path) -> None:
    """19 of 20 runs are not reported, apart from their number; 20 are judged and drawn."""
    study, records = STUDIES[0], Records(tmp_path / "results", tmp_path)
    _record(*study.before, records, 0.4)
    _record_arm(study, 0, [0.50, 0.51, 0.52, 0.53, 0.54], records)
    _record_arm(study, 1, [0.60, 0.61, 0.63, 0.63, 0.64], records)
    _record_arm(study, 2, [0.60, 0.61, 0.62, 0.63], records)
    _record_arm(study, 3, [0.50, 0.51, 0.52, 0.53, 0.54], records)
    assert "Not yet measured: 19 of 20 runs are finished." in table(records)
    assert "GRPO |" not in table(records)
    assert draw(records, tmp_path) == []
    _record(study.arms[2], study.seeds[4], records, 0.64)
    assert all(other.before == study.before for other in STUDIES if "mixed" in other.before[0].name)
    text = table(records)
    assert "| before | - | 0.400 |" in text
    assert "| GRPO | 5 | 0.520 ± 0.020 |" in text
    assert "| EG-GRPO as-paper | 5 | 0.620 ± 0.020 |" in text
    assert (
        "| H1a | EG-GRPO as-code | GRPO | seen, w = 1 | greater | +0.102 ± 0.009 | holds |" in text
    )
    assert "| H1b | EG-GRPO as-code | GRPO | seen, w = 2 | less | +0.102 ± 0.009 | contrad" in text
    # One missing value is no mean; of five seeds three are odd.
    assert "| GRPO | 0.010 ± 0.000 | - | - | - | 0.260 ± 0.010 | - | 3 |" in text
    shown = status(records)
    assert "mixed-w2-conditional      20 of  20 runs" in shown
    assert "unguided                   5 of  20 runs" in shown  # they share the arm GRPO
    assert "all                       20 of 270 runs" in shown
    files = draw(records, tmp_path)
    assert [file.name for file in files] == ["guidance-mixed.png", "guidance-mixed.svg"]
    assert all(file.stat().st_size > 10_000 for file in files)


def test_products_of_expected_gradients_have_no_bias() -> None:
    """Pairs of different batches alone: 1*2, 1*6, 2*6 (each twice) have the mean 20 / 3, where the
    square of the mean, 9, counts the noise as well."""
    gradients_KP = torch.tensor([[1.0], [2.0], [6.0]])
    found = cross_product(gradients_KP, gradients_KP)
    assert found.value == pytest.approx(20 / 3)
    # Leaving one batch out gives 12, 6 and 2; the jackknife's variance is 2 * (their variance).
    variance = ((12 - 20 / 3) ** 2 + (6 - 20 / 3) ** 2 + (2 - 20 / 3) ** 2) / 3
    assert found.error == pytest.approx(math.sqrt(2 * variance))
    assert cosine(gradients_KP, -3 * gradients_KP).value == pytest.approx(-1)
    assert projection(-3 * gradients_KP, gradients_KP).value == pytest.approx(-3)


def test_the_expected_bonus_gradient_is_that_of_the_divergence() -> None:
    """The gradient of sum_a pi_w(a) log pi(a) is minus that of KL(pi_w || pi) with pi_w fixed, and
    zero without guidance."""
    torch.manual_seed(0)
    weight_VD, twin_ND = torch.randn(5, 3), torch.randn(2, 3)
    hidden_ND = torch.randn(2, 3, requires_grad=True)
    target_N = torch.tensor([4, 0])
    scales = {"temperature": 1.0, "guidance_scale": 3.0}
    logprob_N, expected_N = expected_kernel(
        hidden_ND, weight_VD, target_N, None, twin_ND=twin_ND, **scales
    )
    logits_NV = hidden_ND @ weight_VD.T
    sampled_NV = guide(logits_NV, twin_ND @ weight_VD.T, 3.0).softmax(-1).detach()
    divergence_N = (sampled_NV * (sampled_NV.log() - logits_NV.log_softmax(-1))).sum(-1)
    (ours,) = torch.autograd.grad(expected_N.sum(), hidden_ND)
    (theirs,) = torch.autograd.grad(divergence_N.sum(), hidden_ND)
    torch.testing.assert_close(ours, -theirs)
    torch.testing.assert_close(logprob_N, logits_NV.log_softmax(-1)[[0, 1], target_N])
    unguided_N = expected_kernel(hidden_ND, weight_VD, target_N, None, **scales)[1]
    (nothing,) = torch.autograd.grad(unguided_N.sum(), hidden_ND)
    torch.testing.assert_close(nothing, torch.zeros(2, 3), atol=1e-6, rtol=0)


def test_distillation_lowers_the_divergence_from_the_guided_policy(tmp_path: Path) -> None:
    """Three small steps; on new samples the student is nearer to the guided teacher than it was."""
    checkpoint, prompts = ROOT / WORLDS["mixed"], ROOT / "shapes" / "data" / "train.jsonl"
    distil(checkpoint, prompts, tmp_path / "student", 0, lambda *_: None, 3, prompts_per_step=1)
    teacher, student = (
        load_policy(folder, torch.float32) for folder in (checkpoint, tmp_path / "student")
    )
    encoder = load_encoder(checkpoint, "shapes")
    config = RolloutConfig(guidance_scale=2.0, max_cot_tokens=24)
    request = GenerationRequest(load_prompts(prompts)[-1], tuple(range(16)))
    (group,) = TransformersEngine(teacher, encoder, config).generate([request])
    batch = collate(group.trajectories, encoder.special)
    with torch.no_grad():
        before, after = (float(divergence(teacher, p, batch)) for p in (teacher, student))
    assert 0 < after < before

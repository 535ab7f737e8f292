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
from benchmarks.experiments.passes import passes
from benchmarks.experiments.records import Records
from benchmarks.experiments.results import choice, status, table, verdict
from benchmarks.experiments.studies import SCREENING, STUDIES, Expected, Study, confirmation
from orchestrator.settings.run_config import load_config
from orchestrator.settings.unchanged import settings_that_count
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
    assert len(cells) == 62
    for name, cell in cells.items():
        config = cell.config(tmp_path)
        assert config.folder == tmp_path / cell.name
        scales = {sampling.guidance_scale for sampling in config.evaluation_samplings}
        of_sampling = {config.rollout.guidance_scale}
        alone = name.endswith("-watched") or "lr0.0024" in name
        assert scales == (of_sampling if alone else set(SCALES))
    settings = " ".join(cells["mixed-distilled-w1-grpo"].command(tmp_path))
    assert settings.endswith(f"model.path={tmp_path / DISTILLED.format(seed=11)}")
    one_task = [name for name in cells if name.startswith("one-task")]
    assert all(f"data.train={tmp_path / ONE_TASK}" in cells[n].command(tmp_path) for n in one_task)


def test_the_shipped_recipe_is_the_arm_that_was_measured(tmp_path: Path) -> None:
    """``configs/unguided.yaml`` trains with the settings of H4's longer arm. It has more workers,
    which changes no number, and other evaluations."""
    (longer,) = {arm for study in STUDIES for arm in study.arms if arm.label.endswith("80 steps")}
    measured = settings_that_count(longer.cell(0).config(tmp_path))
    shipped = settings_that_count(load_config(Path("configs/unguided.yaml"), []))
    assert shipped["steps"] == longer.steps
    differ = {key for key in measured | shipped if measured.get(key) != shipped.get(key)}
    assert {key for key in differ if not key.startswith("evaluation.")} == {"rollout.workers"}


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
    for row in evaluations:
        row["by_task"] = {"color": 0.9, "object": reward, "spatial": 0.2, "numeracy": 0.4}
    run = {
        "evaluations": evaluations,
        "last_steps": {"kl/mean": 0.01, "entropy/image/std": reward / 2, "entropy/cot/std": None},
        "skipped_updates": seed % 2,
        "cpu_seconds": {"rollout": 60.0, "learn": 40.0, "evaluate": 900.0},
        "versions": {"torch": torch_version},
        "date": f"2026-11-{seed}",
        "machine": "a machine",
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
    text = table(records, tmp_path)
    reason = 'because versions of packages differ: {"torch": "2.0"}; {"torch": "2.1"}.'
    assert f"Not reported, {reason}" in text
    assert "| H1a |" not in text
    assert "Not yet measured: 5 of 20 runs are finished." in text  # other studies go on
    assert draw(records, tmp_path) == []


def test_tables_and_figures_show_finished_studies_alone(tmp_path: Path) -> None:
    """19 of 20 runs are not reported, apart from their number; 20 are judged and drawn."""
    study, records = STUDIES[0], Records(tmp_path / "results", tmp_path)
    _record(*study.before, records, 0.4)
    _record_arm(study, 0, [0.50, 0.51, 0.52, 0.53, 0.54], records)
    _record_arm(study, 1, [0.60, 0.61, 0.63, 0.63, 0.64], records)
    _record_arm(study, 2, [0.60, 0.61, 0.62, 0.63], records)
    _record_arm(study, 3, [0.50, 0.51, 0.52, 0.53, 0.54], records)
    assert "Not yet measured: 19 of 20 runs are finished." in table(records, tmp_path)
    assert "GRPO |" not in table(records, tmp_path)
    assert draw(records, tmp_path) == []
    _record(study.arms[2], study.seeds[4], records, 0.64)
    assert all(other.before == study.before for other in STUDIES if "mixed" in other.before[0].name)
    text = table(records, tmp_path)
    assert "| before | - | 0.400 |" in text
    assert "| GRPO | 5 | 0.520 ± 0.020 |" in text
    assert "| EG-GRPO as-paper | 5 | 0.620 ± 0.020 |" in text
    assert "20 runs of 2026-11-11 to 2026-11-15; a machine." in text
    verdicts = "H1a holds, H1b contradicted, H1c holds, H1d contradicted, H1e holds, H1f holds"
    title = "World mixed, sampled at w = 2, trained distribution conditional"
    assert f"| H1 | {title} | {verdicts} |" in text
    assert "| H2 | World mixed, sampled at w = 1 | not yet measured |" in text
    assert (
        "| H1a | EG-GRPO as-code | GRPO | seen, w = 1 | greater | +0.102 ± 0.009 | holds |" in text
    )
    assert "| H1b | EG-GRPO as-code | GRPO | seen, w = 2 | less | +0.102 ± 0.009 | contrad" in text
    # One missing value is no mean; of five seeds three are odd.
    assert "| GRPO | 0.010 ± 0.000 | - | - | - | 0.260 ± 0.010 | - | 3 |" in text
    shown = status(records)
    assert "mixed-w2-conditional      20 of  20 runs" in shown
    assert "unguided                   5 of  20 runs" in shown  # they share the arm GRPO
    assert "all                       20 of 348 runs" in shown
    assert "](guidance-mixed.svg)" not in text
    files = draw(records, tmp_path)
    assert "![Reward over the guidance scale of evaluation](guidance-mixed.svg)" in table(
        records, tmp_path
    )
    assert [file.name for file in files] == ["guidance-mixed.png", "guidance-mixed.svg"]
    assert all(file.stat().st_size > 10_000 for file in files)


def _study(name: str) -> Study:
    return next(study for study in STUDIES if study.name == name)


def _record_study(study: Study, rewards: dict[str, float], records: Records) -> None:
    """Arms get the reward of their label, with small differences of the seeds."""
    _record(*study.before, records, 0.4)
    for arm in study.arms:
        for place, seed in enumerate(study.seeds):
            _record(arm, seed, records, rewards[arm.label] + 0.01 * place)


def test_protection_is_judged_on_the_tasks_that_were_not_trained(tmp_path: Path) -> None:
    """H13 and H14 take the mean of three tasks without weights: of the reward, 0.2 and 0.4."""
    study, records = _study("one-task"), Records(tmp_path / "results", tmp_path)
    rewards = {arm.label: 0.6 if arm.label.startswith("low mask") else 0.3 for arm in study.arms}
    _record_study(study, rewards, records)
    text = table(records, tmp_path)
    assert "seen, w = 1, tasks color | seen, w = 1, tasks object, spatial, numeracy |" in text
    # The seeds add 0.02 on average: (0.62 + 0.2 + 0.4) / 3 and (0.32 + 0.2 + 0.4) / 3.
    assert "| low mask alone, learning rate 0.0006 | 5 | 0.900 ± 0.000 | 0.407 ± 0.007 |" in text
    assert "| GRPO, learning rate 0.0006 | 5 | 0.900 ± 0.000 | 0.307 ± 0.007 |" in text
    assert "| H13b | low mask alone, learning rate 0.0006 | GRPO, learning rate 0.0006 |" in text
    assert "tasks object, spatial, numeracy | greater | +0.100 ± 0.000 | holds |" in text
    assert "held-out, w = 1 | greater | +0.300 ± 0.000 | holds |" in text
    assert "| greater | +0.000 ± 0.000 | undecided |" in text  # H14


def test_reward_and_diversity_during_training(tmp_path: Path) -> None:
    """H18 is judged after ten and after twenty steps. All seeds are alike, but for 0.01 each."""
    study, records = _study("watched-plain-w1"), Records(tmp_path / "results", tmp_path)
    _record(*study.before, records, 0.4)
    base, code = study.arms
    assert code.evaluated_after() == (0, 10, 20, 30, 40)
    assert [str(outcome) for outcome in study.shown][:2] == [
        "seen, w = 1, step 10",
        "seen, w = 1, step 20",
    ]
    _record_study(study, {arm.label: 0.5 for arm in study.arms}, records)
    for arm in study.arms:
        for run in records.runs(arm).values():
            of_scale = [row for row in run["evaluations"] if row["guidance_scale"] == 1]
            run["evaluations"] = [
                row
                | {"step": step, "vendi": 3.5 - step / 100}
                | {"reward/mean": row["reward/mean"] + 0.2 * (arm is code and step == 10)}
                for row in of_scale
                for step in (0, 10, 20, 30, 40)
            ]
    text = table(records, tmp_path)
    assert "H18a holds, H18b undecided |" in text
    label = "| EG-GRPO as-code | 5 | 0.720 ± 0.020 | 0.520 ± 0.020 | 0.520 ± 0.020 |"
    assert label in text
    scores = "3.500 ± 0.000 | 3.400 ± 0.000 | 3.300 ± 0.000 | 3.200 ± 0.000 | 3.100 ± 0.000"
    assert f"| {base.label} | {scores} | -0.400 ± 0.000 |" in text
    assert f"| H18a | {code.label} | GRPO | seen, w = 1, step 10 | greater | +0.200 ± 0.0" in text


def test_costs_are_forward_passes_and_the_seconds_of_training(tmp_path: Path) -> None:
    """The preregistration's counts: 5, 10 and 6 passes an image, and 7 for one of distillation."""
    study, records = _study("unguided"), Records(tmp_path / "results", tmp_path)
    guided, paper, unguided, longer = study.arms
    images = 16 * 8
    assert passes(unguided) == 40 * images * 5
    assert passes(guided) == 40 * images * 10 == passes(longer)
    assert passes(paper) == 40 * images * 6
    assert passes(_study("recipes").arms[3]) == 40 * images * (7 + 5)
    _record_study(study, {arm.label: 0.5 for arm in study.arms}, records)
    # 0.52 after training and 0.4 before, in 60 + 40 seconds: 1.2 in 1,000 s.
    row = "| GRPO without guidance, 40 steps | 25,600 | 100 ± 0 | 60 ± 0 | 1.200 ± 0.196 |"
    assert row in table(records, tmp_path)


def test_the_screening_chooses_the_methods_of_the_confirmation(tmp_path: Path) -> None:
    """GRPO is no choice; before the screening is finished there is none."""
    records = Records(tmp_path / "results", tmp_path)
    with pytest.raises(UserError, match="study token-methods: Not yet measured: 0 of 15 runs"):
        choice(records)
    rewards = {"GRPO": 0.9, "top-entropy": 0.5, "similarity": 0.7, "contrast": 0.6, "critical": 0.4}
    _record_study(SCREENING, rewards, records)
    assert choice(records) == ("similarity", "contrast")
    (study,) = confirmation(choice(records))
    assert [arm.label for arm in study.arms] == ["GRPO", "similarity", "contrast"]
    assert study.seeds == (31, 32, 33, 34, 35, 36, 37, 38)
    judged = {h.name: (h.arm.label, h.base.label, str(h.outcome)) for h in study.hypotheses}
    assert judged == {
        "H15a": ("similarity", "GRPO", "seen, w = 2"),
        "H15b": ("similarity", "GRPO", "held-out, w = 2"),
        "H16a": ("contrast", "GRPO", "seen, w = 2"),
        "H16b": ("contrast", "GRPO", "held-out, w = 2"),
    }
    assert confirmation(()) == ()
    with pytest.raises(ValueError, match="expected two of top-entropy"):
        confirmation(("similarity",))


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

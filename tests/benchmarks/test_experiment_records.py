"""Runs of the experiments that were made in different ways cannot come into one table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.experiments import records as module
from benchmarks.experiments.arms import arm, distilled_arm, one_task_arm
from benchmarks.experiments.records import Records, protocol
from policy.errors import UserError

ROOT = Path(__file__).parents[2]
ARM = arm("mixed", 2.0, "conditional", "EG-GRPO as-code")
FILE = "mixed-w2-conditional-eg-grpo-as-code.jsonl"


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def _records(tmp_path: Path) -> Records:
    """As a new process finds them."""
    return Records(tmp_path / "results", tmp_path / "runs")


def _lines(tmp_path: Path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "results" / FILE).read_text().splitlines()]


def _write(tmp_path: Path, lines: list[dict]) -> None:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "results" / FILE).write_text(text)


def test_a_run_that_is_recorded_is_found_again(tmp_path: Path) -> None:
    """One line a run, sorted by seed; the first result of a seed stays."""
    assert _records(tmp_path).runs(ARM) == {}
    _records(tmp_path).add(ARM, 12, {"reward": 0.5})
    _records(tmp_path).add(ARM, 11, {"reward": 0.25})
    _records(tmp_path).add(ARM, 12, {"reward": 0.75})
    assert [line.get("seed") for line in _lines(tmp_path)] == [None, 11, 12]
    found = _records(tmp_path).runs(ARM)
    assert {seed: run["reward"] for seed, run in found.items()} == {11: 0.25, 12: 0.5}


def test_the_first_line_says_how_the_runs_are_made(tmp_path: Path) -> None:
    """It holds what affects numbers, and no place of a file."""
    head = protocol(ARM, tmp_path)
    settings = head["settings"]
    assert settings["rollout.guidance_scale"] == 2.0
    assert settings["algorithm.bonus"] == "capped"
    assert settings["learner.learning_rate"] == 1.5e-4
    assert settings["steps"] == 40
    assert settings["rewards.0.weight"] == 0.4
    assert set(head["inputs"]) == {
        "model", "data.train", "data.evaluation.seen", "data.evaluation.held_out",
    }  # fmt: skip
    assert str(tmp_path) not in json.dumps(protocol(distilled_arm(), tmp_path))
    assert protocol(distilled_arm(), tmp_path)["settings"]["distillation.learning_rate"] == 3e-4
    one_task = protocol(one_task_arm("GRPO", 6e-4), tmp_path)
    assert one_task["inputs"]["data.train"] != head["inputs"]["data.train"]


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (
            replace(ARM, settings=(*ARM.settings, "algorithm.kl_beta=0.02")),
            "1: setting algorithm.kl_beta was 0.01, now it is 0.02",
        ),
        (replace(ARM, steps=80), "1: setting steps was 40, now it is 80"),
        (replace(ARM, world="plain"), "1: digest of input model was "),
        (
            replace(ARM, settings=(*ARM.settings, "data.train=shapes/data/seen.jsonl")),
            "1: digest of input data.train was ",
        ),
    ],
)
def test_runs_that_were_made_in_another_way_are_refused(
    tmp_path: Path, changed: module.Arm, problem: str
) -> None:
    """Reading them and adding to them fail alike, with file, line and the difference."""
    _records(tmp_path).add(ARM, 11, {"reward": 0.5})
    before = _lines(tmp_path)
    for attempt in (
        lambda: _records(tmp_path).runs(changed),
        lambda: _records(tmp_path).add(changed, 12, {"reward": 0.5}),
    ):
        with pytest.raises(UserError) as raised:
            attempt()
        assert f"{FILE}:{problem}" in str(raised.value)
        assert str(raised.value).endswith("these runs cannot be mixed with new ones")
    assert _lines(tmp_path) == before


def test_another_version_of_the_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number that is counted up when the same settings give other numbers."""
    _records(tmp_path).add(ARM, 11, {"reward": 0.5})
    monkeypatch.setattr(module, "CODE", module.CODE + 1)
    with pytest.raises(UserError, match=r"jsonl:1: version of the code code was 2, now it is 3"):
        _records(tmp_path).runs(ARM)


def test_a_setting_that_is_new_counts_as_its_default(tmp_path: Path) -> None:
    """Records of a version that lacked a setting are read, unless the arm sets it now."""
    _records(tmp_path).add(ARM, 11, {"reward": 0.5})
    head, run = _lines(tmp_path)
    for key, problem in (
        ("algorithm.dual_clip", None),
        ("rollout.guidance_scale", "rollout.guidance_scale was None, now it is 2.0"),
    ):
        older = head | {"settings": {k: v for k, v in head["settings"].items() if k != key}}
        _write(tmp_path, [older, run | {"protocol": module._digest(older)}])
        if problem is None:
            assert set(_records(tmp_path).runs(ARM)) == {11}
            continue
        with pytest.raises(UserError) as raised:
            _records(tmp_path).runs(ARM)
        assert problem in str(raised.value)


def test_a_line_from_elsewhere_is_refused(tmp_path: Path) -> None:
    """A line of another file, a seed that is there twice, and half a line."""
    _records(tmp_path).add(ARM, 11, {"reward": 0.5})
    head, run = _lines(tmp_path)
    _write(tmp_path, [head, run, run | {"seed": 12, "protocol": "0123456789abcdef"}])
    with pytest.raises(UserError, match=r"jsonl:3: the run was not made as line 1 says"):
        _records(tmp_path).runs(ARM)
    _write(tmp_path, [head, run, run])
    with pytest.raises(UserError, match=r"jsonl:3: seed 11 is there twice"):
        _records(tmp_path).runs(ARM)
    _write(tmp_path, [head, run])
    file = tmp_path / "results" / FILE
    file.write_text(file.read_text() + '{"seed": 12')
    with pytest.raises(UserError, match=r"jsonl:3: the last line is cut off"):
        _records(tmp_path).runs(ARM)


def test_the_records_of_the_repository_can_be_read() -> None:
    """What is committed was made as the code would make it now."""
    from benchmarks.experiments.results import status
    from benchmarks.experiments.studies import STUDIES

    folder = ROOT / "docs" / "experiments" / "results"
    records = Records(folder, ROOT / "runs" / "experiments")
    arms = {arm.name: arm for study in STUDIES for arm in (*study.arms, study.before[0])}
    seeds = {seed for study in STUDIES for seed in study.seeds}
    assert {file.stem for file in folder.glob("*.jsonl")} <= set(arms)
    for registered in arms.values():
        assert set(records.runs(registered)) <= seeds
    assert "348 runs" in status(records)

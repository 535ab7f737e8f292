"""Runs of the experiments compute what ``eg-grpo train`` computes, and are recorded one by one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from benchmarks.experiments import running
from benchmarks.experiments.arms import Arm, arm
from benchmarks.experiments.records import Records
from benchmarks.experiments.running import METRICS, _of_steps
from benchmarks.experiments.training import Training
from orchestrator.record.run_folder import read_rows
from policy.checkpoint.loading import check_checkpoint
from policy.digest import sha256
from policy.errors import UserError
from tests.command_line import command_on_test_cluster

ROOT = Path(__file__).parents[2]
SMALL = (
    "prompts_per_step=3",
    "rollout.batch_size=16",  # two batches a step
    "evaluation.prompts=3",
    "evaluation.guidance_scales=[1.0, 2.0]",
)


def _small(full: Arm, steps: int) -> Arm:
    return replace(full, steps=steps, settings=(*full.settings, *SMALL))


@pytest.mark.slow
@pytest.mark.cluster
def test_a_run_without_ray_has_the_bits_of_one_with_it(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All evaluations, what learner and rewards report of each step, and the weights.

    ``eg-grpo train`` has a process for each role, and here all of them share one. Guidance falls
    from step to step, and the bonus needs the whole batch.
    """
    monkeypatch.chdir(ROOT)
    full = arm("mixed", 2.0, "conditional", "EG-GRPO as-paper")
    falling = replace(full, settings=(*full.settings, "rollout.final_guidance_scale=1"))
    cell = replace(_small(falling, steps=3), every=1).cell(1)
    program, *_ = words = cell.command(tmp_path)
    assert words[:3] == [program, "-m", "orchestrator"]
    command_on_test_cluster(*words[3:])
    folder = tmp_path / cell.name

    training = Training(cell.config(tmp_path / "alone"))
    evaluations = []

    def evaluate(step: int) -> None:
        evaluations.extend({"step": step} | row for row, _ in training.evaluate())

    evaluate(0)
    steps = training.train(3, evaluate)
    weights = dict(training._rank._model.model_tensors())
    training.close()

    rows = read_rows(folder / "evaluations.jsonl")
    # Between the ends ``eg-grpo train`` evaluates one set, here the held-out one.
    assert [row["step"] for row in rows] == [*[0] * 4, 1, 1, 2, 2, *[3] * 4]
    ours = [e for e in evaluations if e["step"] in (0, 3) or e["set"] == "held_out"]
    assert ours == rows
    for ours, theirs in zip(steps, read_rows(folder / "metrics.jsonl"), strict=True):
        assert ours == {key: theirs[key] for key in ours}
        assert {"loss", "grad_norm", "kl/mean", "reward/mean"} <= set(ours)
    saved = load_file(folder / "checkpoints" / "step-3" / "model" / "model.safetensors")
    assert len(saved) > 20
    assert all(weights[name].equal(tensor) for name, tensor in saved.items())


def test_a_step_without_a_value_enters_no_mean() -> None:
    """A step that is not finite has null in its row; a metric that no step has is null."""
    rows = [{"kl/mean": 9.0}] + [{"kl/mean": 0.1, "updates/skipped": 0} for _ in range(9)]
    rows.append({"kl/mean": None, "updates/skipped": 1})
    found = _of_steps(rows)
    assert found["last_steps"]["kl/mean"] == pytest.approx(0.1)
    assert found["counted"]["kl/mean"] == 9
    assert found["last_steps"]["guidance/logprob_gap"] is None
    assert found["skipped_updates"] == 1


def test_runs_that_could_not_be_compared_are_not_begun(tmp_path: Path) -> None:
    """One seed is recorded with another torch, and the other one is not recorded."""
    records, made = (
        Records(tmp_path / "results", tmp_path),
        arm("mixed", 1.0, "conditional", "GRPO"),
    )
    here = running._versions()
    records.add(made, 11, {"versions": here})
    records.add(made, 12, {"versions": here | {"torch": "2.0"}})
    with pytest.raises(UserError) as raised:
        running.run_all([(made, 11), (made, 12), (made, 13)], records, tmp_path, 1)
    assert str(raised.value) == (
        "mixed-w1-conditional-grpo-s12 was recorded with torch 2.0, and here is"
        f" {here['torch']}: install that version, or delete the records"
    )
    assert running.run_all([(made, 11), (made, 12)], records, tmp_path, 1) == 0  # nothing to run


_RUN = """
import sys
from dataclasses import replace
from pathlib import Path
from benchmarks.experiments.arms import arm, before_arm
from benchmarks.experiments.records import Records
from benchmarks.experiments import running as module
from policy.errors import RunFailed

def small(full, steps):
    return replace(full, steps=steps, settings=(*full.settings, *{small!r}))

root = Path(sys.argv[1])
good = replace(small(arm("plain", 1.0, "conditional", "GRPO"), 2), every=1)
before = small(before_arm("plain"), 0)
bad = small(arm("mixed", 2.0, "conditional", "GRPO"), 1)
bad = replace(bad, settings=(*bad.settings, "rewards.0.factory=shapes.rewards:Nothing"))
wanted = [(before, 11), (good, 11), (good, 12), (bad, 11)]
if sys.argv[2:] == ["nothing but bad ones"]:
    wanted = [(replace(bad, name=f"bad-{{number}}"), 11) for number in range(6)]
records = Records(root / "results", root / "runs")
module.kept.WEIGHTS_KEPT = [good]
try:
    if sys.argv[2:] == ["weights"]:
        sys.exit(module.make_weights(records, root / "runs", 2))
    sys.exit(module.run_all(wanted, records, root / "runs", 2))
except RunFailed as error:
    print(error)
"""


def _run(root: Path, *more: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", _RUN.format(small=SMALL), root, *more],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
        env=os.environ | {"DS_ACCELERATOR": "cpu"},
    )  # fmt: skip
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


@pytest.mark.slow
def test_finished_runs_are_recorded_and_the_others_run_again(tmp_path: Path) -> None:
    """Of four runs one fails, which is named with its log. A second call runs that one alone."""
    failed, said = _run(tmp_path)
    assert failed == 1
    assert said[0] == "0 of 4 runs are recorded"
    log = tmp_path / "runs" / "mixed-w2-conditional-grpo-s11.log"
    assert f"mixed-w2-conditional-grpo-s11: failed, see {log}" in said
    assert "has no 'Nothing'" in log.read_text()
    file = tmp_path / "results" / "plain-w1-conditional-grpo.jsonl"
    first = file.read_text()
    _, *runs = map(json.loads, first.splitlines())
    assert [run["seed"] for run in runs] == [11, 12]
    for run in runs:
        assert [row["step"] for row in run["evaluations"]] == [0] * 4 + [1] * 4 + [2] * 4
        assert all(1 < row["vendi"] < 4 for row in run["evaluations"])
        assert all(row["detail/structure/strict"] is not None for row in run["evaluations"])
        assert run["weights"]["first"] != run["weights"]["last"]
        assert run["counted"] == dict.fromkeys(METRICS, 2)
        assert run["last_steps"]["guidance/logprob_gap"] == 0
        assert run["skipped_updates"] == 0
        assert {"rollout", "reward", "learn", "evaluate"} <= set(run["cpu_seconds"])
        assert run["versions"]["torch"]
        assert len(run["commit"].split()[0]) in (7, 40)
    (before,) = map(
        json.loads, (tmp_path / "results" / "plain-before.jsonl").open().readlines()[1:]
    )
    assert [row["step"] for row in before["evaluations"]] == [0] * 4
    assert before["evaluations"] == runs[0]["evaluations"][:4]  # the seed of training changes none
    assert before["weights"]["first"] == before["weights"]["last"] == runs[0]["weights"]["first"]

    failed, said = _run(tmp_path)
    assert failed == 1
    assert said[0] == "3 of 4 runs are recorded"
    assert len(said) == 2
    assert file.read_text() == first

    _weights_are_made_again(tmp_path, runs)

    _, said = _run(tmp_path, "nothing but bad ones")
    assert said[0] == "0 of 6 runs are recorded"
    # Three arms that fail in a row may be the fault of their study; with a fourth one it is not.
    assert said[-1] == "4 runs in a row failed, so no others are begun"


def _weights_are_made_again(root: Path, runs: list[dict]) -> None:
    """The weights of one run are lost, and the record of the other says that it had others."""
    folders = [root / "runs" / "weights" / f"plain-w1-conditional-grpo-s{s}" for s in (11, 12)]
    files = [folder / "model" / "model.safetensors" for folder in folders]
    assert [sha256(file) for file in files] == [run["weights"]["file"] for run in runs]
    assert check_checkpoint(files[0].parent) is None  # raises
    shutil.rmtree(folders[0])
    records = root / "results" / "plain-w1-conditional-grpo.jsonl"
    text = records.read_text()
    records.write_text(text.replace(runs[1]["weights"]["last"], "0123"))
    files[1].write_bytes(b"other weights")
    failed, said = _run(root, "weights")
    assert failed == 1
    assert said[0] == "weights of 2 recorded runs are not here"
    assert "plain-w1-conditional-grpo-s12: failed, see" in "".join(said)
    assert (
        "the weights were {'first': "
        in (folders[1].parents[1] / f"{folders[1].name}.log").read_text()
    )
    assert sha256(files[0]) == runs[0]["weights"]["file"]
    records.write_text(text)

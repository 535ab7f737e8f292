"""Kept trajectories in real runs: a replay, a run without a learner, and a run that goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command_line import ONE_REWARD, command_on_test_cluster, train_on_test_cluster
from tests.training_records import of_the_learner, rows, untimed, weights_digest

TINY = (
    "prompts_per_step=2 rollout.group_size=3 rollout.workers=1 rollout.batch_size=8"
    " learner.micro_batch_size=4 learner.learning_rate=1e-3 learner.warmup_steps=0"
    " checkpoint.every=1 data.evaluation={}"
    f" {ONE_REWARD}"
).split()
pytestmark = [pytest.mark.slow, pytest.mark.cluster]


@pytest.fixture(scope="module")
def original(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps, all kept."""
    return train_on_test_cluster(
        tmp_path_factory.mktemp("runs"), "one", *TINY, "steps=3", "trajectories.keep_steps=3"
    )


def test_a_replay_ends_with_the_weights_of_the_run(original: Path) -> None:
    """Trained by the learner alone on what was kept: equal weights to the last bit, equal rows,
    and a report. Begun with --resume, ended after two steps and given again, it trains the third
    step alone, here as `train` on its own settings. Given once more, nothing is left to do."""
    arguments = ("replay", original, "--resume", "learner.schedule=constant")
    run = original.parent / "one-replay"
    command_on_test_cluster(*arguments, "steps=2")
    assert [row["step"] for row in rows(run)] == [1, 2]
    out = command_on_test_cluster("train", run / "config.yaml", "--resume", "steps=3")
    assert out == f"checkpoint: {run / 'checkpoints' / 'step-3'}\nreport: {run / 'report.html'}\n"
    assert weights_digest(run, 3) == weights_digest(original, 3)
    assert untimed(run) == of_the_learner(untimed(original))
    assert rows(run)[2].keys() >= {"time", "seconds/learn", "seconds/step"}
    assert "seconds/rollout" not in rows(run)[2]
    assert command_on_test_cluster(*arguments).startswith(
        f"{run} has replayed all kept steps; its last"
    )


def test_rollout_alone_keeps_what_a_learner_can_train_on(original: Path) -> None:
    """Without a learner the first step is that of the run, and every later one is sampled from the
    same weights. The rows have nothing of an update, and no checkpoint is written. A run that goes
    on keeps what it has sampled. A run of the learner alone, with other settings, trains on them,
    and says how stale they are."""
    root = original.parent
    settings = [*TINY, "trajectories.keep_steps=2", "stages=rollout"]
    run = train_on_test_cluster(root, "alone", *settings, "steps=1")
    sampled = {file: file.stat() for file in (run / "trajectories" / "step-000001").iterdir()}
    train_on_test_cluster(root, "alone", *settings, "steps=2", "--resume")
    assert {file: file.stat() for file in sampled} == sampled
    assert not list((run / "checkpoints").glob("step-*"))
    first, second = rows(run)
    assert first["reward/mean"] == rows(original)[0]["reward/mean"]
    assert (first["weight_version"], second["weight_version"]) == (0, 0)
    absent = {"loss", "grad_norm", "learning_rate", "kl/mean", "staleness/mean"}
    assert not absent & (first.keys() | second.keys())
    assert (run / "report.html").is_file()
    alone = ["stages=learner", f"trajectories.replay={run}", "name=later"]
    command_on_test_cluster("train", run / "config.yaml", *alone, "learner.learning_rate=1e-4")
    replayed = rows(root / "later")
    assert [row["staleness/mean"] for row in replayed] == [0, 1]
    assert [row["learning_rate"] for row in replayed] == [1e-4, 1e-4]
    assert replayed[1]["kl/mean"] > 0  # the first step has moved the weights
    assert (root / "later" / "checkpoints" / "step-2" / "manifest.json").is_file()

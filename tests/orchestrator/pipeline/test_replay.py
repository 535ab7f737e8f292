"""Kept trajectories in real runs: a replay, a run without a learner, and a run that keeps none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command_line import ONE_REWARD, command_on_test_cluster, train_on_test_cluster
from tests.killed_runs import STEPS, has_the_bits_of, killed_and_resumed
from tests.training_records import kept, of_the_learner, rows, untimed, weights_digest

TINY = (
    "prompts_per_step=2 rollout.group_size=3 rollout.workers=1 rollout.batch_size=8"
    " learner.micro_batch_size=4 learner.learning_rate=1e-3 learner.warmup_steps=0"
    " checkpoint.every=1 data.evaluation={}"
    f" {ONE_REWARD}"
).split()
pytestmark = [pytest.mark.slow, pytest.mark.cluster]


@pytest.fixture(scope="module")
def original(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four steps, all kept."""
    root, steps = tmp_path_factory.mktemp("runs"), f"steps={STEPS}"
    run = train_on_test_cluster(root, "one", *TINY, steps, f"trajectories.keep_steps={STEPS}")
    assert len(kept(run)) == 3 * STEPS  # two groups and the numbers of each step
    return run


def test_a_replay_ends_with_the_weights_of_the_run(original: Path) -> None:
    """Trained by the learner alone on what was kept: equal weights to the last bit, equal rows,
    and a report. Begun with --resume, ended after three steps and given again, it trains the fourth
    step alone, here as `train` on its own settings. Given once more, nothing is left to do."""
    arguments = ("replay", original, "--resume", "learner.schedule=constant")
    run = original.parent / "one-replay"
    command_on_test_cluster(*arguments, "steps=3")
    assert [row["step"] for row in rows(run)] == [1, 2, 3]
    out = command_on_test_cluster("train", run / "config.yaml", "--resume", "steps=4")
    assert out == f"checkpoint: {run / 'checkpoints' / 'step-4'}\nreport: {run / 'report.html'}\n"
    assert weights_digest(run, 4) == weights_digest(original, 4)
    assert untimed(run) == of_the_learner(untimed(original))
    assert rows(run)[3].keys() >= {"time", "seconds/learn", "seconds/step"}
    assert "seconds/rollout" not in rows(run)[3]
    assert command_on_test_cluster(*arguments).startswith(
        f"{run} has replayed all kept steps; its last"
    )


def test_rollout_alone_keeps_what_a_learner_can_train_on(original: Path) -> None:
    """Without a learner the first step is that of the run, and every later one is sampled from the
    same weights. The rows have nothing of an update, and no checkpoint is written. A run that goes
    on keeps what it has sampled. A replay with other settings trains on them, and says how stale
    they are."""
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
    command_on_test_cluster("replay", run, "name=later", "learner.learning_rate=1e-4")
    replayed = rows(root / "later")
    assert [row["staleness/mean"] for row in replayed] == [0, 1]
    assert [row["learning_rate"] for row in replayed] == [1e-4, 1e-4]
    assert replayed[1]["kl/mean"] > 0  # the first step has moved the weights
    assert (root / "later" / "checkpoints" / "step-2" / "manifest.json").is_file()


@pytest.mark.timeout(1800)
def test_a_run_that_keeps_nothing_and_is_killed_has_the_bits_of_the_run(
    original: Path, tmp_path: Path
) -> None:
    """One rank: every process of the run is killed, and it goes on. It keeps no trajectory. Every
    file of its last checkpoint, weights and optimizer state alike, and every row of metrics but for
    its times are equal to the bit to those of the run that keeps all and is not killed. Two ranks
    are in ``test_resume.py``."""
    struck = killed_and_resumed(tmp_path, *TINY, f"steps={STEPS}")
    assert kept(struck) == {}
    has_the_bits_of(struck, original)

"""Kept trajectories in real runs: a replay, a run without a learner, and a run that goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from policy.types import JsonDict
from tests.command_line import command, train
from tests.training_records import kept, rows, untimed, weights_digest

TINY = (
    "prompts_per_step=2 rollout.group_size=3 rollout.workers=1 rollout.batch_size=8"
    " learner.micro_batch_size=4 learner.learning_rate=1e-3 learner.warmup_steps=0"
    " learner.ranks=2 learner.cpus_per_rank=0.5 checkpoint.every=1 data.evaluation={}"
    " cluster.object_store_mb=128"
).split()
# What a replay cannot know, besides the times that ``untimed`` leaves out.
OF_WORKERS = ("probe/gap", "scoring/", "workers/", "evaluation/")

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


def of_the_learner(rows: list[JsonDict]) -> list[JsonDict]:
    """The rows without what only rollout and reward workers can tell.

    Failures of rewards are numbers of the kept scores, and so a replay knows them.
    """
    return [
        {
            key: value
            for key, value in row.items()
            if not key.startswith(OF_WORKERS) or key.endswith("/failed")
        }
        for row in rows
    ]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps by two learner ranks, all kept."""
    return train(
        tmp_path_factory.mktemp("runs"), "one", *TINY, "steps=3", "trajectories.keep_steps=3"
    )


def test_a_replay_ends_with_the_weights_of_the_run(original: Path) -> None:
    """Trained by the learner alone on what was kept: equal weights to the last bit, equal rows,
    and a report."""
    out = command("replay", original)
    run = original.parent / "one-replay"
    assert out == f"checkpoint: {run / 'checkpoints' / 'step-3'}\nreport: {run / 'report.html'}\n"
    assert weights_digest(run, 3) == weights_digest(original, 3)
    assert untimed(run) == of_the_learner(untimed(original))
    assert rows(run)[2].keys() >= {"time", "seconds/learn", "seconds/step"}
    assert "seconds/rollout" not in rows(run)[2]


def test_a_replay_goes_on_where_it_was_stopped(original: Path) -> None:
    """Begun with --resume, ended after two steps and given again: the third step alone is trained,
    and the weights are those of the run. Given once more, nothing is left to do. Other settings
    are refused."""
    arguments = ("replay", original, "name=in-parts", "--resume")
    schedule = "learner.schedule=constant"
    run = original.parent / "in-parts"
    command(*arguments, schedule, "steps=2")
    assert [row["step"] for row in rows(run)] == [1, 2]
    command(*arguments, schedule)
    assert [row["step"] for row in rows(run)] == [1, 2, 3]
    assert weights_digest(run, 3) == weights_digest(original, 3)
    assert command(*arguments, schedule).startswith(f"{run} has replayed all kept steps; its last")


def test_how_many_steps_are_kept_changes_nothing(original: Path) -> None:
    """A run that keeps one step ends with the weights of the run that kept all. What it keeps is
    the last step, the same file for file, and the checkpoint before it, from which a replay makes
    that step again."""
    root = original.parent
    run = train(root, "two", *TINY, "steps=3", "trajectories.keep_steps=1")
    assert untimed(run) == untimed(original)
    assert weights_digest(run, 3) == weights_digest(original, 3)
    last = {name: text for name, text in kept(original).items() if name.startswith("step-000003")}
    assert kept(run) == last
    assert list(last) == [
        f"step-000003/{name}" for name in ("group-000.safetensors", "group-001.safetensors",
                                           "step.json")
    ]  # fmt: skip

    command("replay", run)
    assert weights_digest(root / "two-replay", 3) == weights_digest(original, 3)
    assert untimed(root / "two-replay") == of_the_learner(untimed(original))[2:]


def test_rollout_alone_keeps_what_a_learner_can_train_on(original: Path) -> None:
    """Without a learner the first step is that of the run, and every later one is sampled from the
    same weights. The rows have nothing of an update, and no checkpoint is written. A run that goes
    on keeps what it has sampled. A replay with other settings trains on them, and says how stale
    they are."""
    root = original.parent
    settings = [*TINY, "trajectories.keep_steps=2", "stages=rollout"]
    run = train(root, "alone", *settings, "steps=1")
    sampled = {file: file.stat() for file in (run / "trajectories" / "step-000001").iterdir()}
    train(root, "alone", *settings, "steps=2", "--resume")
    assert {file: file.stat() for file in sampled} == sampled
    assert not list((run / "checkpoints").glob("step-*"))
    first, second = rows(run)
    assert first["reward/mean"] == rows(original)[0]["reward/mean"]
    assert (first["weight_version"], second["weight_version"]) == (0, 0)
    absent = {"loss", "grad_norm", "learning_rate", "kl/mean", "staleness/mean"}
    assert not absent & (first.keys() | second.keys())
    assert (run / "report.html").is_file()
    command("replay", run, "name=later", "learner.learning_rate=1e-4")
    replayed = rows(root / "later")
    assert [row["staleness/mean"] for row in replayed] == [0, 1]
    assert [row["learning_rate"] for row in replayed] == [1e-4, 1e-4]
    assert replayed[1]["kl/mean"] > 0  # the first step has moved the weights
    assert (root / "later" / "checkpoints" / "step-2" / "manifest.json").is_file()

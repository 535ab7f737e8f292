"""The way back to a checkpoint, on learners and ledgers that stand in for the real ones."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.pipeline.background import Background
from orchestrator.pipeline.interrupt import Interrupt
from orchestrator.pipeline.learner_calls import LearnerLost, learner_call
from orchestrator.pipeline.ledger import LedgerLost
from orchestrator.pipeline.run import Run
from orchestrator.record.run_folder import RunFolder
from orchestrator.workers.failures import WorkerDied, WorkerFailed
from policy.errors import RunFailed

NEW_LEARNER: Any = SimpleNamespace(ranks=1)


class SlowLearner:
    """It writes file after file of a checkpoint until its processes are ended."""

    def __init__(self, path: Path) -> None:
        self._closed = threading.Event()
        (path / "state").mkdir(parents=True)
        self._thread = threading.Thread(target=self._write, args=[path / "state"], daemon=True)
        self._thread.start()

    def _write(self, folder: Path) -> None:
        for number in itertools.count():
            if self._closed.is_set():
                return
            (folder / str(number)).write_bytes(bytes(1000))

    def close(self) -> None:
        self._closed.set()
        self._thread.join()


def test_a_checkpoint_that_is_being_written_is_deleted_only_once_nobody_writes(
    tmp_path: Path,
) -> None:
    """One rank has died while it saved, and the other ranks still write. Their processes end before
    the half-written checkpoint is deleted: files that appear meanwhile would make that fail. The
    new group has fewer ranks, and the notes of the workers know it."""
    folder = RunFolder(tmp_path / "run")
    half_written = folder.checkpoints.begin(4)
    learner: Any = SlowLearner(half_written)
    run = run_with(learner, folder)
    run.recover(LearnerLost("learner rank 1 died"))
    assert not half_written.exists()
    assert run.learner is NEW_LEARNER
    assert run.step == 0
    assert run.stages.workers.ranks == 1


def test_a_ledger_that_is_lost_together_with_the_learner_is_begun_anew(tmp_path: Path) -> None:
    """The learner is gone, and so are writes of the ledger, which is noticed on the way back."""
    rebuilt: list[int] = []

    def lost(step: int) -> int:
        raise LedgerLost("the ledger is gone")

    run = run_with(SimpleNamespace(close=lambda: None), RunFolder(tmp_path / "run"))
    ledger: Any = run.ledger
    ledger.fall_back, ledger.rebuild = lost, rebuilt.append
    run.recover(LearnerLost("learner rank 0 died"))
    assert rebuilt == [0]
    assert run.learner is NEW_LEARNER


def test_too_little_memory_twice_in_a_step_ends_the_run(tmp_path: Path) -> None:
    """It would be too little a third time. A death in between, or another step, begins anew.
    Rollout workers sleep until the new ranks are there, and so the old ones gone."""
    done: list[str] = []
    learner = SimpleNamespace(close=lambda: done.append("closed"))
    run = run_with(learner, RunFolder(tmp_path / "run"))
    rollout: Any = run.rollout
    rollout.wake = lambda: done.append("awake")

    def form(checkpoint: Path | None) -> Any:
        done.append("formed")
        return NEW_LEARNER

    run.form_learner = form
    no_memory, death = LearnerLost("too small", no_memory=True), LearnerLost("rank 1 died")

    def fails(step: int, failure: LearnerLost) -> None:
        run.step, run.learner, run.lost_in_a_row = step, learner, 0
        run.recover(failure)

    for step, failure in ((5, no_memory), (5, death), (5, no_memory), (6, no_memory)):
        fails(step, failure)
    with pytest.raises(LearnerLost, match="too small"):
        fails(6, no_memory)
    assert done == [*["closed", "formed", "awake"] * 4, "closed"]


@pytest.mark.parametrize(
    ("failure", "no_memory"),
    [
        (WorkerFailed("learner rank 1 failed: OutOfMemoryError: CUDA out of memory."), True),
        (WorkerDied("learner rank 1 died: ray.exceptions.OutOfMemoryError"), False),
    ],
)
def test_too_little_memory_is_known_by_the_name_of_the_error(
    failure: RunFailed, no_memory: bool
) -> None:
    """The message of a failure has the type of what a rank raised."""

    def fail() -> None:
        raise failure

    call = learner_call(fail, "learning")
    call.wait(60)
    with pytest.raises(LearnerLost) as caught:
        call.result()
    assert caught.value.no_memory is no_memory


def run_with(learner: Any, folder: RunFolder) -> Run:
    """A run after five steps, without a checkpoint that is whole."""

    def wait_for(background: Background[Any]) -> None:
        background.wait(60)

    parts: dict[str, Any] = {
        "stages": SimpleNamespace(
            fall_back=lambda step: None,
            replace_workers=lambda reason: None,
            wait_for=wait_for,
            workers=SimpleNamespace(ranks=2),
        ),
        "books": SimpleNamespace(note=lambda text: None, rewind=folder.fall_back),
        "ledger": SimpleNamespace(
            fall_back=lambda step: 5, note_error=lambda text: None, count=lambda name: None
        ),
        "form_learner": lambda checkpoint: NEW_LEARNER,
    }
    rest: dict[str, Any] = {
        "keeper": None,
        "samples": None,
        "rollout": SimpleNamespace(wake=lambda: None),
        "publisher": None,
        "interrupt": Interrupt(),
    }
    return Run(
        step=5, last_step=9, learner=learner, folder=folder, rollout_alone=False, restarts=3,
        **parts, **rest,
    )  # fmt: skip

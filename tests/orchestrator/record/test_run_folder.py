"""A run folder belongs to one living run, and its history is the one that survives."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from orchestrator.record.own_checkpoints import OwnCheckpoints
from orchestrator.record.run_folder import RunFolder, read_rows
from orchestrator.record.run_log import logged_to
from orchestrator.record.sheets import save_png
from policy.disk import fenced
from policy.errors import RunFailed, UserError


def finished_checkpoint(folder: RunFolder, step: int) -> Path:
    """As the run writes one."""
    written = foreign_checkpoint(folder.checkpoints.begin(step))
    return folder.checkpoints.finish(step, written)


def foreign_checkpoint(path: Path) -> Path:
    """As somebody copies one."""
    (path / "model").mkdir(parents=True)
    (path / "manifest.json").write_text("{}")
    (path / "model" / "weights").write_text("precious")
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoints/step-*"))


def left_in(folder: RunFolder) -> list[str]:
    """Everything in ``checkpoints/``, hidden or not."""
    return sorted(path.name for path in (folder.path / "checkpoints").iterdir())


def reopened(folder: RunFolder) -> RunFolder:
    """The run folder as ``--resume`` finds it."""
    folder.close()
    return RunFolder(folder.path, resume=True)


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """While one process holds the folder another one cannot, and is told who it is; after its end
    it can."""
    code = (
        "import sys; from pathlib import Path\n"
        "from orchestrator.record.run_folder import RunFolder\n"
        "RunFolder(Path(sys.argv[1]))"
    )
    folder = RunFolder(tmp_path / "run")
    held = subprocess.run(
        [sys.executable, "-c", code, str(folder.path)], capture_output=True, text=True, check=False
    )
    host = socket.gethostname()
    assert f"is in use by process {os.getpid()} on host {host}; wait until it ends" in held.stderr
    folder.close()
    RunFolder(tmp_path / "run").close()


def test_storage_that_cannot_lock_files_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else has the folder, and no other name would be better."""

    def cannot(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", cannot)
    reason = r"cannot be used: its storage cannot lock files \(No locks available\)"
    for folder in (lambda: RunFolder(tmp_path / "a"), lambda: RunFolder.fresh(tmp_path, "b")):
        with pytest.raises(UserError, match=reason):
            folder()


def test_a_finished_run_is_not_overwritten(tmp_path: Path) -> None:
    """A folder that holds metrics needs --resume, and then it must hold a run. One that has no
    checkpoint yet goes on from its start."""
    folder = RunFolder(tmp_path / "run")
    folder.append("metrics.jsonl", {"step": 1})
    folder.close()
    with pytest.raises(UserError, match=r"is not empty \(metrics\.jsonl\); give --new or another"):
        RunFolder(folder.path)
    with pytest.raises(UserError, match=r"is not empty \(metrics\.jsonl\); give --new or another"):
        RunFolder(folder.path, resume=True)
    (folder.path / "config.yaml").write_text("")
    resumed = RunFolder(folder.path, resume=True)
    assert resumed.goes_on
    resumed.close()
    (folder.path / "config.yaml").unlink()
    finished_checkpoint(folder, 1)
    with pytest.raises(UserError, match=r"holds a run \(checkpoints/step-1\); give --resume"):
        RunFolder(folder.path)
    for name, taken in (("run", "run-2"), ("other", "other")):
        fresh = RunFolder.fresh(tmp_path, name)
        assert fresh.path.name == taken
        fresh.close()


def test_an_unwritable_folder_is_one_line(tmp_path: Path) -> None:
    """A path below a file cannot be made."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        RunFolder(tmp_path / "file" / "run")


def test_rows_survive_a_cut_off_line(tmp_path: Path) -> None:
    """A last line without its newline is what a crash leaves, even in the middle of a letter."""
    folder = RunFolder(tmp_path / "run")
    folder.append("metrics.jsonl", {"step": 1, "text": "käse"})
    with (folder.path / "metrics.jsonl").open("ab") as file:
        file.write('{"step": 2, "text": "kä'.encode()[:-1])
    assert folder.rows("metrics.jsonl") == [{"step": 1, "text": "käse"}]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (b'{"step": 2, "te\n', "not JSON"),
        (b"3\n", "damaged: not a JSON object"),
        (b'{"text": "\xff"}\n', "byte 0xff is not UTF-8"),
        (b'{"step": 2, "step": 3}\n', "key 'step' is there twice"),
        (b'{"step": NaN}\n', "NaN is not a number of JSON"),
    ],
)
def test_a_damaged_row_is_named_by_file_and_line(
    tmp_path: Path, damage: bytes, reason: str
) -> None:
    """Cut off in the middle of the file, no object, no UTF-8: nothing that a crash leaves."""
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(b'{"step": 1}\n' + damage + b'{"step": 3}\n')
    with pytest.raises(UserError, match=rf"metrics\.jsonl:2: .*{reason}"):
        read_rows(file)


@pytest.mark.parametrize("what", ["checkpoints/step-40", "samples/step-000000", "my notes.txt"])
@pytest.mark.parametrize("begun", [True, False])
def test_a_new_run_takes_no_folder_with_anything_in_it(
    tmp_path: Path, what: str, begun: bool
) -> None:
    """Rows or not: checkpoints whose rows are lost, pictures, a user's own folder are refused by
    name and stay. It is asked twice, for a refusal must not make the folder a run's own."""
    run = tmp_path / "run"
    foreign_checkpoint(run / what)
    if begun:
        (run / ".lock").write_text("")
    for _ in range(2):
        with pytest.raises(UserError, match=rf"{run} .* \({what}\); give --"):
            RunFolder(run)
    assert (run / what / "model" / "weights").read_text() == "precious"


def test_a_configuration_kept_in_a_folder_of_that_name_is_not_overwritten(tmp_path: Path) -> None:
    """Only what an earlier start wrote may be written anew, and no run ever began there."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("mine")
    with pytest.raises(UserError, match=r"is not empty \(config\.yaml\)"):
        RunFolder(run)


def test_a_run_that_ended_while_starting_can_be_started_again(tmp_path: Path) -> None:
    """Its settings, log and empty folders are no history."""
    folder = RunFolder(tmp_path / "run")
    for name in ("config.yaml", "inputs.json", "run.log"):
        (folder.path / name).write_text("")
    folder.close()
    RunFolder(folder.path).close()


def test_what_the_run_did_not_write_is_neither_resumed_from_nor_deleted(tmp_path: Path) -> None:
    """Copies of another name, a file, and a step of an earlier place in the history stay through
    every deletion."""
    folder = RunFolder(tmp_path / "run")
    for step in (2, 4):
        finished_checkpoint(folder, step)
    others = [
        foreign_checkpoint(folder.path / "checkpoints" / name)
        for name in ("step-2-backup", "step-", "step-x", "step-1", "step-3")
    ]
    (folder.path / "checkpoints" / "step-0").write_text("a file")
    resumed = reopened(folder)
    assert resumed.checkpoints.whole() == [resumed.checkpoints.path(step) for step in (2, 4)]
    resumed.fall_back(4)
    finished_checkpoint(resumed, 5)
    (resumed.checkpoints.path(4) / "rng").mkdir()  # of an earlier version, and the run's own
    resumed.checkpoints.keep_only({5})
    assert resumed.checkpoints.whole() == [resumed.checkpoints.path(5)]
    assert all((other / "model" / "weights").read_text() == "precious" for other in others)
    assert (folder.path / "checkpoints" / "step-0").read_text() == "a file"


def test_a_place_that_is_taken_is_named_and_not_overwritten(tmp_path: Path) -> None:
    """A step that the run will come to: refused when it resumes, and when it wants to save."""
    folder = RunFolder(tmp_path / "run")
    finished_checkpoint(folder, 2)
    copied = foreign_checkpoint(folder.path / "checkpoints" / "step-40")
    with pytest.raises(UserError, match=rf"{copied} was not written by this run; move it away"):
        folder.checkpoints.begin(40)
    with pytest.raises(
        UserError, match=rf"{copied} was not written by this run, which goes on after step-2; move"
    ):
        reopened(folder)
    assert (copied / "model" / "weights").read_text() == "precious"


def test_resuming_forgets_what_the_surviving_history_never_had(tmp_path: Path) -> None:
    """Rows after the resumed step go, and what the run itself left unfinished."""
    folder = RunFolder(tmp_path / "run")
    for step in (1, 2, 3):
        folder.append("metrics.jsonl", {"step": step})
        folder.append("dropped.jsonl", {"step": step})
    finished_checkpoint(folder, 2)
    (folder.checkpoints.begin(3) / "model").mkdir(parents=True)  # cut off before it was whole
    (folder.path / "checkpoints" / "written.json").write_text("[2, 4]")  # and before its name
    resumed = reopened(folder)
    for rollout_alone in (False, True):  # a checkpoint is what counts
        point = resumed.resume_point(rollout_alone)
        assert point == (2, resumed.checkpoints.path(2))
    resumed.fall_back(2)
    for name in ("metrics.jsonl", "dropped.jsonl"):
        assert [row["step"] for row in resumed.rows(name)] == [1, 2]
    assert left_in(folder) == ["step-2", "written.json"]


def test_a_run_that_goes_back_to_its_start_forgets_all_it_has_done(tmp_path: Path) -> None:
    """The rows of the evaluation before the first step go too, because the run makes them again."""
    folder = RunFolder(tmp_path / "run")
    folder.append("evaluations.jsonl", {"step": 0})
    folder.append("metrics.jsonl", {"step": 1})
    folder.checkpoints.begin(1).mkdir()  # cut off before it was whole
    folder.fall_back(0)
    assert folder.rows("evaluations.jsonl") == folder.rows("metrics.jsonl") == []
    assert left_in(folder) == ["written.json"]


def test_a_checkpoint_that_was_deleted_in_part_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while it deletes: what is left has no manifest, and is deleted the next time."""
    folder = RunFolder(tmp_path / "run")
    for step in (1, 2):
        finished_checkpoint(folder, step)

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            folder.checkpoints.keep_only({2})
    assert names(folder.path) == ["step-1", "step-2"]
    resumed = reopened(folder)
    assert resumed.checkpoints.whole() == [resumed.checkpoints.path(2)]
    resumed.fall_back(2)
    assert names(folder.path) == ["step-2"]


def test_a_run_begun_before_there_was_a_list_goes_on(tmp_path: Path) -> None:
    """Of its checkpoints the last and the best are known to be its own; others stay."""
    folder = RunFolder(tmp_path / "run")
    (folder.path / "checkpoints" / "written.json").unlink()
    for step in (1, 2, 3):
        foreign_checkpoint(folder.path / "checkpoints" / f"step-{step}")
    best = '{"step": 1, "set": "held_out", "reward/mean": 0.5}'
    (folder.path / "checkpoints" / "best.json").write_text(best)
    resumed = reopened(folder)
    resumed.fall_back(3)
    finished_checkpoint(resumed, 4)
    resumed.checkpoints.keep_only({4})
    assert names(folder.path) == ["step-1", "step-2", "step-4"]


def test_the_best_checkpoint_survives_and_only_a_written_one_is_best(tmp_path: Path) -> None:
    """Best by the fixed set and last are kept; a cut-off save or another set is never the best."""
    folder = RunFolder(tmp_path / "run")
    checkpoints = folder.checkpoints
    for step, reward in ((1, 0.5), (2, 0.7), (3, 0.6)):
        finished_checkpoint(folder, step)
        checkpoints.keep_only({step})
        checkpoints.note_best("held_out", step, reward)
    assert names(folder.path) == ["step-2", "step-3"]
    assert not checkpoints.is_better("held_out", 0.7)
    assert not checkpoints.is_better("held_out", None)
    assert checkpoints.is_better("seen", 0.1)

    (checkpoints.path(2) / "manifest.json").unlink()  # killed while it was written again
    assert checkpoints.is_better("held_out", 0.1)
    checkpoints.fall_back(3)
    assert names(folder.path) == ["step-3"]


def test_what_others_put_there_stays(tmp_path: Path) -> None:
    """A checkpoint that was copied into a run before its first save; files beside those of a
    checkpoint that is deleted; one that was moved and linked."""
    folder = RunFolder(tmp_path / "run")
    foreign_checkpoint(folder.checkpoints.path(100))
    first = finished_checkpoint(folder, 1)
    (first / "notes.txt").write_text("mine")
    second = finished_checkpoint(folder, 2)
    moved = second.rename(tmp_path / "moved")
    second.symlink_to(moved)
    finished_checkpoint(folder, 3)
    folder.checkpoints.keep_only({3})
    assert names(folder.path) == ["step-1", "step-100", "step-3"]
    assert [path.name for path in first.iterdir()] == ["notes.txt"]
    assert (moved / "model" / "weights").read_text() == "precious"
    assert folder.checkpoints.whole() == [folder.checkpoints.path(3)]


def test_a_list_of_checkpoints_that_is_no_json_is_named(tmp_path: Path) -> None:
    """Without it nothing is known to be the run's own."""
    folder = RunFolder(tmp_path / "run")
    finished_checkpoint(folder, 1)
    (folder.path / "checkpoints" / "written.json").write_text("[1")
    with pytest.raises(UserError, match=r"written\.json:1: not JSON"):
        OwnCheckpoints(folder.path).last()


def test_two_runs_that_begin_at_once_take_different_folders(tmp_path: Path) -> None:
    """Eight processes want a fresh folder of one name, and one wants that very name: each has its
    own, or is refused in one line, and none is left out."""
    code = (
        "import sys; from pathlib import Path\n"
        "from orchestrator.record.run_folder import RunFolder\n"
        "from policy.errors import UserError\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "root = Path(sys.argv[1])\n"
        "try: folder = RunFolder(root / 'run') if sys.argv[2:] else RunFolder.fresh(root, 'run')\n"
        "except UserError as error: print(error, flush=True)\n"
        "else: print(folder.path.name, flush=True); sys.stdin.readline()"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), *exact],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )
        for exact in [[]] * 8 + [["exact"]]
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
    answers = [process.stdout.readline().strip() for process in processes if process.stdout]
    for process in processes:
        process.communicate("end\n", timeout=60)
    *fresh, exact = answers
    assert len(set(fresh)) == 8
    assert all(name.startswith("run") for name in fresh), fresh
    assert exact == "run" or exact.startswith(f"run folder {tmp_path / 'run'} is in use"), exact
    assert exact not in fresh


def test_resume_begins_a_run_that_never_was(tmp_path: Path) -> None:
    """So one command can be given for the first time and again after any death. A folder of files
    that no run wrote is refused all the same, and not made a run's own by that."""
    first = RunFolder(tmp_path / "run", resume=True)
    assert (first.goes_on, first.checkpoints.last()) == (False, None)
    (first.path / "config.yaml").write_text("")
    again = reopened(first)
    assert again.goes_on
    again.close()

    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    for _ in range(2):
        with pytest.raises(UserError, match=r"is not empty \(notes\.txt\); give --new or another"):
            RunFolder(foreign, resume=True)
    assert [file.name for file in foreign.iterdir()] == ["notes.txt"]


def test_two_drivers_that_save_the_same_step_never_write_to_one_folder(tmp_path: Path) -> None:
    """Learner ranks of an older driver write on while a newer one has the run. What they write is
    not the newer one's checkpoint, not even when the older driver gives it its name: that is
    refused by the fence, and the next resume deletes it."""
    folder = RunFolder(tmp_path / "run")
    older = folder.checkpoints.begin(2)
    newer = folder.checkpoints.begin(2)
    assert older != newer
    whole = folder.checkpoints.finish(2, foreign_checkpoint(newer))
    foreign_checkpoint(older)
    assert folder.checkpoints.whole() == [whole]

    def superseded() -> None:
        raise RunFailed("a newer driver has the run")

    before = left_in(folder)
    writes: list[Callable[[], object]] = [
        lambda: folder.append("metrics.jsonl", {"step": 1}),
        lambda: folder.checkpoints.finish(3, older),
        lambda: folder.checkpoints.keep_only(set()),
        lambda: folder.checkpoints.note_best("held_out", 2, 0.5),
        lambda: folder.trajectories.begin(1, 1),
        lambda: save_png(np.zeros((1, 1, 3), np.uint8), folder.path / "samples" / "a.png"),
        lambda: folder.fall_back(0),
        lambda: logging.getLogger("eg_grpo").warning("a line"),
    ]
    with logged_to(folder.path / "run.log"), fenced(folder.path, superseded):
        for write in writes:
            with pytest.raises(RunFailed, match="a newer driver has the run"):
                write()
    assert left_in(folder) == before
    assert not (folder.path / "metrics.jsonl").exists()
    assert (folder.path / "run.log").read_text() == ""
    folder.append("metrics.jsonl", {"step": 1})
    folder.fall_back(2)
    assert left_in(folder) == ["step-2", "written.json"]
    folder.close()

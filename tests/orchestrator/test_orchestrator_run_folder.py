"""A run folder belongs to one living run, and its history is the one that survives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.run_folder import RunFolder, free_name, read_rows
from policy.errors import UserError


def finished_checkpoint(folder: RunFolder, step: int) -> None:
    folder.checkpoint(step).mkdir()
    (folder.checkpoint(step) / "manifest.json").write_text("{}")


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    """While one process holds the folder another one cannot; after its end it can."""
    code = (
        "import sys; from pathlib import Path; from orchestrator.run_folder import RunFolder\n"
        "RunFolder(Path(sys.argv[1]))"
    )
    folder = RunFolder(tmp_path / "run")
    held = subprocess.run(
        [sys.executable, "-c", code, str(folder.path)], capture_output=True, text=True, check=False
    )
    assert "is in use by another process" in held.stderr
    folder.close()
    RunFolder(tmp_path / "run").close()


def test_a_finished_run_is_not_overwritten(tmp_path: Path) -> None:
    """A folder that holds metrics needs --resume, and --resume needs a checkpoint."""
    folder = RunFolder(tmp_path / "run")
    folder.append("metrics.jsonl", {"step": 1})
    folder.close()
    with pytest.raises(UserError, match="holds a run"):
        RunFolder(folder.path)
    with pytest.raises(UserError, match="no checkpoint"):
        RunFolder(folder.path, resume=True)
    assert free_name(tmp_path, "run") == "run-2"
    assert free_name(tmp_path, "other") == "other"


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


def test_folders_of_other_names_among_the_checkpoints_are_left_alone(tmp_path: Path) -> None:
    """A copy beside a checkpoint, or a file, is neither read as a step nor deleted."""
    folder = RunFolder(tmp_path / "run")
    for step in (1, 2):
        finished_checkpoint(folder, step)
    others = [folder.path / "checkpoints" / name for name in ("step-2-backup", "step-", "step-x")]
    for other in others:
        other.mkdir()
        (other / "manifest.json").write_text("{}")
    (folder.path / "checkpoints" / "step-7").write_text("a file")
    assert folder.last_checkpoint() == folder.checkpoint(2)
    folder.keep_only({2})
    folder.forget_after(1)
    assert folder.checkpoints() == []
    assert all((other / "manifest.json").is_file() for other in others)


def test_resuming_forgets_what_the_surviving_history_never_had(tmp_path: Path) -> None:
    """Rows and checkpoints after the resumed step go; incomplete checkpoints never count."""
    folder = RunFolder(tmp_path / "run")
    for step in (1, 2, 3):
        folder.append("metrics.jsonl", {"step": step})
        folder.append("dropped.jsonl", {"step": step})
    for step in (2, 10):
        finished_checkpoint(folder, step)
    folder.checkpoint(11).mkdir()  # cut off before its manifest
    assert folder.last_checkpoint() == folder.checkpoint(10)
    folder.forget_after(2)
    for name in ("metrics.jsonl", "dropped.jsonl"):
        assert [row["step"] for row in folder.rows(name)] == [1, 2]
    assert folder.checkpoints() == [folder.checkpoint(2)]
    folder.keep_only({2})
    assert not folder.checkpoint(11).exists()


def test_the_best_checkpoint_survives_and_only_a_written_one_is_best(tmp_path: Path) -> None:
    """Best by the fixed set and last are kept; a cut-off save or another set is never the best."""
    folder = RunFolder(tmp_path / "run")
    for step, reward in ((1, 0.5), (2, 0.7), (3, 0.6)):
        finished_checkpoint(folder, step)
        folder.keep_only({step})
        folder.note_best("held_out", step, reward)
    assert [path.name for path in folder.checkpoints()] == ["step-2", "step-3"]
    assert not folder.is_better("held_out", 0.7)
    assert not folder.is_better("held_out", None)
    assert folder.is_better("seen", 0.1)

    (folder.checkpoint(2) / "manifest.json").unlink()  # killed while it was written again
    assert folder.is_better("held_out", 0.1)
    folder.forget_after(3)
    assert [path.name for path in folder.checkpoints()] == ["step-3"]
    assert not folder.checkpoint(2).exists()


def test_resume_of_a_run_that_never_was_makes_no_folder(tmp_path: Path) -> None:
    """A misspelt name leaves nothing behind."""
    with pytest.raises(UserError, match="does not exist"):
        RunFolder(tmp_path / "mispelt", resume=True)
    assert not list(tmp_path.iterdir())

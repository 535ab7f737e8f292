"""A run folder belongs to one living run, and its history is the one that survives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.run_folder import RunFolder, free_name
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
    """A last line without its newline is what a crash leaves; it is not a row."""
    folder = RunFolder(tmp_path / "run")
    folder.append("metrics.jsonl", {"step": 1, "text": "käse"})
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "te')
    assert folder.rows("metrics.jsonl") == [{"step": 1, "text": "käse"}]


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

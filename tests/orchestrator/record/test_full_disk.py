"""A disk that fills: one line that names the file and the way on, and a run that can go on."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from orchestrator.record.own_checkpoints import OwnCheckpoints
from orchestrator.record.run_folder import RunFolder
from orchestrator.record.run_log import logged_to
from orchestrator.record.sheets import save_png
from orchestrator.report.page import write_report
from policy.disk import NotWritten
from tests.command_line import ONE_REWARD, ROOT, on_test_cluster
from tests.printed_line import PRINTS_A_LINE
from tests.small_disk import fill, resize, small_disk
from tests.training_records import rows

FULL = r"No space left on device \(0\.0 MiB are free there\)"
SMALL = (
    "steps=3 prompts_per_step=2 rollout.group_size=2 rollout.batch_size=4 rollout.workers=1"
    " learner.micro_batch_size=4 data.evaluation={} checkpoint.every=1"
    f" {ONE_REWARD}"
).split()
PICTURE = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    """An open run folder with one row, on a disk of 256 KiB."""
    with small_disk(tmp_path / "disk", 256 * 1024) as disk:
        folder = RunFolder(disk / "run")
        folder.append("metrics.jsonl", {"step": 1})
        yield folder
        folder.close()


def log_a_line(folder: RunFolder) -> None:
    with logged_to(folder.path / "run.log"):
        logging.getLogger("eg_grpo").warning("x" * 8192)


WRITERS: dict[str, Callable[[RunFolder], object]] = {
    "metrics.jsonl": lambda folder: folder.append("metrics.jsonl", {"step": 2, "x": "x" * 8192}),
    "samples/step-1/a.png": lambda folder: save_png(
        PICTURE, folder.path / "samples" / "step-1" / "a.png"
    ),
    "checkpoints/written.json": lambda folder: folder.checkpoints.start(),
    "report.html": lambda folder: write_report(folder.path),
    "run.log": log_a_line,
}


@pytest.mark.parametrize("name", WRITERS)
def test_whatever_a_run_writes_is_named_when_the_disk_is_full(folder: RunFolder, name: str) -> None:
    """And not lost unseen; what was there before is whole, and with room all goes well."""
    filler = fill(folder.path.parent)
    with pytest.raises(NotWritten, match=rf"^{folder.path / name} cannot be written: {FULL}$"):
        WRITERS[name](folder)
    assert folder.rows("metrics.jsonl") == [{"step": 1}]
    filler.unlink()
    WRITERS[name](folder)


def test_half_a_row_is_no_row_and_goes_when_the_run_goes_on(folder: RunFolder) -> None:
    """4096 bytes fit and the rest does not; the next row does not grow on to it."""
    written = folder.checkpoints.begin(1)
    written.mkdir()
    (written / "manifest.json").write_text("{}")
    folder.checkpoints.finish(1, written)
    filler = fill(folder.path.parent)
    with filler.open("ab") as stream:
        stream.truncate(filler.stat().st_size - 4096)
    with pytest.raises(NotWritten):
        folder.append("metrics.jsonl", {"step": 2, "text": "x" * 20_000})
    assert (folder.path / "metrics.jsonl").stat().st_size > len('{"step": 1}\n')
    filler.unlink()
    folder.close()
    resumed = RunFolder(folder.path, resume=True)
    resumed.fall_back(1)
    resumed.append("metrics.jsonl", {"step": 2})
    assert resumed.rows("metrics.jsonl") == [{"step": 1}, {"step": 2}]
    resumed.close()


def test_standard_output_on_a_full_disk_is_one_line() -> None:
    """As a job's output file on the same disk: no traceback, and no exit code 0."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", PRINTS_A_LINE, "doctor"],
            cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False,
        )  # fmt: skip
    assert done.stderr == ("eg-grpo: standard output cannot be written: No space left on device\n")
    assert done.returncode == 1


@pytest.mark.slow
@pytest.mark.cluster
def test_a_run_whose_checkpoint_does_not_fit_goes_on_when_there_is_room(
    ray_cluster: None, tmp_path: Path
) -> None:
    """The first checkpoint fits and the second does not: one line names it, the first is what
    --resume goes on from, and the half of the second is not taken for one."""

    def train(*arguments: str) -> subprocess.CompletedProcess[str]:
        root = f"root={tmp_path}/disk"
        return on_test_cluster("train", "configs/shapes.yaml", root, *SMALL, *arguments)

    with small_disk(tmp_path / "disk", 12 * 2**20) as disk:
        run = disk / "shapes"
        done = train()
        assert done.returncode == 1, done.stderr
        last = done.stderr.splitlines()[-1]
        second = rf"{run}/checkpoints/\.step-2\.\d+ cannot be written: "
        assert last.startswith("eg-grpo: learner rank 0 failed: "), last
        assert re.search(second, last), last
        assert "MiB are free there)" in last
        assert f"the last checkpoint is {run}/checkpoints/step-1; go on with: eg-grpo" in last
        assert "Traceback" not in done.stderr
        assert [row["step"] for row in rows(run)] == [1, 2]
        assert OwnCheckpoints(run).whole() == [run / "checkpoints" / "step-1"]
        resize(disk, 80 * 2**20)
        done = train("--resume")
        assert done.returncode == 0, done.stderr
        assert [row["step"] for row in rows(run)] == [1, 2, 3]
        assert OwnCheckpoints(run).last() == run / "checkpoints" / "step-3"

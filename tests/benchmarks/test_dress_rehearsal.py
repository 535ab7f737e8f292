"""The dress rehearsal, at tiny size: everything runs, and the tables are filled."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from benchmarks.dress_rehearsal.__main__ import main
from benchmarks.dress_rehearsal.watching import watched

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.cluster
def test_a_tiny_rehearsal_from_the_checkpoint_to_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run of ``configs/dress-rehearsal-1b.yaml``, stopped in step 1 and resumed, with LoRA in
    bfloat16 and all three reward models: each part has its row, and step 2 took time in each of
    its stages."""
    monkeypatch.chdir(ROOT)
    assert main([str(tmp_path), "--like", "tiny", "--image-size", "16"]) == 0
    printed = capsys.readouterr().out
    for part in ("init-random", "random rewards", "train, stopped in step 1", "export", "generate"):
        assert re.search(rf"^\| {part} \| [1-9]", printed, re.M), part
    assert re.search(r"^\| the first update is done \| \d+\.\d \| \d+\.\d \|$", printed, re.M)
    assert re.search(r"^\| learner 1 \| \d", printed, re.M)
    assert re.search(r"^\| 2 \| (\d+\.\d \| ){6}\d+\.\d \|$", printed, re.M)
    assert (tmp_path / "images" / "0.png").is_file()


def test_a_command_s_memory_is_that_of_its_processes(tmp_path: Path) -> None:
    """A child that fills 64 MB for three seconds: it weighs that much, and its code is told."""
    code = "import time; held = bytearray(b'x') * 64_000_000; time.sleep(3); raise SystemExit(3)"
    seen = watched([sys.executable, "-c", code], tmp_path / "log")
    assert seen.code == 3
    assert 3 <= seen.seconds < 60
    assert 64_000_000 < seen.together.own < 128_000_000

"""The dress rehearsal, at tiny size: everything runs, and the tables are filled."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(1800)  # six commands, of which two start Ray; minutes on a busy machine
def test_a_tiny_rehearsal_from_the_checkpoint_to_the_image(tmp_path: Path) -> None:
    """The run of ``configs/dress-rehearsal-1b.yaml``, stopped in step 1 and resumed, with LoRA in
    bfloat16 and all three reward models: each part has its row, and step 2 took time in each of
    its stages."""
    size = ["--like", "tiny", "--image-size", "16"]
    # An update must take so long that it is seen.
    longer = ["rollout.group_size=8", "learner.micro_batch_size=1"]
    printed = run("-m", "benchmarks.dress_rehearsal", str(tmp_path / "out"), *size, *longer)
    for part in ("init-random", "random rewards", "train, stopped in step 1", "export", "generate"):
        assert re.search(rf"^\| {part} \| \d*\.?\d*[1-9]", printed, re.M), part
    assert re.search(r"^\| the first update is done \| \d+\.\d \| \d+\.\d \|$", printed, re.M)
    assert re.search(r"^\| learner 1 \| \d", printed, re.M)
    assert re.search(r"^\| resumed \| \d+\.\d \| \d+\.\d \|$", printed, re.M)
    assert re.search(r"^\| 2 \| (\d+\.\d \| ){6}\d+\.\d \|$", printed, re.M)
    assert (tmp_path / "out" / "images" / "0.png").is_file()


def test_a_command_s_memory_is_that_of_its_processes(tmp_path: Path) -> None:
    """A child that fills 64 MB until it has been weighed: it weighs that much, and its code is
    told. It has the name of Ray's process, and an object store of 1 GB as Ray has one, of which
    8 MB were written."""
    weighed, raylet = tmp_path / "weighed", tmp_path / "raylet"
    raylet.symlink_to(sys.executable)
    child = f"""
import os, pathlib, tempfile, time
store, name = tempfile.mkstemp(prefix="plasma", dir="/dev/shm")
os.unlink(name)
os.truncate(store, 2**30)
assert os.write(store, b"x" * 2**23) == 2**23
held = bytearray(b"x") * 64_000_000
while not pathlib.Path({str(weighed)!r}).exists():
    time.sleep(0.05)
raise SystemExit(3)
"""
    printed = run("-c", WATCHING, str(raylet), child, str(tmp_path / "log"), str(weighed))
    code, own, store = map(int, printed.split())
    assert (code, store) == (3, 2**23)
    assert 64_000_000 < own < 128_000_000


WATCHING = """
import pathlib, sys
from benchmarks.dress_rehearsal import watching
program, child, log, weighed = sys.argv[1:]
weigh = watching._weigh

def then_say_so(*given):
    seen = weigh(*given)
    if seen.own > 64_000_000:
        pathlib.Path(weighed).touch()
    return seen

watching._weigh = then_say_so
seen = watching.watched([program, "-c", child], pathlib.Path(log))
print(seen.code, seen.together.own, seen.store)
"""


def run(*arguments: str) -> str:
    """What a Python of its own prints. All its descendants are watched: it has no others."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

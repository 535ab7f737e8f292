"""What ``pip install .`` gives to a user in an empty folder: the command ``eg-grpo``, and with it a
run on a real terminal until Ctrl-C. Nothing is read from the checkout."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from house import ROOMS

from orchestrator.settings.shipped import shipped_names
from tests.command_line import MY_REWARD, MY_REWARDS, ROOT

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

SMALL = (
    "steps=500 prompts_per_step=2 rollout.group_size=2 rollout.workers=1"
    " evaluation.prompts=1 evaluation.samples_per_prompt=1 cluster.object_store_mb=128"
).split()
FIRST = "reading files and loading libraries"


@dataclass(frozen=True)
class Installation:
    """A folder that pip has filled, with the script that it has made there."""

    site: Path

    @property
    def script(self) -> Path:
        return self.site / "bin" / "eg-grpo"

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"PYTHONPATH": str(self.site)}


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """``pip install .``, without what the project needs, which this environment has."""
    source = tmp_path_factory.mktemp("source")
    site = tmp_path_factory.mktemp("site")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in (*ROOMS, "configs"):
        shutil.copytree(ROOT / name, source / name)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index"),
            *("--no-build-isolation", "--no-compile", "--quiet", "--target", site, "."),
        ],
        cwd=source, stdout=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    return Installation(site)


def test_an_installation_finds_its_configurations_from_an_empty_folder(
    installation: Installation, tmp_path: Path
) -> None:
    """It has the configurations, the files that they name, the ledger's script and what a report is
    made of."""
    site = installation.site

    def eg_grpo(*words: str) -> str:
        return subprocess.run(
            [installation.script, *words],
            cwd=tmp_path, env=installation.environment, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    listed = [line.split()[0] for line in eg_grpo("configs").splitlines()]
    assert listed == shipped_names()
    resolved = eg_grpo("train", "shapes", "--dry-run")
    assert f"path: {site}/shapes/checkpoint\n" in resolved
    assert f"train: {site}/shapes/data/train.jsonl\n" in resolved
    for pattern in ("pipeline/*.lua", "report/templates/*"):
        files = [path.relative_to(ROOT) for path in (ROOT / "orchestrator").glob(pattern)]
        assert files
        assert [path for path in files if not (site / path).is_file()] == []


def test_a_person_sees_what_is_awaited_and_ctrl_c_leaves_the_terminal_whole(
    installation: Installation, tmp_path: Path
) -> None:
    """The view names each wait of the start and the steps, and its first frame comes before Ray is
    started, which takes longest. After Ctrl-C the step is finished, the cursor is back, the
    terminal's modes are those of before, and standard output, a pipe, has the results alone, of
    which one is the report. The run's reward is a module of the working folder, which the reward
    worker finds, and its model lies in the installation."""
    (tmp_path / "my_rewards.py").write_text(MY_REWARDS, encoding="utf-8")
    screen, terminal = pty.openpty()
    plain = {"TERM": "xterm-256color", "NO_COLOR": "1", "COLUMNS": "100"}
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    before, began = termios.tcgetattr(terminal), time.monotonic()
    run = subprocess.Popen(
        [installation.script, "train", "shapes", *SMALL, MY_REWARD],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=terminal, text=True,
        env=installation.environment | plain,
    )  # fmt: skip
    shown, first_frame_s = bytearray(), list[float]()

    def read() -> None:
        with suppress(OSError):  # once no process has the terminal open
            while True:
                shown.extend(os.read(screen, 65536))
                if not first_frame_s and FIRST in text(shown):
                    first_frame_s.append(time.monotonic() - began)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        deadline = time.monotonic() + 400
        # On a busy machine a step can fall between two frames.
        while not re.search(r"step (?!0/|1/)\d+/500", text(shown)):
            assert time.monotonic() < deadline, text(shown)[-3000:]
            assert run.poll() is None, text(shown)[-3000:]
            time.sleep(0.2)
        run.send_signal(signal.SIGINT)
        out, _ = run.communicate(timeout=240)
    finally:
        run.kill()
        after = termios.tcgetattr(terminal)
        os.close(terminal)
        reader.join(60)  # it has read the last bytes of the terminal
        os.close(screen)
    seen, folder = text(shown), tmp_path / "runs" / "shapes"
    assert run.returncode == 130, seen[-3000:]
    for awaited in (
        FIRST,
        "starting Ray",
        "loading the policy on rollout worker 0",
        "loading /",  # the model on the learner ranks, by its path, which may be cut
        "rollout workers  1 ",
    ):
        assert awaited in seen, awaited
    assert seen.index(FIRST) < seen.index("starting Ray")
    print(f"the first frame came after {first_frame_s[0]:.1f} s")
    assert f"run folder {folder}\n" in seen
    assert "stopping after this step; press Ctrl-C again to stop at once\n" in seen
    assert seen.count("Traceback") == 0
    last = shown.decode(errors="replace")
    assert last.rindex("\x1b[?25h") > last.rindex("\x1b[?25l")  # the cursor is shown
    assert after == before
    assert re.search(r"eg-grpo: stopped \(the last checkpoint is .*--resume\)\n$", seen)
    assert "\x1b" not in out
    assert [line.split(":")[0] for line in out.splitlines()[-2:]] == ["checkpoint", "report"]
    assert f"path: {installation.site}/shapes/checkpoint\n" in (folder / "config.yaml").read_text()


def text(shown: bytearray) -> str:
    """What was written to the terminal, without control sequences."""
    written = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", bytes(shown).decode(errors="replace"))
    return written.replace("\r\n", "\n").replace("\r", "")

"""The live view of a real run on a real terminal, until Ctrl-C."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.command_line import MY_REWARD, MY_REWARDS, ROOT, SCRIPT, needs_script

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

SMALL = (
    "steps=500 prompts_per_step=2 rollout.group_size=2 rollout.workers=1"
    " evaluation.prompts=1 evaluation.samples_per_prompt=1 cluster.object_store_mb=128"
).split()


@needs_script
def test_a_person_sees_what_is_awaited_and_ctrl_c_leaves_the_terminal_whole(
    tmp_path: Path,
) -> None:
    """The view names each wait of the start and the steps. After Ctrl-C the step is finished, the
    cursor is back, the terminal's modes are those of before, and standard output, a pipe, has the
    results alone. The run is started with the installed script, and its reward is a module of the
    working folder, which the reward worker finds."""
    (tmp_path / "my_rewards.py").write_text(MY_REWARDS, encoding="utf-8")
    screen, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    before = termios.tcgetattr(terminal)
    run = subprocess.Popen(
        [SCRIPT, "train", "shapes", f"root={tmp_path}", *SMALL, MY_REWARD],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=terminal, text=True,
        env=os.environ | {
            "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "NO_COLOR": "1", "COLUMNS": "100",
        },
    )  # fmt: skip
    shown = bytearray()

    def read() -> None:
        with suppress(OSError):  # once no process has the terminal open
            while True:
                shown.extend(os.read(screen, 65536))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        deadline = time.monotonic() + 400
        while "step 2/500" not in text(shown):
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
    seen = text(shown)
    assert run.returncode == 130, seen[-3000:]
    for awaited in (
        "reading files and loading libraries",
        "starting Ray",
        "loading the policy on rollout worker 0",
        "loading /",  # the model on the learner ranks, by its path, which may be cut
        "rollout workers  1 ",
    ):
        assert awaited in seen, awaited
    assert f"run folder {tmp_path / 'shapes'}\n" in seen
    assert "stopping after this step; press Ctrl-C again to stop at once\n" in seen
    assert seen.count("Traceback") == 0
    last = shown.decode(errors="replace")
    assert last.rindex("\x1b[?25h") > last.rindex("\x1b[?25l")  # the cursor is shown
    assert after == before
    assert re.search(r"eg-grpo: stopped \(the last checkpoint is .*--resume\)\n$", seen)
    assert "\x1b" not in out
    assert [line.split(":")[0] for line in out.splitlines()[-2:]] == ["checkpoint", "report"]


def text(shown: bytearray) -> str:
    """What was written to the terminal, without control sequences."""
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", bytes(shown).decode(errors="replace"))
    return plain.replace("\r\n", "\n").replace("\r", "")

"""A new user's path through the documents, in a fresh virtual environment, timed.

    python tools/new_user.py

Clones this repository into a temporary folder, installs it with pip, and types the commands of the
first pages there, where nothing but the user's own files lies. Prints a table with the seconds of
each command, for docs/first_run.md. The first one that fails, or that does not print what it
should, ends it with exit code 1 and with what was printed.
"""

from __future__ import annotations

import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import suppress
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parents[1]
STEPS = 8
CHECKPOINT = f"runs/shapes/checkpoints/step-{STEPS}"
BRIGHTNESS = "'rewards=[{name: brightness, factory: my_rewards:Brightness, cpus_per_worker: 0.5}]'"
PROMPT = '--prompt "a photo of a red circle"'
# Page of docs/, command as it is typed, and what it must print.
INSTALLING = [
    ("install", f"git clone --quiet {shlex.quote(str(ROOT))} clone", ""),
    ("install", "python3 -m venv venv", ""),
    ("install", "venv/bin/pip install --quiet --constraint clone/constraints.txt ./clone", ""),
]
BEFORE = [
    ("install", "eg-grpo doctor shapes", ""),
    ("install", "eg-grpo configs", "janus-pro-7b"),
    ("commands", "eg-grpo config --explain learner.learning_rate", "default"),
]
TRAIN = f"eg-grpo train shapes steps={STEPS}"
AFTER = [
    ("first_run", "eg-grpo status runs/shapes", f"{STEPS}"),
    ("first_run", f"eg-grpo generate --model {CHECKPOINT} {PROMPT} --n 8", "generated/sheet.png"),
    ("report", "eg-grpo report runs/shapes", "runs/shapes/report.html"),
]
SERVE = "eg-grpo serve runs/shapes --port 0"
OWN_REWARD = [
    ("own_reward", f"eg-grpo train shapes --dry-run {BRIGHTNESS}", "my_rewards:Brightness"),
    (
        "own_reward",
        f"eg-grpo rewards test shapes {BRIGHTNESS} --image generated/0.png {PROMPT}",
        "brightness: ",
    ),
    ("own_reward", f"eg-grpo train shapes --new steps=2 {BRIGHTNESS}", "reward on seen prompts"),
    ("report", "eg-grpo compare runs/shapes runs/shapes-2", "comparison.html"),
    ("janus_pro", f"eg-grpo export {CHECKPOINT} my-janus", "my-janus"),
]
_LONGEST_S = 1800.0


def main() -> None:
    """Go the path, and print a row for each command when it is done."""
    # A shell that starts this in the background has it ignore Ctrl-C, and its commands as well.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="new-user-") as name:
        user = User(Path(name))
        print(f"On {os.cpu_count()} cores, {date.today()}:\n\n| page | command | seconds |")
        print("|---|---|---|", flush=True)
        for page, command, awaited in INSTALLING + BEFORE:
            user.types(page, command, awaited)
        user.trains()
        for page, command, awaited in AFTER:
            user.types(page, command, awaited)
        user.serves()
        (smallest,) = re.findall(
            r"^```python\n(.*?)^```$", user.read("clone/docs/own_reward.md"), re.M | re.S
        )
        (user.folder / "my_rewards.py").write_text(smallest, encoding="utf-8")
        for page, command, awaited in OWN_REWARD:
            user.types(page, command, awaited)
        print(f"| | all | {user.seconds:.0f} |")


class User:
    """Types commands in a folder that was empty, and notes how long each took."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds = 0.0
        kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        self._environment = kept | {"PATH": f"{folder}/venv/bin:{os.environ['PATH']}"}

    def read(self, file: str) -> str:
        return (self.folder / file).read_text(encoding="utf-8")

    def types(self, page: str, command: str, awaited: str) -> None:
        """Run the command to its end."""
        began = time.monotonic()
        process = self._start(command, stderr=subprocess.STDOUT)
        try:
            out, _ = process.communicate(timeout=_LONGEST_S)
        finally:
            process.kill()
        ended_well = process.returncode == 0 and awaited in out
        self._row(page, command, time.monotonic() - began, ended_well, out)

    def trains(self) -> None:
        """Run the training on a terminal, and note when its first frame came."""
        screen, terminal = pty.openpty()
        began, shown, first_frame_s = time.monotonic(), bytearray(), list[float]()

        def look() -> None:
            with suppress(OSError):  # once no process has the terminal open
                while True:
                    shown.extend(os.read(screen, 65536))
                    if not first_frame_s and b"reading files and loading libraries" in shown:
                        first_frame_s.append(time.monotonic() - began)

        looking = threading.Thread(target=look, daemon=True)
        looking.start()
        process = self._start(TRAIN, stderr=terminal)
        try:
            out, _ = process.communicate(timeout=_LONGEST_S)
        finally:
            process.kill()
            os.close(terminal)
            looking.join(10)
        seconds, seen = time.monotonic() - began, out + shown.decode(errors="replace")
        ended_well = process.returncode == 0 and "report: " in out and bool(first_frame_s)
        self._row("first_run", TRAIN, seconds, ended_well, seen)
        print(f"| | its first frame on the terminal | {first_frame_s[0]:.1f} |", flush=True)

    def serves(self) -> None:
        """Serve the page, ask for it once, and end the server with Ctrl-C."""
        began = time.monotonic()
        process = self._start(SERVE, stderr=subprocess.STDOUT)
        ends = threading.Timer(_LONGEST_S, process.kill)
        ends.start()
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            address = line.split()[0] if line.startswith("http") else ""
            page = b""
            if address:
                with urllib.request.urlopen(address, timeout=60) as answer:
                    page = answer.read()
            seconds = time.monotonic() - began
            process.send_signal(signal.SIGINT)
            rest, _ = process.communicate(timeout=60)
        finally:
            ends.cancel()
            process.kill()
        ended_well = b"<html" in page and process.returncode == 0
        self._row("report", SERVE, seconds, ended_well, line + rest)

    def _start(self, command: str, stderr: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            shlex.split(command),
            cwd=self.folder, env=self._environment, text=True,
            stdout=subprocess.PIPE, stderr=stderr,
        )  # fmt: skip

    def _row(self, page: str, command: str, seconds: float, ended_well: bool, out: str) -> None:
        if not ended_well:
            sys.exit(f"{out[-5000:]}\nnew_user: this did not end as it should: {command}")
        self.seconds += seconds
        shown = command.replace(str(ROOT), "REPOSITORY")
        print(f"| [{page}.md]({page}.md) | `{shown}` | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()

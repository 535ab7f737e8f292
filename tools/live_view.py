"""Records the live view of a real run as a picture: docs/live.svg.

    python tools/live_view.py docs/live.svg

The run is small, and its folder is temporary. It runs in a terminal of tmux, which must be
installed. The picture has two screens: one of the start, and one of the step ``STEP``.
"""

from __future__ import annotations

import io
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
COMMAND = "eg-grpo train shapes"
SETTINGS = "steps=40 prompts_per_step=4 evaluation.prompts=4 evaluation.every=10".split()
COLUMNS, LINES, STEP = 100, 24, 12
_LONGEST_S = 900.0


def main(file: Path) -> None:
    """Run, look at the screen until step ``STEP``, and write the picture."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [*COMMAND.split()[1:], f"root={folder}", *SETTINGS]
        run = shlex.join([sys.executable, "-m", "orchestrator", *arguments])
        tmux = ["tmux", "-S", f"{folder}/tmux"]
        size = ["-x", str(COLUMNS), "-y", str(LINES)]
        subprocess.run([*tmux, "new-session", "-d", *size, run], cwd=ROOT, check=True)
        try:
            start = screen(tmux, "loading the policy")
            step = screen(tmux, f"step {STEP}/")
        finally:
            subprocess.run([*tmux, "send-keys", "C-c"], check=False)
            wait_for_end(tmux)
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    for title, shown in (("after the start", start), (f"at step {STEP}", step)):
        console.print(Text(f"$ {COMMAND}   # {title}", style="bold"))
        console.print(Text.from_ansi(shown.replace(f"{folder}/", "runs/").rstrip()))
        console.print()
    # Without the fonts that rich would have a browser fetch from another site.
    picture = re.sub(r"@font-face \{.*?\}\s*", "", console.export_svg(title=COMMAND), flags=re.S)
    file.write_text(picture, encoding="utf-8")


def screen(tmux: list[str], awaited: str) -> str:
    """The screen, with colours, as soon as it shows the text. Raises ``TimeoutError``."""
    deadline = time.monotonic() + _LONGEST_S
    while time.monotonic() < deadline:
        shown = subprocess.run(
            [*tmux, "capture-pane", "-p", "-e"], capture_output=True, text=True, check=True
        ).stdout
        if awaited in shown:
            return shown
        time.sleep(0.3)
    raise TimeoutError(f"the screen never showed {awaited!r}")


def wait_for_end(tmux: list[str]) -> None:
    """Return when the run has stopped, and with it the terminal."""
    while subprocess.run([*tmux, "has-session"], capture_output=True, check=False).returncode == 0:
        time.sleep(0.5)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

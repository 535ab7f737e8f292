"""The driver of a run as a process: starting it, going on after it died, and what it tells."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from orchestrator.pipeline.ledger_folder import read_run
from orchestrator.pipeline.ledger_view import LedgerView
from orchestrator.record.run_folder import read_rows
from policy.errors import UserError
from policy.types import JsonDict

ROOT = Path(__file__).parent.parent.parent
_USER_ERROR = 2  # the exit code of bad input


class Driver:
    """One run of ``eg-grpo train``, whose process may be started several times."""

    def __init__(self, root: Path, name: str, overrides: Sequence[str], scratch: Path) -> None:
        """The run folder is ``root/name``; ``overrides`` are key=value settings.

        ``scratch`` is its folder for temporary files. What a killed driver leaves there ends with
        it. Its path must be short, because Ray keeps sockets in it.
        """
        self.folder = root / name
        self._scratch = scratch
        self._root, self._name, self._overrides = root, name, overrides
        self.lines: list[tuple[float, str]] = []  # what it said on stderr, and when (Unix time)
        self.stepping = False  # whether the process that was started last has begun to train
        self.starts = 0
        self.begun_anew = 0  # how often a driver died before it had written its settings
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        """Of the process that was started last."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Begin the run, or go on with it."""
        if self.starts and (self.folder / "config.yaml").is_file():
            words = [str(self.folder / "config.yaml"), "--resume"]
        else:
            # A run that died before it had written its settings is begun anew. As ``--new`` would
            # do, the new run then gets another folder.
            if self.starts:
                self.begun_anew += 1
                self.folder.rename(self._root / f"{self._name}-died-{self.begun_anew}")
            words = ["configs/shapes.yaml", f"root={self._root}", f"name={self._name}"]
            words += self._overrides
        self.starts += 1
        self.stepping = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", "train", *words],
            cwd=ROOT,
            # Ray gives its workers a low priority. Any other program on the machine would then take
            # the time that is measured.
            env=os.environ | {"TMPDIR": str(self._scratch), "RAY_worker_niceness": "0"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        threading.Thread(target=self._listen, args=[self._process], daemon=True).start()

    def ended(self) -> int | None:
        """The exit code; None as long as the process runs."""
        assert self._process is not None
        return self._process.poll()

    def wait_ended(self, timeout_s: float) -> int:
        """The exit code, once the process has ended."""
        assert self._process is not None
        return self._process.wait(timeout_s)

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        with (self._root / f"{self._name}.log").open("a") as log:
            for line in process.stderr:
                self.lines.append((time.time(), line.rstrip()))
                # The lines of its evaluations and steps begin so.
                self.stepping |= line.startswith("step ") and process is self._process
                log.write(line)
                log.flush()

    # What the run folder tells

    def rows(self) -> list[JsonDict]:
        """The rows of metrics.jsonl."""
        return read_rows(self.folder / "metrics.jsonl")

    def steps_done(self) -> int:
        """The step of the last row; 0 before the first."""
        rows = self.rows()
        return rows[-1]["step"] if rows else 0

    def view(self) -> LedgerView | None:
        """The ledger at this moment; None if it cannot be read."""
        try:
            return read_run(self.folder)
        except UserError:
            return None

    def log(self) -> list[str]:
        """The lines of run.log."""
        file = self.folder / "run.log"
        return file.read_text(errors="replace").splitlines() if file.is_file() else []

    def warnings(self) -> list[tuple[float, str]]:
        """The warnings of run.log and what the driver said on stderr, with their Unix times."""
        found = list(self.lines)
        for line in self.log():
            day, _, rest = line.partition(" ")
            moment, _, text = rest.partition(" ")
            if text.startswith(("WARNING", "ERROR")):
                then = datetime.strptime(f"{day} {moment}", "%Y-%m-%d %H:%M:%S,%f")
                found.append((then.timestamp(), text))
        return sorted(found)

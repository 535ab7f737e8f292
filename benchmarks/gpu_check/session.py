"""Runs the parts one after the other, each in its own process and with its own time limit.

Failure policy: when a part raises, dies or takes too long, the failure is recorded with the figures
measured until then, and the next part starts. Only an interrupt ends the session. A failed part
does not count as done, so the next call runs it again.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.child import Failed, serve
from benchmarks.gpu_check.parts import Part
from benchmarks.gpu_check.results import DONE, PartResult, Results, Stamp
from benchmarks.gpu_check.table import markdown
from benchmarks.gpu_check.task import Measure, Task

SHORTEST_S = 5.0  # with less left no part is started
GRACE_S = 1.0  # for the trace of a part whose time is over
_STAMP_S = 120.0  # the first process imports everything


@dataclass
class Session:
    """A run of the parts into a folder; ``minutes`` bounds all of them together."""

    device: str
    tiny: bool
    minutes: float
    folder: Path

    def __post_init__(self) -> None:
        self._start = time.monotonic()
        self._end = self._start + 60 * self.minutes
        self.folder.mkdir(parents=True, exist_ok=True)
        self.results = Results(self.folder)
        self._context = self._processes()

    def run(self, parts: Sequence[Part]) -> bool:
        """Whether every part is done, now or before."""
        try:
            stamp = self._stamp()
            missing = [part for part in parts if not self.results.is_done(part.name, stamp)]
            self._say(f"{', '.join(stamp.values())}: {len(missing)} of {len(parts)} parts to run")
            while missing:
                part, left_s = missing[0], self._end - time.monotonic()
                if left_s < SHORTEST_S:
                    self._say(f"no time left for {', '.join(p.name for p in missing)}")
                    break
                # Twice its share: few parts need theirs, and what one leaves goes to the others.
                share = part.share / sum(one.share for one in missing)
                self._run(part, stamp, min(2 * share * left_s, left_s - GRACE_S))
                missing.pop(0)
        finally:
            shutil.rmtree(self.folder / "scratch", ignore_errors=True)
        return all(self.results.is_done(part.name, stamp) for part in parts)

    def _run(self, part: Part, stamp: Stamp, limit_s: float) -> None:
        result = PartResult(stamp, datetime.now(UTC).isoformat(timespec="seconds"))
        self.results.parts[part.name] = result
        started = time.monotonic()
        self._say(f"{part.name}: {part.title}, {limit_s:.0f} s at most")
        for answer in self._answers(part.name, part.module, limit_s):
            result.seconds = round(time.monotonic() - started, 1)
            if isinstance(answer, Measure):
                result.measures.append(answer)
                shape = f" ({answer.shape})" if answer.shape else ""
                self._say(f"{part.name}: {answer.what}: {answer.shown()}{shape}")
            else:
                result.status = answer.reason if isinstance(answer, Failed) else DONE
                self._say(f"{part.name}: {result.status}, {result.seconds:.0f} s")
            self._write()

    def _stamp(self) -> Stamp:
        """Of the device, from a process of its own. The first to touch the GPU: if a copy of a
        prepared process cannot, all processes are started afresh."""
        for _ in range(2):
            *found, end = self._answers("stamp", "benchmarks.gpu_check.stamp", _STAMP_S)
            if end is None:
                return {m.what: str(m.value) for m in found if isinstance(m, Measure)}
            self._say(f"stamp: {end.reason}")  # type: ignore[union-attr]
            self._context = multiprocessing.get_context("spawn")
        raise SystemExit(f"gpu_check: {self.device} cannot be used")

    def _answers(self, name: str, module: str, limit_s: float) -> Iterator[Measure | Failed | None]:
        """What a part sends, then ``None`` or how it ended."""
        task = Task(self.device, self.tiny, limit_s, (self.folder / "scratch" / name).absolute())
        task.folder.mkdir(parents=True, exist_ok=True)
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(target=serve, args=(module, task, theirs), name=name)
        process.start()
        theirs.close()
        deadline = time.monotonic() + limit_s + GRACE_S
        try:
            while True:
                if not ours.poll(max(0.0, deadline - time.monotonic())):
                    yield Failed(f"not ended within {limit_s:.0f} s")
                    return
                try:
                    answer = ours.recv()
                except EOFError:
                    process.join(GRACE_S)
                    yield Failed(f"its process ended with code {process.exitcode}")
                    return
                yield answer
                if not isinstance(answer, Measure):
                    return
        finally:
            _end(process)
            shutil.rmtree(task.folder, ignore_errors=True)

    def _processes(self) -> Any:
        """Copies of a process that has imported everything: one import for all parts."""
        scratch = str((self.folder / "scratch").absolute())
        os.environ |= {
            "HF_HUB_OFFLINE": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            # Otherwise to ask whether there is a GPU spoils the copies of a process for it.
            "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
            "CUDA_CACHE_PATH": f"{scratch}/cuda",
            "HF_HOME": f"{scratch}/huggingface",
            "TORCHINDUCTOR_CACHE_DIR": f"{scratch}/inductor",
            "TRITON_CACHE_DIR": f"{scratch}/triton",
        }
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["benchmarks.gpu_check.preload"])
        return context

    def _write(self) -> None:
        self.results.write()
        (self.folder / "table.md").write_text(markdown([self.results.parts]), encoding="utf-8")

    def _say(self, line: str) -> None:
        print(f"[{time.monotonic() - self._start:4.0f} s] {line}", flush=True)


def _end(process: Any) -> None:
    """End a part and all that it started, whatever they are doing."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()  # one that had not come to have a group of its own
    process.join()


@contextmanager
def ended_in_order() -> Iterator[None]:
    """A termination ends the running part too."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

"""A call that runs in a thread of its own, while this thread keeps the other stages going.

The thread only waits for other processes. What the call does to the pipeline's own state happens
when its result is taken, in the thread that takes it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Background(Generic[Result]):
    """Starts the call at once."""

    def __init__(self, call: Callable[[], Result], name: str) -> None:
        self.name, self._call = name, call
        self._began = time.monotonic()
        self._done = threading.Event()
        self._failure: BaseException | None = None
        # A daemon: after Ctrl-C nobody waits for it, and it ends when the process does.
        threading.Thread(target=self._run, name=name, daemon=True).start()

    @property
    def done(self) -> bool:
        """Whether the call has returned or raised."""
        return self._done.is_set()

    @property
    def seconds(self) -> float:
        """How long ago the call was started."""
        return time.monotonic() - self._began

    def wait(self, timeout_s: float) -> None:
        """Return when the call is done, or after the timeout."""
        self._done.wait(timeout_s)

    def result(self) -> Result:
        """What the call returned, or raise what it raised; only once it is ``done``."""
        if self._failure is not None:
            raise self._failure
        return self._result

    def _run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as failure:  # it is raised where the result is taken
            self._failure = failure
        finally:
            self._done.set()

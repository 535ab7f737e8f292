"""``run.log``: what a run says to itself, without secrets, and never lost unseen."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from policy.disk import writing
from policy.secrets import masked

log = logging.getLogger("eg_grpo")


class _Masked(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))


@contextmanager
def logged_to(file: Path) -> Iterator[None]:
    """Have ``eg_grpo`` log into this file, and no longer when the run is over."""
    with writing(file):
        handler = RunLog(file)
    handler.setFormatter(_Masked("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        with suppress(OSError):  # of a line that was already said not to be written
            handler.close()


class RunLog(logging.FileHandler):
    """A log line that cannot be written stops the run, as a row does; it is not lost unseen."""

    def handleError(self, record: logging.LogRecord) -> None:
        with writing(Path(self.baseFilename)):
            raise  # what the handler has just caught

"""``run.log``: the log of a run with secrets masked. If a line cannot be written, the run stops."""

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
    """Write the log messages of ``eg_grpo`` to ``file`` as long as the context lasts."""
    with writing(file):
        handler = RunLog(file)
    handler.setFormatter(_Masked("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        with suppress(OSError):  # the disk is full: ``handleError`` has reported it
            handler.close()


class RunLog(logging.FileHandler):
    """Raises when a line cannot be written. logging itself would drop the line and go on."""

    def emit(self, record: logging.LogRecord) -> None:
        with writing(Path(self.baseFilename)):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        raise  # the exception that logging has just caught

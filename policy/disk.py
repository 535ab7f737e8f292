"""What a disk does to a run when it is full, over its quota or broken: one line, with the file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class NotWritten(Exception):
    """A file could not be written; the message names it and what room there is."""


@contextmanager
def writing(path: Path, *also: type[Exception]) -> Iterator[None]:
    """Turn the ``OSError`` of whoever writes ``path``, and errors ``also``, into ``NotWritten``.

    Libraries hide the system's reason behind errors of their own, so the room is said in any case.
    """
    kinds: tuple[type[Exception], ...] = (OSError, *also)
    try:
        yield
    except kinds as error:
        reason = getattr(error, "strerror", None) or _first_line(error)
        raise NotWritten(f"{path} cannot be written: {reason}{_room(path)}") from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _room(path: Path) -> str:
    """Where the path, or the folder that it was to be made in, lies."""
    for place in (path, *path.parents):
        try:
            found = os.statvfs(place)
        except OSError:
            continue
        return f" ({found.f_bavail * found.f_frsize / 2**20:.1f} MiB are free there)"
    return ""

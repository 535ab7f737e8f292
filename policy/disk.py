"""Files that appear whole or not at all, in folders that hold nothing else; and a full disk as one
line that names the file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from policy.errors import RunFailed, UserError


class NotWritten(RunFailed):
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


def write_whole(file: Path, content: str | bytes) -> None:
    """Have ``content`` under the name ``file``: whoever reads it, even after a crash, finds the old
    content or the new. Text is written as UTF-8. Raises ``NotWritten`` when it cannot be written.
    """
    new = content.encode() if isinstance(content, str) else content
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    with writing(file):
        try:
            with fresh.open("wb") as stream:
                stream.write(new)
                stream.flush()
                os.fsync(stream.fileno())
            fresh.replace(file)
        finally:
            fresh.unlink(missing_ok=True)


def is_in_part(name: str) -> bool:
    """Whether a file of this name is one that ``write_whole`` has not finished."""
    return name.startswith(".") and name.rpartition(".")[2].isdecimal()


def made_anew(folder: Path) -> Path:
    """Make the first of ``folder``, ``folder-2``, ... that is not there; two processes at once
    never make the same. Raises ``OSError`` when none can be made."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        candidate = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        with suppress(FileExistsError):
            candidate.mkdir()
            return candidate
    raise AssertionError("there is always another number")


def check_vacant(folder: Path) -> None:
    """Raise ``UserError`` unless the folder is empty or not there."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder; nothing was written")


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

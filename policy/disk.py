"""Writes files so that a reader never finds half of one, and makes new empty folders.

A write that fails, for instance on a full disk, becomes one line that names the file. A folder can
be fenced: this process then asks before each write whether it may still write there.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import IO

from policy.errors import RunFailed, UserError

_fences: list[tuple[Path, Callable[[], None]]] = []


class NotWritten(RunFailed):
    """A file could not be written. The message names the file and says how much space is free."""


@contextmanager
def fenced(folder: Path, check: Callable[[], None]) -> Iterator[None]:
    """Call ``check`` before each write of this process below ``folder``, until the block ends.

    ``check`` raises when this process may not write there any more. Then nothing is written.
    """
    fence = folder.absolute(), check
    _fences.append(fence)
    try:
        yield
    finally:
        _fences.remove(fence)


@contextmanager
def writing(path: Path, *also: type[Exception]) -> Iterator[None]:
    """Turn an ``OSError`` of the block, or one of the errors ``also``, into ``NotWritten``.

    The block writes ``path``, and does not begin if a fence refuses it. The message always gives
    the free space, because many libraries replace the system's reason ("no space left") by an error
    of their own.
    """
    for folder, check in _fences:
        if path.absolute().is_relative_to(folder):
            check()
    kinds: tuple[type[Exception], ...] = (OSError, *also)
    try:
        yield
    except kinds as error:
        reason = getattr(error, "strerror", None) or _first_line(error)
        raise NotWritten(f"{path} cannot be written: {reason}{_room(path)}") from error


def write_whole(file: Path, content: str | bytes) -> None:
    """Write ``content`` to ``file``. A reader finds the old content or the new one, even after a
    crash. Text is written as UTF-8.

    Raises ``NotWritten`` when the file cannot be written.
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


def locked(stream: IO[str], whose: str) -> bool:
    """Lock an open file for this process until it is closed; False if another one has locked it.

    Raises ``UserError`` that begins with ``whose`` when the storage cannot lock files.
    """
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        stream.close()
        raise UserError(
            f"{whose} cannot be used: its storage cannot lock files ({error.strerror})"
        ) from None
    return True


def sync(path: Path) -> None:
    """Wait until a file's bytes, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some shared file systems cannot sync folders.
        if not (path.is_dir() and error.errno in (errno.EINVAL, errno.EBADF)):
            raise
    finally:
        os.close(descriptor)


def is_in_part(name: str) -> bool:
    """Whether this is the name of a temporary file that ``write_whole`` has not finished."""
    return name.startswith(".") and name.rpartition(".")[2].isdecimal()


def made_anew(folder: Path) -> Path:
    """Make the first of ``folder``, ``folder-2``, ``folder-3``, ... that does not exist yet.

    Two processes that call this at the same time get two folders. Raises ``OSError`` when the
    folder cannot be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        candidate = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        with suppress(FileExistsError):
            candidate.mkdir()
            return candidate
    raise AssertionError("there is always another number")


def check_vacant(folder: Path) -> None:
    """Raise ``UserError`` unless the folder is empty or does not exist."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder; nothing was written")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _room(path: Path) -> str:
    """The free space of the file system that ``path`` lies on, or would lie on, as text."""
    for place in (path, *path.parents):
        try:
            found = os.statvfs(place)
        except OSError:
            continue
        return f" ({found.f_bavail * found.f_frsize / 2**20:.1f} MiB are free there)"
    return ""

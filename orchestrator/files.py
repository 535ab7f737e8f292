"""Files that appear whole or not at all, in folders that hold nothing else."""

from __future__ import annotations

import os
from contextlib import suppress
from itertools import count
from pathlib import Path

from policy.disk import writing
from policy.errors import UserError


def write_whole(file: Path, text: str) -> None:
    """Have ``text`` under the name ``file``: whoever reads it, even after a crash, finds the old
    text or the new. Raises ``NotWritten`` when it cannot be written.
    """
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    with writing(file):
        try:
            with fresh.open("w", encoding="utf-8") as stream:
                stream.write(text)
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

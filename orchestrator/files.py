"""Files that appear whole or not at all, and what tells one from another."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from policy.errors import UserError


def write_whole(file: Path, text: str) -> None:
    """Have ``text`` under the name ``file``: whoever reads it, even after a crash, finds the old
    text or the new. Raises ``OSError`` when it cannot be written.
    """
    fresh = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with fresh.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(file)
    finally:
        fresh.unlink(missing_ok=True)


def sha256(file: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_vacant(folder: Path) -> None:
    """Raise ``UserError`` unless the folder is empty or not there."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder; nothing was written")

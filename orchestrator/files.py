"""Files that appear whole or not at all, in folders that hold nothing else."""

from __future__ import annotations

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


def check_vacant(folder: Path) -> None:
    """Raise ``UserError`` unless the folder is empty or not there."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder; nothing was written")

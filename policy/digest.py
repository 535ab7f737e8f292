"""The digest by which two files are compared."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_MOST_THREADS = 8  # more would wait for the disk


def sha256(file: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of_each(files: Sequence[Path]) -> list[str]:
    """The SHA-256 of each file, in order. Several files are read at the same time, each on a core
    of its own: hashing a large checkpoint on one core takes longer than reading it."""
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as threads:
        return list(threads.map(sha256, files))

"""Paths for DeepSpeed, which takes some of them as patterns."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def plain_path(folder: Path) -> Iterator[str]:
    """The path of a link to the folder, which lasts as long as the block.

    DeepSpeed looks for files by patterns that begin with the path of their folder. In a pattern a
    ``[`` or ``+`` means something else. The link's own path has no such character.
    """
    with tempfile.TemporaryDirectory() as parent:
        link = Path(parent, "link")
        link.symlink_to(folder.absolute())
        yield str(link)

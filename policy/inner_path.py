"""Names of files that stand in files from outside: only what stays in the folder is followed."""

from __future__ import annotations

from pathlib import PurePosixPath


def stays_inside(name: object) -> bool:
    """Whether a name, joined to a folder, is of something below it.

    By the name alone: the folders of the Hub's cache hold links that lead out of them.
    """
    if not isinstance(name, str) or not name or "\\" in name or "\0" in name:
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and path.parts != ()

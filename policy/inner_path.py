"""Checks file names that are read from a downloaded file before they are opened.

Such a name could point out of the folder (``../../etc/passwd``). Names that do are refused.
"""

from __future__ import annotations

from pathlib import PurePosixPath


def stays_inside(name: object) -> bool:
    """Whether a name, joined to a folder, names something below that folder.

    Only the name is checked. Links are not followed, because the folders of the Hub's cache
    consist of links that lead out of them.
    """
    if not isinstance(name, str) or not name or "\\" in name or "\0" in name:
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and path.parts != ()

"""How an optional part of the project is installed."""

from __future__ import annotations


def install_command(extra: str) -> str:
    """The command for one of the extras of pyproject.toml.

    It names the clone: no package index has this project, and one could have another of its name.
    """
    return (
        f"pip install --constraint constraints.txt --editable '.[{extra}]' (in the clone; on GPUs"
        " with deploy/docker/constraints-gpu.txt)"
    )

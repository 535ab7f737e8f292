"""The flags of the commands about this machine, and of the shell."""

from __future__ import annotations

import argparse

SHELLS = ("bash", "zsh", "tcsh")


def add_env_flags(env: argparse.ArgumentParser) -> None:
    """None: there is one thing to print."""


def add_completion_flags(completion: argparse.ArgumentParser) -> None:
    """The shell whose script is printed."""
    completion.add_argument("shell", choices=SHELLS, help="shell that will read the script")

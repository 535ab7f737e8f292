"""``eg-grpo completion``: prints a script that lets a shell complete commands and flags."""

from __future__ import annotations

import argparse
from pathlib import Path

import shtab

from orchestrator.commands.parser import make_parser


def run(parsed: argparse.Namespace) -> None:
    """Print the script for the shell."""
    parser = make_parser()
    _complete_files(parser)
    print(shtab.complete(parser, shell=parsed.shell))


def _complete_files(parser: argparse.ArgumentParser) -> None:
    """Have file names completed wherever an argument is a path, also in subcommands."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                _complete_files(below)
        elif action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # shtab's way to be told

"""Arguments that several commands have."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_config(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    parser.add_argument(
        "config",
        type=Path,
        nargs="?" if optional else None,
        help="configuration file (YAML), or the name of a shipped one, such as shapes",
    )
    add_overrides(parser)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="replace a setting of the file, such as learner.learning_rate=2e-6",
    )

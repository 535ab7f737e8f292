"""The flags of the commands that provide files."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_data_flags(data: argparse.ArgumentParser) -> None:
    text = (
        "download the files that are missing, check the others, and list the validation prompts"
        " that are also training prompts"
    )
    fetch = data.add_subparsers(required=True, metavar="action").add_parser(
        "fetch", help=text, description=f"{text[0].upper()}{text[1:]}."
    )
    fetch.add_argument(
        "--output", type=Path, default=Path("data"), help="folder of the files (default data/)"
    )

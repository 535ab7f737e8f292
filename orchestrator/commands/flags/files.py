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


def add_configs_flags(configs: argparse.ArgumentParser) -> None:
    """The list, which needs no action, and ``copy``."""
    configs.set_defaults(action="list")
    text = "copy a configuration, to change it"
    copy = configs.add_subparsers(metavar="action").add_parser(
        "copy", help=text, description=f"{text[0].upper()}{text[1:]}."
    )
    copy.add_argument("name", help="name of a shipped configuration, such as shapes")
    copy.add_argument(
        "file", type=Path, nargs="?", help="file to write, which must not exist (default NAME.yaml)"
    )
    copy.set_defaults(action="copy")


def add_config_flags(config: argparse.ArgumentParser) -> None:
    """What to print about settings; one of the two must be given."""
    group = config.add_mutually_exclusive_group(required=True)
    group.add_argument(
        "--explain",
        metavar="KEY",
        help="say what one setting is, such as learner.learning_rate, or a group, such as learner",
    )
    group.add_argument(
        "--reference", action="store_true", help="print the reference of all settings as Markdown"
    )

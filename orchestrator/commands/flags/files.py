"""The flags of the commands that provide files."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_data_flags(data: argparse.ArgumentParser) -> None:
    text = (
        "download the files that are missing, check the others, and list the validation prompts"
        " that are also training prompts"
    )
    actions = data.add_subparsers(required=True, metavar="action")
    fetch = actions.add_parser("fetch", help=text, description=f"{text[0].upper()}{text[1:]}.")
    fetch.set_defaults(action="fetch")
    fetch.add_argument(
        "--output", type=Path, default=Path("data"), help="folder of the files (default data/)"
    )
    text = "find the noun chunks of prompts with spaCy, for the scorers of T2I-CompBench"
    chunks = actions.add_parser("chunks", help=text, description=f"{text[0].upper()}{text[1:]}.")
    chunks.set_defaults(action="chunks")
    chunks.add_argument(
        "files", type=Path, nargs="+", metavar="FILE", help="*.txt, one prompt a line"
    )
    chunks.add_argument(
        "--output",
        type=Path,
        default=Path("data/chunks.json"),
        help="file to write (default data/chunks.json)",
    )
    chunks.add_argument(
        "--model",
        default="en_core_web_sm",
        help="model of spaCy, which must be installed (default en_core_web_sm)",
    )
    text = "write questions about rendered scenes, for evaluate understanding"
    questions = actions.add_parser(
        "questions", help=text, description=f"{text[0].upper()}{text[1:]}."
    )
    questions.set_defaults(action="questions")
    questions.add_argument(
        "--output",
        type=Path,
        default=Path("data/questions"),
        help="folder to write, empty or not there (default data/questions)",
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

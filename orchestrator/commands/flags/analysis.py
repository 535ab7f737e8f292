"""The flags of ``eg-grpo analyze``."""

from __future__ import annotations

import argparse
from pathlib import Path

from orchestrator.commands.flags.shared import add_config


def add_analyze_flags(analyze: argparse.ArgumentParser) -> None:
    """The one analysis, ``entropy``."""
    text = "draw images of checkpoints, score them, and make figures 2 to 5 of the paper from them"
    entropy = analyze.add_subparsers(required=True, metavar="analysis").add_parser(
        "entropy", help=text, description=f"{text[0].upper()}{text[1:]}."
    )
    add_config(entropy)
    for flag, kind, words in (
        ("--model", _with_cot, "a checkpoint, drawn with a chain of thought before each image"),
        ("--plain", _without_cot, "a checkpoint, drawn from the prompts alone"),
    ):
        entropy.add_argument(
            flag, dest="settings", action="append", type=kind, metavar="NAME=MODEL",
            help=f"{words}; may be given several times, and each is compared with the one before",
        )  # fmt: skip
    entropy.add_argument(
        "--output",
        type=Path,
        default=Path("entropy"),
        help="folder for the dataset and the figures (default entropy); a call that was stopped"
        " goes on in it, and what is there already is neither drawn nor scored again",
    )
    entropy.add_argument(
        "--prompts", type=Path, help="prompt file (default: data.train of the configuration)"
    )
    for flag, default, words in (
        ("--num-prompts", 20, "how many prompts from the head of the file"),
        ("--cots", 10, "chains of thought for each prompt"),
        ("--images", 10, "images for each chain of thought"),
        ("--seed", 0, "another seed draws other samples"),
    ):
        entropy.add_argument(flag, type=int, default=default, help=f"{words} (default {default})")
    entropy.add_argument(
        "--entropies",
        choices=("guided", "conditional"),
        default="guided",
        help="image tokens are drawn from the guided distribution; training ranks them by the"
        " entropies of the conditional one (default guided)",
    )
    entropy.add_argument(
        "--statistic",
        choices=("std", "variance"),
        default="std",
        help="how the entropies of a chain's images spread, for both thresholds (default std)",
    )
    for flag, threshold, words in (
        ("--stable-below", 0.011, "spread below which a chain counts in figure 3"),
        ("--unstable-from", 0.03, "spread from which a chain counts on the right of figure 4"),
    ):
        entropy.add_argument(
            flag, type=float, default=threshold, help=f"{words} (default {threshold})"
        )
    entropy.add_argument("--bins", type=int, default=4, help="bins of figure 4 (default 4)")


def _with_cot(text: str) -> tuple[str, bool]:
    return text, True


def _without_cot(text: str) -> tuple[str, bool]:
    return text, False

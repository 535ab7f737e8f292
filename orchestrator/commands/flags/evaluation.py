"""The flags of the commands that measure models."""

from __future__ import annotations

import argparse
from pathlib import Path

from orchestrator.commands.flags.shared import add_overrides

# What each suite measures. The suites themselves are in ``evaluation.suites.registry``.
SUITES = {
    "compbench": "T2I-CompBench: colours, shapes, textures and relations of objects",
    "geneval": "GenEval: objects, counts, colours and positions, by an object detector",
    "wise": "WISE as the paper used it: prompts that need knowledge, by a judge behind HTTP",
    "wise-verified": "WISE in its version of 2026, whose scores are not those of the paper's"
    " version",
    "diversity": "how different the images of one prompt are, by the Vendi score",
    "quality": "how good images look, by BLIP-2, LAION aesthetics and PickScore",
    "shapes": "the embedded world, which needs no download",
}


def add_evaluate_flags(evaluate: argparse.ArgumentParser) -> None:
    """An action for each suite, and those about prompts, images, understanding and results."""
    actions = evaluate.add_subparsers(required=True, metavar="suite", dest="action")
    for name, about in SUITES.items():
        suite = actions.add_parser(name, help=about, description=f"Measures {about}.")
        suite.add_argument(
            "--model", help="checkpoint folder, or id[@revision] on the Hugging Face Hub"
        )
        suite.add_argument(
            "--images", type=Path, help="folder of the images of another model, instead of --model"
        )
        suite.add_argument(
            "--out",
            type=Path,
            required=True,
            help="folder of images, scores and result; the same command goes on in it",
        )
        add_overrides(suite)
    text = "print a suite's prompts by place, for --images of other programs"
    listing = actions.add_parser("list", help=text, description=f"{text[0].upper()}{text[1:]}.")
    listing.add_argument("suite", choices=tuple(SUITES), help="suite whose prompts are printed")
    add_overrides(listing)
    text = "draw a suite's images with another model, a pipeline of diffusers, for --images"
    draw = actions.add_parser("draw", help=text, description=f"{text[0].upper()}{text[1:]}.")
    draw.add_argument("suite", choices=tuple(SUITES), help="suite whose prompts are drawn")
    draw.add_argument(
        "--diffusers", required=True, metavar="MODEL", help="folder, or id on the Hugging Face Hub"
    )
    draw.add_argument(
        "--out", type=Path, required=True, help="folder for the images; the same command goes on"
    )
    for name, kind, text in (
        ("--steps", int, "denoising steps"),
        ("--guidance", float, "guidance scale"),
    ):
        draw.add_argument(name, type=kind, help=f"{text} (default: the pipeline's)")
    draw.add_argument(
        "--batch-size", type=int, default=4, help="images of a prompt drawn at once (default 4)"
    )
    draw.add_argument(
        "--no-filter", action="store_true", help="draw without the filter that a pipeline brings"
    )
    _add_device(draw)
    add_overrides(draw)
    text = "ask a checkpoint about images, to see what RL has done to its understanding"
    understanding = actions.add_parser(
        "understanding", help=text, description=f"{text[0].upper()}{text[1:]}."
    )
    understanding.add_argument(
        "--model", required=True, help="checkpoint folder, or id[@revision] on the Hugging Face Hub"
    )
    understanding.add_argument(
        "--questions",
        type=Path,
        help="file of images, questions and answers (default: scenes of the embedded world)",
    )
    understanding.add_argument(
        "--out", type=Path, required=True, help="folder for the result, empty or not there"
    )
    _add_device(understanding)
    text = "copy the images of an evaluation under the names that the suite's own programs want"
    export = actions.add_parser("export", help=text, description=f"{text[0].upper()}{text[1:]}.")
    export.add_argument("folder", type=Path, metavar="OUT", help="folder of an evaluation")
    export.add_argument("output", type=Path, help="folder for the images, empty or not there")
    text = "print the results of one suite as a Markdown table, with intervals and differences"
    table = actions.add_parser("table", help=text, description=f"{text[0].upper()}{text[1:]}.")
    table.add_argument(
        "folders",
        type=Path,
        nargs="+",
        metavar="OUT",
        help="folder of --out; the first is compared with",
    )


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="device to use (default cpu)"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="data type of the weights (default float32)",
    )

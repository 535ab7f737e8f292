"""The flags of the commands that use a checkpoint or the rewards."""

from __future__ import annotations

import argparse
from pathlib import Path

from orchestrator.commands.flags.shared import add_config


def add_generate_flags(generate: argparse.ArgumentParser) -> None:
    generate.add_argument(
        "--model", required=True, help="checkpoint folder, or id[@revision] on the Hugging Face Hub"
    )
    generate.add_argument("--prompt", required=True, help="text that describes the image")
    generate.add_argument(
        "--n", type=int, metavar="N", default=8, help="how many images (default 8)"
    )
    generate.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        default=8,
        help="how many images are drawn at once (default 8)",
    )
    generate.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help="folder for the images, which must be empty or not exist (default generated,"
        " generated-2, ...)",
    )
    generate.add_argument(
        "--seed",
        type=int,
        metavar="N",
        default=0,
        help="another seed draws other images (default 0)",
    )
    for name, kind, value, text in (
        ("--template", str, "NAME", "name of the prompt template"),
        ("--instruction", Path, "FILE", "file with the instruction for the chain of thought"),
        ("--guidance", float, "W", "guidance scale w"),
        ("--temperature", float, "T", "sampling temperature"),
        ("--max-cot-tokens", int, "N", "most tokens of a chain of thought"),
    ):
        generate.add_argument(
            name, type=kind, metavar=value, help=f"{text} (default: the checkpoint's)"
        )
    generate.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="device to use (default cpu)"
    )
    generate.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="data type of the weights (default float32)",
    )


def add_export_flags(export: argparse.ArgumentParser) -> None:
    export.add_argument(
        "checkpoint", type=Path, help="checkpoint folder of a run: .../checkpoints/step-N"
    )
    export.add_argument(
        "output", type=Path, help="folder for the model, which must be empty or not exist"
    )
    export.add_argument(
        "--adapter",
        action="store_true",
        help="copy the LoRA adapter for peft instead of the merged model",
    )


def add_init_random_flags(init_random: argparse.ArgumentParser) -> None:
    init_random.add_argument(
        "output", type=Path, help="folder for the checkpoint, which must be empty or not exist"
    )
    init_random.add_argument(
        "--like",
        required=True,
        choices=("janus-pro-1b", "janus-pro-7b", "tiny"),
        help="the model whose sizes it has",
    )
    init_random.add_argument(
        "--format",
        choices=("transformers", "original"),
        default="transformers",
        help="that of deepseek-community's or deepseek-ai's files (default transformers)",
    )
    init_random.add_argument(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="width of an image, which decides how many tokens it has: a model of Janus-Pro's sizes"
        " has 4 x 4 at 64 pixels (default: the model's, 384 for 24 x 24)",
    )
    init_random.add_argument(
        "--layers",
        type=int,
        metavar="N",
        help="layers of the language model (default: the model's)",
    )


def add_rewards_flags(rewards: argparse.ArgumentParser) -> None:
    """The one action, ``test``."""
    text = "score one image with the rewards of a configuration, without a cluster"
    test = rewards.add_subparsers(required=True, metavar="action").add_parser(
        "test", help=text, description=f"{text[0].upper()}{text[1:]}."
    )
    add_config(test)
    test.add_argument("--image", type=Path, required=True, help="image file to score")
    test.add_argument(
        "--prompt",
        required=True,
        help="text that the image is of; one of the configuration's prompts brings its objects",
    )

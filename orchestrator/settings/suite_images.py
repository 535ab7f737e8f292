"""Finds the images that another model drew for a suite."""

from __future__ import annotations

import hashlib
from pathlib import Path

from evaluation import comparison
from orchestrator.settings.suite_inputs import SuiteInputs
from policy.digest import sha256
from policy.errors import UserError
from policy.text_files import parse_json, read_json, read_text
from policy.types import JsonDict

DRAWN_BY = "drawn_by.json"  # what `eg-grpo evaluate draw` notes beside the images
LISTING = "prompts.jsonl"  # which place an evaluation has given to which prompt
ASKED = "evaluation.json"  # what an evaluation measures
_OF_POLICY = (
    "model", "weights", "template", "cot", "instruction", "guidance_scale", "temperature",
    "max_cot_tokens", "seed", "engine", "dtype",
)  # fmt: skip
_SHOWN = 3


def image_name(place: int, index: int) -> str:
    """The name of an image: ``<place>/<index>.png``, with five and two digits.

    ``place`` is that of the prompt in the whole suite.
    """
    return f"{place:05d}/{index:02d}.png"


def given_images(folder: Path, inputs: SuiteInputs) -> dict[tuple[int, int], Path]:
    """The file of each place and index, both counted from 0.

    A file has the ``image_name``, or the name that the programs of the suite's authors use. The
    images of an evaluation of this project have the places of its own listing. Raises ``UserError``
    that names files which are missing, and for images that were drawn for another suite.
    """
    if not folder.is_dir():
        raise UserError(f"--images: {folder} is not a folder")
    drawn_for = read_json(folder / DRAWN_BY)["suite"] if (folder / DRAWN_BY).is_file() else None
    if drawn_for not in (None, inputs.suite.name):
        raise UserError(f"--images: {folder} was drawn for {drawn_for}, not {inputs.suite.name}")
    places = _listed(folder.parent / LISTING) or inputs.places
    count = inputs.images_per_prompt
    found: dict[tuple[int, int], Path] = {}
    missing: list[str] = []
    for place, item in enumerate(inputs.items):
        for index in range(count):
            listed = places.get(item.prompt.id)
            names = [] if listed is None else [image_name(listed, index)]
            if inputs.suite.official_name is not None:
                names.append(inputs.suite.official_name(item, index, count))
            file = next((folder / name for name in names if (folder / name).is_file()), None)
            if file is None:
                missing.append(" or ".join(names) or f"an image of {item.prompt.id}")
            else:
                found[place, index] = file
    if missing:
        more = f", and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise UserError(
            f"--images: {folder} lacks {len(missing)} of {count * len(inputs.items)} images:"
            f" {', '.join(missing[:_SHOWN])}{more}"
        )
    return found


def _listed(file: Path) -> dict[str, int]:
    """The place of each prompt, by id, as an evaluation has listed them; empty without a file."""
    if not file.is_file():
        return {}
    lines = read_text(file).splitlines()
    rows = [parse_json(line, file, number) for number, line in enumerate(lines, start=1)]
    return {row["prompt_id"]: row["place"] for row in rows}


def about_images(folder: Path, images: dict[tuple[int, int], Path]) -> JsonDict:
    """What a result says of images that were drawn elsewhere."""
    about: JsonDict = {"images": str(folder), "images_sha256": images_digest(images)}
    if drawn_by := _drawn_by(folder):
        about[comparison.DRAWN_BY] = drawn_by
    return about


def _drawn_by(folder: Path) -> JsonDict:
    """How the images were drawn, if `evaluate draw` or another evaluation has noted it."""
    if (folder / DRAWN_BY).is_file():
        noted: JsonDict = read_json(folder / DRAWN_BY)
        return noted
    asked = folder.parent / ASKED
    drawn = read_json(asked) if asked.is_file() else {}
    return {key: drawn[key] for key in _OF_POLICY if key in drawn}


def images_digest(images: dict[tuple[int, int], Path]) -> str:
    """The SHA-256 of all files together."""
    files = "".join(sha256(file) for _, file in sorted(images.items()))
    return hashlib.sha256(files.encode()).hexdigest()

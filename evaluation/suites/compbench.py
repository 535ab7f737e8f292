"""T2I-CompBench: 300 prompts in each category, ten images of each prompt.

Color, shape and texture are scored by BLIP-VQA, and non-spatial relations by CLIPScore, as the
authors do. For spatial relations and numbers their detector, UniDet, cannot be had: GroundingDINO
takes its place, and these figures are not comparable. ``complex`` is the authors' 3-in-1: the mean
of BLIP-VQA and the spatial score, of BLIP-VQA and CLIPScore, or of all three, by the list that a
prompt is in.

The authors changed five lines of the color list in September 2025. Published figures are of the old
list. Both have a column, and a prompt that both lists hold is drawn once.

Source: T2I-CompBench 1b709499, and 7710d059 for the old color list.
"""

from __future__ import annotations

from pathlib import Path

from evaluation.chunks import Analyses, load_analyses
from evaluation.compbench_language import item as read_language
from evaluation.compbench_language import load_singulars
from evaluation.suites.suite import Column, Item, Suite, image_means
from policy.errors import UserError
from policy.text_files import read_text
from policy.types import Prompt

CHUNKS = "chunks.json"
OLD_COLOR = "color_2023"
_SCORERS = {
    "color": ("blip_vqa",),
    "shape": ("blip_vqa",),
    "texture": ("blip_vqa",),
    "non_spatial": ("clip_score",),
    "spatial": ("spatial",),
    "numeracy": ("numeracy",),
}
# The scorers of a complex prompt, by the list that it is in. The first list that holds it counts.
_COMPLEX = {
    "complex_val_spatial": ("blip_vqa", "spatial"),
    "complex_val_action": ("blip_vqa", "clip_score"),
    "complex_val_spatialaction": ("blip_vqa", "spatial", "clip_score"),
}
_DETECTOR = "GroundingDINO takes the place of the authors' UniDet"


def load(folder: Path) -> list[Item]:
    """The prompts of all categories, with what the scorers look for in their images.

    ``folder`` holds the files of ``eg-grpo data fetch`` and ``chunks.json`` of ``eg-grpo data
    chunks``. Raises ``UserError`` that names a file which is missing or lacks a prompt.
    """
    analyses = load_analyses(folder / CHUNKS)
    singulars = load_singulars(folder / "t2i_compbench_objects.txt")
    items = []
    for category in (*_SCORERS, "complex"):
        file = folder / "t2i_compbench" / f"{category}_val.txt"
        for number, text in enumerate(_lines(file)):
            try:
                known = read_language(text, analyses.of(text), category, singulars)
            except ValueError as error:
                raise UserError(f"{file}: {error}") from None
            prompt = Prompt(f"{category}_val:{number + 1}", text, category, evaluation=known)
            scorers = _SCORERS.get(category) or _complex_scorers(folder, text)
            items.append(Item(prompt, category, scorers, number=number))
    return _with_old_color(items, folder, analyses)


def _with_old_color(items: list[Item], folder: Path, analyses: Analyses) -> list[Item]:
    """The items, of which those that the old color list holds too belong to it as well."""
    old = _lines(folder / "t2i_compbench_2023" / "color_val.txt")
    merged = []
    for item in items:
        shared = item.stratum == "color" and old[item.number] == item.prompt.text
        merged.append(
            Item(item.prompt, "color", item.scorers, item.number, (OLD_COLOR,)) if shared else item
        )
    kept = {item.number for item in merged if item.also}
    for number, text in enumerate(old):
        if number not in kept:
            known = read_language(text, analyses.of(text), "color")
            prompt = Prompt(f"{OLD_COLOR}:{number + 1}", text, "color", evaluation=known)
            merged.append(Item(prompt, OLD_COLOR, _SCORERS["color"], number=number))
    return merged


def _complex_scorers(folder: Path, text: str) -> tuple[str, ...]:
    for name, scorers in _COMPLEX.items():
        if text in _lines(folder / "t2i_compbench" / f"{name}.txt"):
            return scorers
    raise UserError(f"complex_val.txt: {text!r} is in none of {', '.join(_COMPLEX)}")


def _lines(file: Path) -> list[str]:
    text = read_text(file, f"{file} (eg-grpo data fetch downloads it)")
    return [line.strip() for line in text.split("\n") if line.strip()]


def analysed_by(folder: Path) -> dict[str, str]:
    """The versions of spaCy and of its model in the chunk file: others find other chunks."""
    analyses = load_analyses(folder / CHUNKS)
    return {"spacy": analyses.spacy, "model": analyses.model}


def official_name(item: Item, index: int, count: int) -> str:
    """``<category>/<prompt>_<number>.png``; the number is of the image in its category."""
    return f"{item.stratum}/{item.prompt.text}_{item.number * count + index:06d}.png"


COMPBENCH = Suite(
    name="compbench",
    about="T2I-CompBench: colours, shapes, textures and relations of objects",
    images_per_prompt=10,
    load=load,
    columns=(
        *(Column(name, {name: 1.0}) for name in ("color", "shape", "texture", OLD_COLOR)),
        Column("non_spatial", {"non_spatial": 1.0}),
        *(
            Column(name, {name: 1.0}, not_comparable=_DETECTOR)
            for name in ("spatial", "numeracy", "complex")
        ),
    ),
    measure=image_means,
    official_name=official_name,
    lists={"color": "color_val.txt of 1b709499", OLD_COLOR: "color_val.txt of 7710d059"},
    analysed_by=analysed_by,
)

"""The report's pictures: images of fixed prompts at several evaluation steps."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from orchestrator.record.sheets import fit
from policy.types import JsonDict

MAX_PROMPTS, MAX_STEPS = 8, 6  # of each set
_MAX_PIXELS = 256  # a larger picture is reduced to this size and embedded as JPEG
_PIXEL_ART = 96  # a picture up to this size is enlarged without smoothing


@dataclass(frozen=True)
class Sample:
    """One picture with its CoT and scores. ``source`` is a data URI, None without a file."""

    source: str | None
    pixelated: bool
    cot: str
    total: float | None
    rewards: dict[str, float | None]
    failures: dict[str, str]


@dataclass(frozen=True)
class Gallery:
    """The pictures of one set. A row is a prompt and one sample for each step, None if missing."""

    name: str
    steps: tuple[int, ...]
    rows: tuple[tuple[str, tuple[Sample | None, ...]], ...]


def galleries(records: Sequence[JsonDict], folder: Path) -> list[Gallery]:
    """The first sample of up to eight prompts of each set, at up to six steps.

    ``records`` are the rows of ``samples/records.jsonl``. Their pictures are in ``folder``.
    """
    sets: dict[str, dict[str, dict[int, JsonDict]]] = {}
    for record in records:
        by_step = sets.setdefault(record["set"], {}).setdefault(record["prompt_id"], {})
        known = by_step.get(record["step"])
        if known is None or record["index"] <= known["index"]:
            by_step[record["step"]] = record
    return [_gallery(name, list(prompts.values()), folder) for name, prompts in sets.items()]


def _gallery(name: str, prompts: list[dict[int, JsonDict]], folder: Path) -> Gallery:
    shown = prompts[:MAX_PROMPTS]
    steps = spaced(sorted({step for by_step in shown for step in by_step}), MAX_STEPS)
    rows = [
        (
            next(iter(by_step.values()))["prompt"],
            tuple(_sample(by_step[step], folder) if step in by_step else None for step in steps),
        )
        for by_step in shown
    ]
    return Gallery(name, tuple(steps), tuple(rows))


def spaced(values: Sequence[int], limit: int) -> list[int]:
    """At most ``limit`` (2 or more) evenly spaced values, with the first and the last."""
    if len(values) <= limit:
        return list(values)
    return [values[round(place * (len(values) - 1) / (limit - 1))] for place in range(limit)]


def _sample(record: JsonDict, folder: Path) -> Sample:
    source, pixelated = _picture(folder / record["image"])
    return Sample(
        source=source,
        pixelated=pixelated,
        cot=record["cot"],
        total=record["total"],
        rewards=record["rewards"],
        failures=record["failures"],
    )


def _picture(file: Path) -> tuple[str | None, bool]:
    """The picture as a data URI (None if it cannot be read), and whether to enlarge its pixels."""
    try:
        with Image.open(file) as image:
            if max(image.size) <= _MAX_PIXELS:
                return _data_uri("png", file.read_bytes()), max(image.size) <= _PIXEL_ART
            small = fit(np.asarray(image.convert("RGB")), _MAX_PIXELS)
    except OSError:
        return None, False
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=88)
    return _data_uri("jpeg", buffer.getvalue()), False


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"

"""The samples that a page shows: pictures, CoTs, scores and token entropies, within a bound.

The rule of thinning. ``LIMITS`` is a list of pairs: the most steps of a set, and the most prompts
of a set (or groups of a training step). The first pair keeps everything. The first pair whose
samples fit into the bound, of all runs of the page together, is taken. The steps that are left are
evenly spaced, the first and the last are among them. The prompts that are left are the first ones
of the file. Nothing is chosen by what a picture shows or how it scored.
"""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from orchestrator.record.run_folder import TRAINING_SAMPLES, read_rows
from orchestrator.record.sheets import fit
from orchestrator.report.embedding import embedded_size
from policy.types import JsonDict

MAX_BYTES = 8_000_000
_ALL = sys.maxsize
LIMITS = ((_ALL, _ALL), (16, 8), (8, 8), (4, 8), (2, 8), (2, 4), (2, 2), (2, 1), (1, 1), (0, 0))
_MAX_PIXELS = 256  # a larger picture is reduced to this size
_PIXEL_ART = 96  # a picture up to this size stays a PNG and is enlarged without smoothing
_SHOWN = (
    *("set", "step", "prompt_id", "prompt", "task", "index", "seed", "cot", "total", "rewards"),
    *("not_applicable", "failures", "advantage", "group", "tokens"),
)


def gallery(
    folders: Sequence[Path], max_bytes: int = MAX_BYTES
) -> tuple[list[list[JsonDict]], str]:
    """The samples of each run, and a sentence that says what was left out; "" if nothing was.

    All samples together take at most ``max_bytes``. A sample has the fields of its row in
    ``samples/*.jsonl`` that the page shows, and its picture as a data URI: None if the file cannot
    be read.
    """
    rows = [_rows(folder / "samples") for folder in folders]
    whole = sum(map(len, rows))
    for steps, prompts in LIMITS:
        kept = [_thinned(run, steps, prompts) for run in rows]
        shown = _fitting(folders, kept, max_bytes)
        if shown is not None:
            break
    assert shown is not None  # the last limits keep no sample, and that always fits
    count = sum(map(len, shown))
    if count == whole:
        return shown, ""
    return shown, (
        f"{count} of the {whole} recorded samples are shown: at most {steps} evenly spaced steps"
        f" of each set, and {prompts} prompts of each step. The others are in samples/."
    )


def spaced(values: Sequence[int], limit: int) -> list[int]:
    """At most ``limit`` evenly spaced values, with the last and, of two or more, the first."""
    if len(values) <= limit:
        return list(values)
    if limit < 2:
        return list(values[len(values) - limit :])
    return [values[round(place * (len(values) - 1) / (limit - 1))] for place in range(limit)]


def _rows(samples: Path) -> list[JsonDict]:
    """All rows in the order in which the page shows them."""
    trained = read_rows(samples / Path(TRAINING_SAMPLES).name)
    # The name of a fixed set is the user's, and may be "training" as well.
    return [row | {"fixed": True} for row in read_rows(samples / "records.jsonl")] + [
        row | {"fixed": False} for row in trained
    ]


def _fitting(
    folders: Sequence[Path], runs: Sequence[Sequence[JsonDict]], max_bytes: int
) -> list[list[JsonDict]] | None:
    """The samples of each run's rows, or None as soon as they take more than ``max_bytes``."""
    shown: list[list[JsonDict]] = []
    size = 0
    for folder, rows in zip(folders, runs, strict=True):
        shown.append([])
        for row in rows:
            shown[-1].append(_sample(row, folder / "samples"))
            size += embedded_size(shown[-1][-1]) + 1  # and a comma
            if size > max_bytes:
                return None
    return shown


def _thinned(rows: Sequence[JsonDict], max_steps: int, max_prompts: int) -> list[JsonDict]:
    steps: dict[tuple[bool, str], set[int]] = {}
    prompts: dict[tuple[bool, str, int], list[str]] = {}
    for row in rows:
        name, step = (row["fixed"], row["set"]), row["step"]
        steps.setdefault(name, set()).add(step)
        known = prompts.setdefault((*name, step), [])
        if row["prompt_id"] not in known:
            known.append(row["prompt_id"])
    kept = {name: set(spaced(sorted(found), max_steps)) for name, found in steps.items()}
    return [
        row
        for row in rows
        if row["step"] in kept[row["fixed"], row["set"]]
        and row["prompt_id"] in prompts[row["fixed"], row["set"], row["step"]][:max_prompts]
    ]


def _sample(row: JsonDict, samples: Path) -> JsonDict:
    file = samples / row["image"]
    try:
        source, pixelated = _picture(file, file.stat().st_mtime_ns)
    except OSError:
        source, pixelated = None, False
    shown = {key: row[key] for key in _SHOWN if key in row}
    if "seed" in shown:
        shown["seed"] = str(shown["seed"])  # a number of a script has 53 bits
    return shown | {"fixed": row["fixed"], "source": source, "pixelated": pixelated}


@lru_cache(maxsize=2048)
def _picture(file: Path, written_ns: int) -> tuple[str, bool]:
    """The picture as a data URI, and whether to enlarge its pixels.

    Raises ``OSError`` if it cannot be read. ``written_ns`` is the file's time: a page that is
    served again reads only what is new.
    """
    with Image.open(file) as image:
        if max(image.size) <= _PIXEL_ART:
            return _data_uri("png", file.read_bytes()), True
        small = fit(np.asarray(image.convert("RGB")), _MAX_PIXELS)
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=80)
    return _data_uri("jpeg", buffer.getvalue()), False


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"

"""The README's picture: the same fixed prompts and seeds before and after a run.

python tools/before_after.py runs/shapes docs/before-after.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from orchestrator.record.run_folder import read_rows
from orchestrator.record.sheets import Tile, contact_sheet, save_png

PROMPTS = 8  # all that are recorded, unchosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("picture", type=Path, help="PNG to write")
    parsed = parser.parse_args()
    records = read_rows(parsed.run / "samples" / "records.jsonl")
    steps = sorted({record["step"] for record in records})
    tiles = []
    for step in (steps[0], steps[-1]):
        shown = [r for r in records if (r["step"], r["set"], r["index"]) == (step, "seen", 0)]
        for record in shown[:PROMPTS]:
            pixels = np.asarray(Image.open(parsed.run / "samples" / record["image"]).convert("RGB"))
            text = record["prompt"].removeprefix("a photo of ")
            tiles.append(Tile(pixels, (f"step {step}: {record['total']:.2f}", text)))
    save_png(contact_sheet(tiles, columns=PROMPTS, tile_pixels=112), parsed.picture)


if __name__ == "__main__":
    main()

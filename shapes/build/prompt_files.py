"""Write the prompt files in ``shapes/data/``: ``python -m shapes.build.prompt_files``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from shapes.scenes import sample_request
from shapes.world import HELD_OUT_KINDS, Kind

DATA = Path(__file__).parents[1] / "data"
# File stem -> number of rows, seed, and kinds. Each row names at least one of these kinds; None
# means that it names seen kinds only.
FILES: dict[str, tuple[int, int, Sequence[Kind] | None]] = {
    "train": (2000, 1000, None),
    "seen": (96, 555, None),
    "held_out": (96, 556, HELD_OUT_KINDS),
}


def prompt_lines(stem: str) -> list[str]:
    """The rows of one file as JSON. Prompts repeat where a task has fewer prompts than rows."""
    count, seed, required = FILES[stem]
    rng = np.random.default_rng(seed)
    return [json.dumps(sample_request(rng, required).row()) for _ in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m shapes.build.prompt_files", description=__doc__
    )
    parser.add_argument("--output", type=Path, default=DATA, help="folder to write to")
    output: Path = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    for stem in FILES:
        lines = prompt_lines(stem)
        (output / f"{stem}.jsonl").write_text("".join(f"{line}\n" for line in lines))
        print(f"{output / stem}.jsonl: {len(lines)} prompts")


if __name__ == "__main__":
    main()

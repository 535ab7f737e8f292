"""The command line of ``benchmarks.gpu_check``, which the package describes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.gpu_check.parts import PARTS
from benchmarks.gpu_check.session import Session, ended_in_order


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.gpu_check", description="Measure what only a GPU can show."
    )
    names = [part.name for part in PARTS]
    add = parser.add_argument
    add("--minutes", type=float, default=6, help="of all parts together (default: 6)")
    add("--out", type=Path, default=Path("runs/gpu-check"),
        help="folder of the results; parts that it holds are not run again")  # fmt: skip
    add("--device", choices=["cuda", "cpu"], default="cuda")
    add("--tiny", action="store_true", help="the same calls at sizes for a CPU")
    add("--parts", nargs="+", choices=names, default=names, metavar="PART",
        help=f"those of {', '.join(names)} (default: all)")  # fmt: skip
    options = parser.parse_args(arguments)
    chosen = [part for part in PARTS if part.name in options.parts]
    session = Session(options.device, options.tiny, options.minutes, options.out)
    with ended_in_order():
        return 0 if session.run(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())

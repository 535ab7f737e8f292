"""The flags of the commands that read or change a run by its folder."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_status_flags(status: argparse.ArgumentParser) -> None:
    status.add_argument("folder", type=Path, metavar="RUN", help="run folder: runs/NAME")
    status.add_argument("--groups", action="store_true", help="list every group of the run")
    status.add_argument("--json", action="store_true", help="print one JSON object")


def add_scale_flags(scale: argparse.ArgumentParser) -> None:
    scale.add_argument("folder", type=Path, metavar="RUN", help="run folder: runs/NAME")
    scale.add_argument(
        "counts",
        nargs="+",
        metavar="ROLE=N",
        help="rollout=N for rollout workers, NAME=N for the workers of the reward NAME",
    )
    scale.add_argument(
        "--wait",
        type=float,
        default=600.0,
        help="seconds to wait for the driver's answer (default 600)",
    )

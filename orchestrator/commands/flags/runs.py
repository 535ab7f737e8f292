"""The flags of the commands that read or change a run by its folder."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_status_flags(status: argparse.ArgumentParser) -> None:
    status.add_argument("folder", type=Path, metavar="RUN", help="run folder: runs/NAME")
    status.add_argument("--groups", action="store_true", help="list every group of the run")
    status.add_argument("--json", action="store_true", help="print one JSON object")


def add_report_flags(report: argparse.ArgumentParser) -> None:
    report.add_argument("folder", type=Path, metavar="RUN", help="run folder: runs/NAME")


def add_serve_flags(serve: argparse.ArgumentParser) -> None:
    serve.add_argument("folders", type=Path, nargs="+", metavar="RUN", help="run folder: runs/NAME")
    serve.add_argument(
        "--port",
        type=int,
        default=8000,
        help="port on 127.0.0.1 (default 8000); with 0 the system chooses a free one",
    )


def add_compare_flags(compare: argparse.ArgumentParser) -> None:
    compare.add_argument(
        "folders",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="run folder: runs/NAME; the others are compared with the first",
    )
    compare.add_argument(
        "--output",
        type=Path,
        default=Path("comparison.html"),
        help="file for the page (default comparison.html)",
    )


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

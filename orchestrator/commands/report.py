"""``eg-grpo report``: writes report.html of a run folder, finished or not."""

from __future__ import annotations

import argparse

from orchestrator.report.page import headlines, write_report


def run(parsed: argparse.Namespace) -> None:
    """Write the page, and print the reward of each fixed set as ``train`` does.

    Raises ``UserError`` if the folder holds no run.
    """
    report = write_report(parsed.folder)
    for line in headlines(parsed.folder):
        print(line)
    print(f"report: {report}")

"""``eg-grpo compare``: writes one page of several runs, with the same prompts side by side."""

from __future__ import annotations

import argparse

from orchestrator.report.page import write_page
from policy.errors import UserError


def run(parsed: argparse.Namespace) -> None:
    """Write the page. Raises ``UserError`` if a folder holds no run."""
    if len(parsed.folders) < 2:
        raise UserError("compare needs two run folders or more; eg-grpo report shows one")
    print(f"report: {write_page(parsed.folders, parsed.output)}")

"""``eg-grpo config``: explains one setting, or prints the reference of all of them."""

from __future__ import annotations

import argparse

from orchestrator.settings.reference import as_markdown, explained


def run(parsed: argparse.Namespace) -> None:
    """Print what was asked for. Raises ``UserError`` when there is no such setting."""
    print(as_markdown() if parsed.reference else explained(parsed.explain), end="")

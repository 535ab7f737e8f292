"""``eg-grpo serve``: shows the page of runs in a browser on this machine, up to date."""

from __future__ import annotations

import argparse
from contextlib import suppress

from orchestrator.report.server import PageServer


def run(parsed: argparse.Namespace) -> None:
    """Serve until Ctrl-C. Raises ``UserError`` for a bad folder or port."""
    with PageServer(parsed.folders, parsed.port) as server:
        print(f"{server.address} (Ctrl-C ends it)", flush=True)
        with suppress(KeyboardInterrupt):  # the usual end
            server.serve_forever()

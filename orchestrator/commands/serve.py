"""``eg-grpo serve``: shows the page of runs in a browser on this machine, up to date."""

from __future__ import annotations

import argparse
from contextlib import suppress

from orchestrator.report.server import HOST, page_server


def run(parsed: argparse.Namespace) -> None:
    """Serve until Ctrl-C. Raises ``UserError`` for a bad folder or port."""
    with page_server(parsed.folders, parsed.port) as server:
        print(f"http://{HOST}:{server.server_address[1]}/ (Ctrl-C ends it)", flush=True)
        with suppress(KeyboardInterrupt):  # the usual end
            server.serve_forever()

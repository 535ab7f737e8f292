"""``eg-grpo scale``: changes the numbers of rollout and reward workers of a run that goes on."""

from __future__ import annotations

import argparse
import getpass
import socket
import time
from collections.abc import Sequence

from orchestrator.pipeline.ledger_folder import ask_driver
from orchestrator.pipeline.ledger_view import DONE, ScalingEntry
from orchestrator.pipeline.status import RunStatus, read_status
from policy.errors import RunFailed, UserError

_EVERY_S = 1.0  # how often the ledger is asked for the answer


def run(parsed: argparse.Namespace) -> None:
    """Ask the driver of the run, wait for its answer and print it.

    Raises ``UserError`` when the run does not go on or the driver refuses, and ``RunFailed`` when
    the driver does not answer in time or could not do all that it was asked for.
    """
    wanted = _counts(parsed.counts)
    if not read_status(parsed.folder, time.time()).alive:
        raise UserError(f"{parsed.folder}: the run does not go on, so it cannot be scaled")
    wish_id = ask_driver(parsed.folder, f"{getpass.getuser()}@{socket.gethostname()}", wanted)
    wish = _answered(parsed, wish_id)
    if wish.answer.startswith("refused"):
        raise UserError(wish.answer)
    if wish.answer != DONE:
        raise RunFailed(wish.answer)
    changes = (f"{role} {wish.before[role]} -> {count}" for role, count in wish.wanted.items())
    print(f"{wish.answer} after {wish.answered - wish.asked:.0f} s: {', '.join(changes)}")


def _answered(parsed: argparse.Namespace, wish_id: str) -> ScalingEntry:
    deadline = time.monotonic() + parsed.wait
    while True:
        status = read_status(parsed.folder, time.time())
        wish = _find(status, wish_id)
        if wish is not None and wish.answer:
            return wish
        if not status.alive:
            raise RunFailed(f"{parsed.folder}: the run has ended and has not answered")
        if time.monotonic() >= deadline:
            doing = "has not begun" if wish is None or not wish.before else "is not done"
            raise RunFailed(
                f"the driver {doing} after {parsed.wait:g} s (--wait); it may still do it:"
                f" eg-grpo status {parsed.folder}"
            )
        time.sleep(_EVERY_S)


def _find(status: RunStatus, wish_id: str) -> ScalingEntry | None:
    return next((wish for wish in status.ledger.scaling if wish.id == wish_id), None)


def _counts(words: Sequence[str]) -> dict[str, int]:
    """The numbers in ``role=number`` words. Raises ``UserError`` for anything else."""
    found: dict[str, int] = {}
    for word in words:
        role, _, number = word.partition("=")
        if not number.isdecimal() or not number.isascii() or not 0 < int(number) < 100_000:
            raise UserError(f"{word}: not ROLE=N with a number of workers from 1 on")
        if role in found:
            raise UserError(f"{word}: {role} is given twice")
        found[role] = int(number)
    return found

"""Collects what is noted in the ledger often, so that many notes cost one request.

A group that was sampled or scored is noted half a second later at most. Everything else that is
written goes through ``now``, after the notes: the ledger sees all of it in order.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from orchestrator.pipeline.ledger import Claim, Ledger

_LATEST_S = 0.5


class LedgerNotes:
    """Notes of one driver that are not in the ledger yet."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._sampled: dict[int, list[Claim]] = {}  # by weight version
        self._scored: list[Claim] = []
        self._since: float | None = None

    def sampled(self, claims: Sequence[Claim], weight_version: int) -> None:
        """Note that groups were sampled by these weights."""
        self._sampled.setdefault(weight_version, []).extend(claims)
        self._begun()

    def scored(self, claim: Claim) -> None:
        """Note that a group was scored, and can be trained on."""
        self._scored.append(claim)
        self._begun()

    def now(self) -> Ledger:
        """The ledger, with all notes in it."""
        sampled, scored = self._sampled, self._scored
        self.discard()
        for version, claims in sampled.items():
            self._ledger.sampled(claims, version)
        if scored:
            self._ledger.scored(scored)
        return self._ledger

    def write_if_due(self) -> None:
        """Write the notes if the oldest is half a second old."""
        if self._since is not None and time.monotonic() >= self._since + _LATEST_S:
            self.now()

    def discard(self) -> None:
        """Forget the notes that are not written."""
        self._sampled, self._scored, self._since = {}, [], None

    def _begun(self) -> None:
        self._since = self._since or time.monotonic()

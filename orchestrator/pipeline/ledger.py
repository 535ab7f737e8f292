"""The ledger of a run in Redis: where every prompt group is, and which steps are committed.

Failure policy: a write happens whole, once and only for the newest driver, or not at all. While
Redis is away, a call waits (``ledger_connection``). A write that was sent twice, because its answer
was lost, happens once. When writes are gone that Redis had acknowledged, the next call raises
``LedgerLost``. All writes and all these checks are in ``ledger.lua``.
"""

from __future__ import annotations

import json
import secrets as tokens
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

from orchestrator.pipeline.ledger_connection import LedgerConnection, make_wish
from orchestrator.pipeline.ledger_view import LedgerView, ScalingEntry, WorkerEntry
from policy.errors import RunFailed, UserError
from policy.secrets import masked

FaultKind = Literal["data", "infrastructure"]
_LONGEST_TEXT = 2000  # characters of a reason or an error
_BEGIN_ANEW = (
    "To begin a new ledger, name another Redis (ledger.url or REDIS_URL), or delete ledger/ in the"
    " run folder if the run starts its Redis itself; the run goes on from its last checkpoint"
)


class Superseded(RunFailed):
    """A newer driver has taken the run. This process may write nothing any more."""


class LedgerLost(RunFailed):
    """The ledger is gone, or lacks acknowledged writes. ``Ledger.rebuild`` begins it anew."""


class CommitRefused(RunFailed):
    """A commit does not fit the ledger. Nothing was committed."""


class Claim(NamedTuple):
    """A prompt group in the hands of one attempt. ``place`` is its index in the step's batch."""

    step: int
    place: int
    attempt: int


class Ledger:
    """The ledger in the hands of one driver. Threads may share it: their calls take turns.

    All methods raise ``Superseded``, ``LedgerLost`` and, when Redis stays away, ``RunFailed``.
    Claims that are no longer current change nothing; the ledger counts them as ``late_refused``.
    """

    def __init__(
        self,
        connection: LedgerConnection,
        run: str,
        remember: Callable[[int, int], None],
        newest: Callable[[], int],
    ) -> None:
        """``Ledger.take`` makes a ledger that can be used."""
        self.run = run
        self.epoch = 0
        self.committed = 0  # the next step to commit
        self._connection, self._remember, self._newest = connection, remember, newest
        self._asked = 0  # this driver's epoch, or the one that it is asking for
        self._number = 0  # of the last acknowledged write of this epoch
        self._highest_attempt = 0
        self._lock = threading.RLock()

    @classmethod
    def take(
        cls,
        url: str,
        run_id: str,
        known_epoch: int,
        waiting: Callable[[str], None],
        timeout_s: float,
        remember: Callable[[int, int], None] = lambda asked, taken: None,
        revive: Callable[[], None] | None = None,
        taken_epoch: int = 0,
        newest: Callable[[], int] = lambda: 0,
    ) -> Ledger:
        """Take over the run with an epoch above ``known_epoch`` and above all that Redis knows.

        A ledger that does not exist is made, with no step committed. So is one whose epoch is below
        ``taken_epoch``, the last one that Redis has acknowledged: that ledger is older than the
        run. ``remember(asked, taken)`` stores both epochs outside Redis. It is called before Redis
        is asked for an epoch and after Redis has acknowledged it. ``newest`` returns the last epoch
        that any driver has stored there. ``waiting`` gets lines for the user. ``revive`` is called
        when Redis does not answer, and may start the server again. Raises ``UserError`` when the
        ledger is of another run or of another version.
        """
        connection = LedgerConnection(url, run_id, waiting, timeout_s, revive)
        ledger = cls(connection, run_id, remember, newest)
        ledger.epoch = taken_epoch
        while True:
            there = ledger._epoch_there()
            operation = "take" if there >= taken_epoch else "rebuild"
            anew = {"step": 0, "first_attempt": 0}
            if ledger._begin(max(known_epoch, there) + 1, operation, anew):
                return ledger

    def rebuild(self, step: int) -> None:
        """Begin the ledger anew, with ``step`` steps committed and a higher epoch.

        No attempt gets a number that this process has handed out before.
        """
        there, base = self._epoch_there(), {"step": step, "first_attempt": self._highest_attempt}
        if there > self.epoch or not self._begin(self.epoch + 1, "rebuild", base):
            raise superseded(self.run, max(there, self._epoch_there()), self.epoch)

    # Groups

    def admit(self, step: int, count: int) -> None:
        """Let groups 0 to ``count - 1`` of a step wait. Groups that exist stay as they are."""
        self._write("admit", step=step, count=count)

    def lease(
        self,
        step: int,
        places: Sequence[int],
        owner: str | Sequence[str],
        seconds: float,
        draw: int,
    ) -> list[Claim]:
        """Give groups to workers: waiting -> generating.

        They should be done within so many ``seconds``, which ``eg-grpo status`` shows. Nothing ends
        by itself then: the driver releases what it has given up.

        ``owner`` is the worker of all places, or a list with the worker of each. ``draw`` says
        with which replacement's seeds they are sampled. Groups that do not wait get no claim.
        """
        owners = [owner] * len(places) if isinstance(owner, str) else list(owner)
        leased = self._write(
            "lease", step=step, places=list(places), owners=owners, seconds=seconds, draw=draw
        )
        claims = [Claim(step, place, attempt) for place, attempt in leased]
        self._highest_attempt = max([self._highest_attempt, *(c.attempt for c in claims)])
        return claims

    def release(self, claims: Iterable[Claim], reason: str, kind: FaultKind) -> int:
        """generating, scoring or ready -> waiting. Returns how many claims were current."""
        return self._move("release", claims, reason=_text(reason), kind=kind)

    def sampled(self, claims: Iterable[Claim], weight_version: int) -> int:
        """generating -> scoring. Returns how many claims were current."""
        return self._move("sampled", claims, weight_version=weight_version)

    def scored(self, claims: Iterable[Claim]) -> int:
        """scoring -> ready. Returns how many claims were current."""
        return self._move("scored", claims)

    def drop(self, claims: Iterable[Claim], reason: str, kind: FaultKind) -> int:
        """Every state but trained -> dropped. Returns how many claims were current."""
        return self._move("drop", claims, reason=_text(reason), kind=kind)

    # Steps

    def commit(self, step: int, weight_version: int, claims: Iterable[Claim]) -> None:
        """Record a trained step: ready -> trained for all its claims, or for none.

        Every admitted group of the step must be claimed or dropped. ``weight_version`` is the
        version that the step made. The same commit again changes nothing. Raises ``CommitRefused``
        for any other commit.
        """
        triples = sorted(claims)
        if any(triple[0] != step for triple in triples):
            raise CommitRefused(f"step {step} cannot be committed: a claim is of another step")
        attempts = {str(place): attempt for _, place, attempt in triples}
        record = {"epoch": self.epoch, "weight_version": weight_version, "attempts": attempts}
        answer = self._write("commit", step=step, claims=triples, record=json.dumps(record))
        if isinstance(answer, dict):
            raise CommitRefused(f"step {step} cannot be committed: {answer['refused']}")
        self.committed = answer

    def checkpointed(self, step: int) -> None:
        """Note that ``step`` steps are in a checkpoint. Raises ``CommitRefused`` if not all of
        them are committed."""
        answer = self._write("checkpointed", step=step)
        if answer is not None:
            raise CommitRefused(f"a checkpoint of step {step}: {answer['refused']}")

    def fall_back(self, step: int) -> int:
        """Forget the commits from ``step`` on. Returns how many steps are to be repeated.

        All groups of these steps wait again, dropped ones too, and their attempts go on rising.
        Raises ``LedgerLost`` when the ledger has committed fewer than ``step`` steps.
        """
        answer = self._write("fall_back", step=step)
        if isinstance(answer, dict):
            raise LedgerLost(
                f"the ledger of run {self.run} has {answer['behind']} committed steps, but the"
                f" checkpoint has {step}"
            )
        self.committed = step
        return cast(int, answer)

    # Notes

    def note_workers(self, workers: Iterable[WorkerEntry]) -> list[ScalingEntry]:
        """Note the states of all workers. A worker that is not among them leaves the list.

        Returns the wishes for other numbers of workers that are not answered.
        """
        wishes = self._write("note_workers", workers=[vars(worker) for worker in workers])
        return [ScalingEntry(**wish) for wish in wishes or ()]

    def note_error(self, text: str) -> None:
        """Keep an error, with its secrets masked, as one of the last 20."""
        self._write("note_error", text=_text(text))

    def count(self, name: str, by: int = 1) -> None:
        """Raise a counter."""
        self._write("count", name=name, by=by)

    # Numbers of workers

    def wish(self, asked_by: str, wanted: Mapping[str, int]) -> None:
        """Ask for other numbers of workers, as any other process may."""
        make_wish(self._connection, self.run, asked_by, wanted)

    def take_up(self, wish: str, before: Mapping[str, int]) -> None:
        """Note how many workers there were when the driver took up the wish with this id."""
        self._write("take_up", id=wish, before=dict(before))

    def answer(self, wish: str, answer: str) -> None:
        """Answer the wish with this id."""
        self._write("answer", id=wish, answer=_text(answer))

    # Reading

    def check_newest(self) -> None:
        """Raise ``Superseded`` if another driver has stored a newer epoch. Does not ask Redis."""
        if (there := self._newest()) > self._asked:
            raise superseded(self.run, there, self.epoch)

    def check(self) -> None:
        """Raise ``Superseded`` or ``LedgerLost`` if a write would. Changes nothing."""
        with self._lock:
            self.check_newest()
            run, epoch, number = self._connection.head("run", "epoch", "number")
            there = 0 if run != self.run else int(epoch or 0)
            if there > self.epoch:
                raise superseded(self.run, there, self.epoch)
            if there < self.epoch or int(number or 0) < self._number:
                raise self._lost()

    def counts(self) -> dict[str, int]:
        """The counters of the run, of all its drivers together, by name."""
        return self._connection.counts()

    @property
    def away_s(self) -> float:
        """Seconds that a call has waited for Redis by now; 0 while Redis answers. Never blocks."""
        since = self._connection.away_since
        return 0.0 if since is None else time.monotonic() - since

    def view(self) -> LedgerView:
        """The whole ledger. Raises ``LedgerLost`` if there is none."""
        found = self._connection.view()
        if found is None:
            raise self._lost()
        return found

    # How a write is made

    def _move(self, operation: str, claims: Iterable[Claim], **given: Any) -> int:
        return cast(int, self._write(operation, claims=list(claims), **given))

    def _write(self, operation: str, **given: Any) -> Any:
        """Make one write and return the script's answer to it."""
        with self._lock:
            # A driver on another host may have started a server of its own on the same data.
            self.check_newest()
            status, number, text = self._ask(operation, self.epoch, given)
            if status == "superseded":
                raise superseded(self.run, number, self.epoch)
            if status != "ok":
                raise self._lost()
            self._number = number
            return json.loads(text)

    def _begin(self, epoch: int, operation: str, given: dict[str, Any]) -> bool:
        """Take ``epoch``; False if a driver has it already, or a later one."""
        with self._lock:
            self._asked = epoch  # while it is asked for, nobody newer has stored it
            try:
                self._remember(epoch, self.epoch)
                status, own_format, text = self._ask(operation, epoch, given)
                if status == "another":
                    raise self._refused(f"it is of run {text}, and this is run {self.run}")
                if status == "format":
                    raise self._refused(
                        f"another version wrote it, in format {text}, and this version has format"
                        f" {own_format}"
                    )
                if status == "ok":
                    self.epoch, self._number, self.committed = epoch, 0, int(text)
                    self._remember(epoch, epoch)
                return status == "ok"
            finally:
                self._asked = self.epoch

    def _ask(self, operation: str, epoch: int, given: dict[str, Any]) -> tuple[str, int, str]:
        # Each write has a number and a random id. By them the script knows a request that is sent
        # again, one that arrives too late, and a ledger that lacks the writes before this one.
        return self._connection.run_script(
            [operation, self.run, epoch, self._number + 1, tokens.token_hex(8), json.dumps(given)]
        )

    def _epoch_there(self) -> int:
        return int(self._connection.head("epoch")[0] or 0)

    def _refused(self, reason: str) -> UserError:
        return UserError(f"ledger: {self._connection.address}: {reason}. {_BEGIN_ANEW}")

    def _lost(self) -> LedgerLost:
        return LedgerLost(
            f"the ledger of run {self.run} at {self._connection.address} is gone or lacks writes"
            f" that were acknowledged to this process (epoch {self.epoch})"
        )


def superseded(run: str, newer: int, own: int) -> Superseded:
    """The error of a driver with epoch ``own`` when a newer one has taken the run."""
    return Superseded(
        f"driver epoch {newer} took over run {run}; this process (epoch {own}) may write nothing"
        " any more"
    )


def _text(text: str) -> str:
    """Text that can be kept: without secrets, not too long, and valid Unicode."""
    return masked(text)[:_LONGEST_TEXT].encode(errors="replace").decode()

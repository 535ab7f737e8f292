"""The ledger does what a few lines of Python say, for every order of writes of two drivers."""

from __future__ import annotations

import tempfile
import uuid
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from orchestrator.pipeline.ledger import Claim, CommitRefused, Ledger, LedgerLost, Superseded
from tests.redis_server import redis_server

STEPS = st.integers(0, 2)
PLACES = st.lists(st.integers(0, 2), unique=True, max_size=3)
CLAIMS = st.lists(
    st.builds(Claim, STEPS, st.integers(0, 2), st.integers(0, 4)),
    max_size=4,
    unique_by=lambda claim: (claim.step, claim.place),
)
OLD_OR_NEW = st.sampled_from(["old", "new", "new", "new"])


class TwoDrivers(RuleBasedStateMachine):
    """``new`` has taken the run after ``old``; every write is tried by both."""

    url: str

    def __init__(self) -> None:
        super().__init__()
        self.run = uuid.uuid4().hex
        self.drivers = {"old": self.taken(), "new": self.taken()}
        self.epoch = 2
        self.groups: dict[tuple[int, int], list[object]] = {}  # state and attempt
        self.commits: dict[int, tuple[int, int, dict[int, int]]] = {}
        self.committed = self.late = 0

    def taken(self) -> Ledger:
        return Ledger.take(self.url, self.run, 0, print, 30)

    @rule()
    def another_takes_over(self) -> None:
        self.drivers = {"old": self.drivers["new"], "new": self.taken()}
        self.epoch += 1

    @rule(step=STEPS, count=st.integers(1, 3), who=OLD_OR_NEW)
    def admit(self, step: int, count: int, who: str) -> None:
        if self.refused(who, lambda ledger: ledger.admit(step, count)):
            return
        for place in range(count):
            self.groups.setdefault((step, place), ["waiting", 0])

    @rule(step=STEPS, places=PLACES, who=OLD_OR_NEW)
    def lease(self, step: int, places: list[int], who: str) -> None:
        claims: list[Claim] = []
        if self.refused(who, lambda ledger: claims.extend(ledger.lease(step, places, "w", 60, 0))):
            return
        expected = []
        for place in places:
            group = self.groups.get((step, place))
            if group is not None and group[0] == "waiting":
                group[:] = ["generating", int(str(group[1])) + 1]
                expected.append(Claim(step, place, int(str(group[1]))))
        assert claims == expected

    @rule(claims=CLAIMS, who=OLD_OR_NEW)
    def release(self, claims: list[Claim], who: str) -> None:
        held = ("generating", "scoring", "ready")
        self.move(
            who,
            lambda ledger: ledger.release(claims, "lost", "infrastructure"),
            claims,
            held,
            "waiting",
        )

    @rule(claims=CLAIMS, who=OLD_OR_NEW)
    def sampled(self, claims: list[Claim], who: str) -> None:
        self.move(who, lambda ledger: ledger.sampled(claims, 0), claims, ("generating",), "scoring")

    @rule(claims=CLAIMS, who=OLD_OR_NEW)
    def scored(self, claims: list[Claim], who: str) -> None:
        self.move(who, lambda ledger: ledger.scored(claims), claims, ("scoring",), "ready")

    @rule(claims=CLAIMS, who=OLD_OR_NEW)
    def drop(self, claims: list[Claim], who: str) -> None:
        untrained = ("waiting", "generating", "scoring", "ready")
        self.move(
            who, lambda ledger: ledger.drop(claims, "bad", "data"), claims, untrained, "dropped"
        )

    @rule(version=st.integers(1, 2), flaw=st.sampled_from(["", "", "left out", "not scored"]))
    def train_the_next_step(self, version: int, flaw: str) -> None:
        """Chance alone would rarely lead a whole step to its commit, or all of it but one group."""
        step = self.committed
        self.admit(step, 2, "new")
        self.lease(step, [0, 1, 2], "new")
        held = [Claim(*at, int(str(n))) for at, (_, n) in self.groups.items() if at[0] == step]
        self.sampled(held, "new")
        self.scored(held[1:] if flaw == "not scored" else held, "new")
        self.commit("new", step, version, held[1:] if flaw == "left out" else None)

    @rule(who=OLD_OR_NEW, step=STEPS, version=st.integers(1, 2), wrong=st.one_of(st.none(), CLAIMS))
    def commit(self, who: str, step: int, version: int, wrong: list[Claim] | None) -> None:
        places = {at[1]: group for at, group in self.groups.items() if at[0] == step}
        claims = [claim for claim in wrong or [] if claim.step == step]
        if wrong is None:
            claims = [
                Claim(step, place, int(str(attempt)))
                for place, (state, attempt) in places.items()
                if state != "dropped"
            ]
        attempts = {claim.place: claim.attempt for claim in claims}
        record = (self.epoch, version, attempts)
        not_ready = [
            place for place, attempt in attempts.items() if places.get(place) != ["ready", attempt]
        ]
        left_out = [
            place
            for place, (state, _) in places.items()
            if place not in attempts and state != "dropped"
        ]
        again = step < self.committed and self.commits.get(step) == record
        fits = step == self.committed and places and not not_ready and not left_out

        def ask(ledger: Ledger) -> None:
            if again or fits:
                ledger.commit(step, version, claims)
            else:
                with pytest.raises(CommitRefused):
                    ledger.commit(step, version, claims)

        if self.refused(who, ask):
            return
        if fits:
            for place in attempts:
                places[place][0] = "trained"
            self.commits[step] = record
            self.committed = step + 1
        elif not again and step == self.committed:
            self.late += len(not_ready)

    @rule(who=OLD_OR_NEW, step=STEPS)
    def fall_back(self, who: str, step: int) -> None:
        repeated = self.committed - step

        def ask(ledger: Ledger) -> None:
            if repeated >= 0:
                assert ledger.fall_back(step) == repeated
            else:
                with pytest.raises(LedgerLost):
                    ledger.fall_back(step)

        if self.refused(who, ask) or repeated < 0:
            return
        for at, group in self.groups.items():
            if at[0] >= step:
                group[0] = "waiting"
        self.commits = {at: record for at, record in self.commits.items() if at < step}
        self.committed = step

    def move(self, who: str, ask, claims: list[Claim], states: tuple[str, ...], to: str) -> None:
        current = [
            claim
            for claim in claims
            if (group := self.groups.get((claim.step, claim.place))) is not None
            and group[0] in states
            and group[1] == claim.attempt
        ]
        answers: list[int] = []
        if self.refused(who, lambda ledger: answers.append(ask(ledger))):
            return
        assert answers == [len(current)]
        self.late += len(claims) - len(current)
        for claim in current:
            self.groups[claim.step, claim.place][0] = to

    def refused(self, who: str, ask) -> bool:
        """Let a driver write. The old one must be refused."""
        if who == "new":
            ask(self.drivers["new"])
            return False
        with pytest.raises(Superseded):
            ask(self.drivers["old"])
        return True

    @invariant()
    def ledger_and_model_are_one(self) -> None:
        view = self.drivers["new"].view()
        found = {(group.step, group.place): [group.state, group.attempt] for group in view.groups}
        assert found == self.groups
        assert view.epoch == self.epoch == self.drivers["new"].epoch
        assert view.committed == self.committed == self.drivers["new"].committed
        commits = {c.step: (c.epoch, c.weight_version, dict(c.attempts)) for c in view.commits}
        assert commits == self.commits
        assert view.counts.get("late_refused", 0) == self.late


def test_the_rules_hold_in_every_order() -> None:
    """Random writes of an old and a new driver, with claims that are right, late or made up."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        TwoDrivers.url = stack.enter_context(redis_server(folder))
        run = TwoDrivers.TestCase("runTest")
        run.settings = settings(
            max_examples=40,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        run.runTest()

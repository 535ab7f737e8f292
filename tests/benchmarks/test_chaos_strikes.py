"""What benchmarks.chaos says of the faults that have struck a run."""

from __future__ import annotations

import pytest

from benchmarks.chaos.plan import Fault
from benchmarks.chaos.strikes import Strike, never_struck, wrongly_noticed

STATES = "idle sampling scoring learning commit push load checkpoint".split()
STARTS = [("rollout", "starting"), ("reward", "starting"), ("learner", "starting")]
LOST = "reward worker attributes/0 died: process 7 on host: killed; it is replaced"


def test_a_warning_is_about_the_worker_whose_process_it_names() -> None:
    """Of two rollout workers that are replaced, each is noticed for itself."""
    strike = struck("rollout", "freeze", "sampling")
    text = (
        "rollout worker 0 does not answer: process {} on host is stopped (SIGSTOP); its log ends:"
        " nothing; it is replaced"
    )
    assert strike.named_in(text.format(7))
    assert not strike.named_in(text.format(77))
    assert not struck("driver", "freeze", "idle").named_in(text.format(7))


def test_fifty_faults_must_have_struck_every_state() -> None:
    """Each state of a step, and each role while it starts."""
    all_states = [("redis", state) for state in STATES] + STARTS
    assert never_struck(fifty(all_states)) == []
    no_commit = [pair for pair in all_states if pair[1] != "commit"]
    assert never_struck(fifty(no_commit)) == ["no fault has struck at commit"]
    no_start = [pair for pair in all_states if pair != ("learner", "starting")]
    assert never_struck(fifty(no_start)) == ["no starting learner was struck"]


def test_a_few_faults_need_not_strike_every_state() -> None:
    """49 of them, all at one state."""
    assert never_struck(fifty([("redis", "commit")])[1:]) == []


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ([], 1),
        # Its worker was killed 10 s before the pause, and replaced 1 s after that.
        ([(90.0, 1.0, 1.0)], 1),
        ([(104.5, 1.0, 1.0)], 1),  # a fault after the run has gone on
        ([(90.0, 12.0, 1.0)], 0),  # it was noticed in the pause
        ([(90.0, None, 1.0)], 0),  # nobody knows when
        ([(101.0, 1.0, 1.0)], 0),  # it struck in the pause
    ],
)
def test_a_driver_that_stands_still_loses_nothing(
    other: list[tuple[float, float | None, float | None]], said: int
) -> None:
    """A driver is frozen at 100 and has done a step at 104. A worker that is replaced between is a
    problem, unless another fault may be the cause."""
    pause = struck("driver", "freeze", "learning", 100.0, None, 4.0)
    strikes = [pause, *(struck("reward", "kill", "idle", *times) for times in other)]
    assert len(wrongly_noticed(strikes, [(103.5, f"WARNING {LOST}")])) == said
    assert wrongly_noticed(strikes, [(99.0, LOST), (104.6, LOST), (102.0, "a calm line")]) == []


def fifty(pairs: list[tuple[str, str]]) -> list[Strike]:
    """Fifty kills that have met these roles and states, each once but for the first."""
    missing = 50 - len(pairs)
    return [struck(role, "kill", state) for role, state in [pairs[0]] * missing + pairs]


def struck(
    role: str,
    how: str,
    state: str,
    time: float = 0.0,
    noticed_s: float | None = 1.0,
    recovered_s: float | None = 1.0,
) -> Strike:
    """A fault of process 7 in the step after the first."""
    fault = Fault(0, 1.0, role, how, 0.5, None, None)  # type: ignore[arg-type]
    return Strike(fault, state, time, 1, noticed_s, recovered_s, pid=7)

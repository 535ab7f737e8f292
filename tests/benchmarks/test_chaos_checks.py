"""The checks of benchmarks.chaos find every loss and every duplicate that is planted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.chaos.checks import (
    Expected,
    Verdict,
    fallen,
    judged,
    other_numbers,
    other_reward,
    undisturbed,
)
from benchmarks.chaos.plan import AIMS, KINDS, Fault, planned
from benchmarks.chaos.processes import Process, frozen
from orchestrator.pipeline.ledger_view import CommitEntry, GroupEntry, LedgerView
from policy.types import JsonDict

EXPECTED = Expected(steps=3, groups_per_step=2, max_staleness=1)


def test_a_whole_history_is_whole() -> None:
    """Three steps of two groups, each committed once: nothing is lost and nothing is wrong."""
    assert judged(EXPECTED, ledger(), rows()) == Verdict()


def test_a_dropped_group_with_its_reason_is_not_lost() -> None:
    """The step then trains on one group less, by both records."""
    view = with_group(ledger(), 1, 0, state="dropped", reason="it lost 3 rollout workers in a row")
    view = with_commit(view, 1, attempts={1: 1})
    assert judged(EXPECTED, view, rows(trained=(2, 1, 2))) == Verdict()


def test_a_lost_group_is_found_in_the_ledger() -> None:
    """A commit without one of the step's groups: the group is lost, and it is not dropped."""
    verdict = judged(EXPECTED, with_commit(ledger(), 1, attempts={1: 1}), rows())
    assert (verdict.lost, verdict.duplicated, verdict.unexpected) == (1, 0, 0)


def test_a_lost_group_is_found_in_the_learners_rows() -> None:
    """The learner has trained on one group of step 1, and the ledger has committed two."""
    verdict = judged(EXPECTED, ledger(), rows(trained=(2, 1, 2)))
    assert (verdict.lost, verdict.duplicated, verdict.unexpected) == (1, 0, 0)


def test_a_step_that_was_trained_twice_is_found_in_the_rows() -> None:
    """Two rows of step 2 are two groups too many."""
    twice = [*rows()[:2], rows()[1], rows()[2]]
    verdict = judged(EXPECTED, ledger(), twice)
    assert (verdict.lost, verdict.duplicated, verdict.unexpected) == (0, 2, 0)


def test_a_group_that_is_both_committed_and_dropped_is_found() -> None:
    """It is in two states of one history."""
    view = with_group(ledger(), 1, 0, state="dropped", reason="poison")
    assert judged(EXPECTED, view, rows()).duplicated == 2  # by the ledger, and by the row


def test_steps_and_groups_that_nobody_expects_are_found() -> None:
    """A commit of a fourth step, and a third group in a step of two."""
    view = ledger()
    view = replace(view, commits=(*view.commits, CommitEntry(3, 1, 4, {0: 1})))
    assert judged(EXPECTED, view, rows()).unexpected == 1
    assert judged(EXPECTED, ledger(), [*rows(), row(4)]).unexpected == 2
    view = with_commit(ledger(), 1, attempts={0: 1, 1: 1, 2: 1})
    assert judged(EXPECTED, view, rows()).unexpected == 1


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda v: with_group(v, 2, 1, state="ready"), "is ready"),
        (lambda v: with_group(v, 2, 1, owner="rollout worker 0"), "still leased to rollout"),
        (lambda v: with_group(v, 2, 1, state="dropped"), "dropped without a reason"),
        (lambda v: with_group(v, 2, 1, attempt=2), "attempt 2 is trained, 1 committed"),
        (lambda v: with_group(v, 2, 1, weight_version=0), "sampled by weight version 0"),
        (lambda v: with_group(v, 2, 1, weight_version=3), "sampled by weight version 3"),
        (lambda v: with_commit(v, 2, weight_version=2), "made weight version 2"),
        (lambda v: with_commit(v, 2, epoch=9), "has epoch 9, the ledger 1"),
        (lambda v: with_commit(with_commit(v, 1, epoch=1), 2, epoch=0), "below that of the step"),
        (lambda v: replace(v, committed=2), "2 steps are committed, not 3"),
        (lambda v: replace(v, checkpoint=2), "last checkpoint is of step 2"),
        (lambda v: replace(v, groups=v.groups[:-1]), "committed and not in the ledger"),
    ],
)
def test_a_spoilt_ledger_is_found(spoil: Callable[[LedgerView], LedgerView], said: str) -> None:
    """Each rule of the ledger is broken once."""
    assert said in " / ".join(judged(EXPECTED, spoil(ledger()), rows()).problems)


@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        ({"weight_version": 1}, "step 2 made weight version 1"),
        ({"staleness/mean": 1.5}, "has staleness 1.5"),
    ],
)
def test_a_spoilt_row_is_found(spoilt: JsonDict, said: str) -> None:
    """Each rule of the rows is broken once."""
    problems = judged(EXPECTED, ledger(), [row(1), row(2) | spoilt, row(3)]).problems
    assert said in " / ".join(problems)


def test_rows_out_of_order_are_found() -> None:
    """Step 3 before step 2."""
    assert judged(EXPECTED, ledger(), [row(1), row(3), row(2)]).problems == [
        "metrics.jsonl: the rows are of steps [1, 3, 2]"
    ]


def test_what_falls_between_two_looks_is_found() -> None:
    """Epoch, attempts and counters rise, or stay; another run's ledger is not compared."""
    view = replace(ledger(), epoch=2, counts={"late_refused": 3})
    assert fallen(view, replace(view, epoch=3, counts={"late_refused": 3, "rebuilt": 1})) == []
    assert fallen(view, replace(view, epoch=1)) == ["the epoch fell from 2 to 1"]
    assert fallen(with_group(view, 0, 1, attempt=4), view) == [
        "the attempt of group 1 of step 0 fell from 4 to 1"
    ]
    assert fallen(view, replace(view, counts={})) == ["the counter late_refused fell from 3 to 0"]
    assert len(fallen(view, replace(view, run="other", epoch=1))) == 1


def test_an_undisturbed_run_counts_no_recovery() -> None:
    """A counter at 0 is no recovery."""
    assert undisturbed(replace(ledger(), counts={"steps_repeated": 0})) == []
    assert undisturbed(replace(ledger(), counts={"lost/rollout": 1})) != []


def test_numbers_that_differ_are_found_and_times_are_not() -> None:
    """A loss must be the same to the bit. Seconds may differ, and how often a batch was retried."""
    ours = {"step": 1, "loss": 0.5, "seconds/step": 1.0, "scoring/a/retries": 1, "time": 7.0}
    other = {"step": 1, "loss": 0.5, "seconds/step": 2.0, "scoring/a/retries": 0, "time": 8.0}
    assert other_numbers([ours], [other]) == []
    assert other_numbers([ours], [other | {"loss": 0.5 + 1e-16 * 2}]) != []


def test_the_plan_is_a_function_of_the_seed() -> None:
    """Each kind comes equally often, the moments rise, and another seed gives other moments."""
    faults = planned(90, steps=240, seed=3)
    assert faults == planned(90, steps=240, seed=3)
    assert faults != planned(90, steps=240, seed=4)
    kinds = [(fault.role, fault.how) for fault in faults]
    assert {kinds.count(kind) for kind in KINDS} == {9}
    moments = [fault.at for fault in faults]
    assert moments == sorted(moments)
    assert 0 < moments[0] < moments[-1] < 240
    aims = Counter((fault.role, fault.aim) for fault in faults if fault.aim is not None)
    assert sum(aims.values()) == 65  # 13 of the 18 faults of each role
    for role, of_role in AIMS.items():
        times = [aims[role, aim] for aim in of_role]
        assert sum(times) == 13
        assert max(times) - min(times) <= 1
    # The deviation of an exponential variable is its mean.
    pauses = np.diff(moments)
    assert 0.7 < pauses.std() / pauses.mean() < 1.3


@pytest.mark.parametrize("seed", range(20))
def test_a_starting_worker_is_struck_right_after_its_predecessor(seed: int) -> None:
    """Such a fault comes at once after another one of its role: no worker starts at other times."""
    for count in (1, 10, 50):
        faults = planned(count, steps=2 * count, seed=seed)
        assert len(faults) == count
        assert [fault.number for fault in faults] == list(range(count))
        starts = [fault for fault in faults if fault.aim == "starting"]
        for fault in starts:
            assert fault.at_once_s == 0
            assert faults[fault.number - 1].role == fault.role
        if count == 50:
            assert {fault.role for fault in starts} == {"rollout", "reward", "learner"}


def test_a_fault_says_what_it_does_and_when() -> None:
    """The line that is printed for each planned fault."""
    fault = Fault(3, 7.25, "learner", "kill", 0.5, None, "push")
    assert str(fault) == "3: kill learner after step 7.25, at push"
    at_once = replace(fault, at_once_s=1.5, aim=None)
    assert str(at_once) == "3: kill learner 1.5 s after the fault before"


def test_roles_and_states_are_read_from_titles() -> None:
    """A title that only begins like a worker's is no worker."""

    def process(title: str) -> Process:
        return Process(1, 1, "S", title)

    sampling = process("ray::RolloutWorker.generate_groups")
    assert (sampling.role, sampling.doing) == ("rollout", "sampling")
    assert (process("ray::LearnerWorker").role, process("ray::LearnerWorker").doing) == (
        "learner",
        "idle",
    )
    assert process("/usr/bin/valkey-server unixsocket:/tmp/redis.sock").role == "redis"
    assert process("ray::RolloutWorkerOfOthers.generate").role is None
    assert process("grep ray::RolloutWorker").role is None
    assert process("ray::LearnerWorker.__init__").untold
    assert not process("ray::LearnerWorker.join").untold


def test_a_victim_stands_still_when_it_is_looked_at() -> None:
    """``frozen`` returns only once the process is stopped, and None for one that has ended."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as victim:
        found = frozen(victim.pid)
        assert found is not None
        assert found.state == "T"
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()
        assert frozen(victim.pid) is None


def test_another_reward_at_the_end_is_found() -> None:
    """Of 8 steps the last 4 count. Differences of 0, 0.1, 0 and -0.1 have mean 0. Those of 0.3,
    0.4, 0.3 and 0.2 are 0.3 off, with a standard error of 0.041."""
    reference = [{"reward/mean": 0.5}] * 8

    def with_last(*rewards: float) -> list[JsonDict]:
        return [{"reward/mean": reward} for reward in (0.0, 0.0, 0.0, 0.0, *rewards)]

    assert other_reward(with_last(0.5, 0.6, 0.5, 0.4), reference) == []
    assert other_reward(with_last(0.8, 0.9, 0.8, 0.7), reference) == [
        "the reward of the last 4 steps is +0.300 off that of the undisturbed run, with a standard"
        " error of 0.041"
    ]
    assert len(other_reward(with_last(0.2, 0.1, 0.2, 0.3), reference)) == 1
    assert other_reward(reference[:3], reference) == [
        "there are too few steps to compare their reward"
    ]


def ledger() -> LedgerView:
    """Three committed steps of two groups; step s is sampled by version s."""
    return LedgerView(
        run="r",
        epoch=1,
        taken=0.0,
        committed=3,
        checkpoint=3,
        base=0,
        groups=tuple(
            GroupEntry(step, place, "trained", 1, 0, "", 0, step, "")
            for step in range(3)
            for place in range(2)
        ),
        commits=tuple(CommitEntry(step, 1, step + 1, {0: 1, 1: 1}) for step in range(3)),
        workers=(),
        errors=(),
        counts={},
        scaling=(),
    )


def with_group(view: LedgerView, step: int, place: int, **changes: object) -> LedgerView:
    """The ledger with one group changed."""
    groups = [
        replace(group, **changes) if (group.step, group.place) == (step, place) else group
        for group in view.groups
    ]
    return replace(view, groups=tuple(groups))


def with_commit(view: LedgerView, step: int, **changes: object) -> LedgerView:
    """The ledger with one commit changed."""
    commits = [
        replace(commit, **changes) if commit.step == step else commit for commit in view.commits
    ]
    return replace(view, commits=tuple(commits))


def row(step: int, trained: int = 2) -> JsonDict:
    """A row of metrics.jsonl, where steps count from 1."""
    return {"step": step, "weight_version": step, "groups/trained": trained, "staleness/mean": 0.0}


def rows(trained: tuple[int, ...] = (2, 2, 2)) -> list[JsonDict]:
    """Rows of three steps with so many groups."""
    return [row(step, groups) for step, groups in enumerate(trained, start=1)]

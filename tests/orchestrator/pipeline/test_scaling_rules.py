"""What the driver makes of wishes for workers: pools that stand in, and a real ledger."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.pipeline.ledger import Ledger
from orchestrator.pipeline.ledger_folder import open_ledger
from orchestrator.pipeline.scaling import Scaling
from orchestrator.pipeline.schedule import Layout, Schedule
from orchestrator.settings.ledger_config import LedgerConfig
from orchestrator.settings.resources import Resources
from orchestrator.settings.run_config import load_config

ROOT = Path(__file__).parents[3]


class PretendPool:
    """Plays ``roles.Scalable``; the test says when its workers have joined."""

    def __init__(self, size: int) -> None:
        self.resources = Resources(cpus=1, gpus=0)
        self.size = self.joined = size
        self.queued = self.idle = 0
        self.failed: list[str] = []
        self.pools: dict[str, PretendPool] = {}

    @property
    def settled(self) -> bool:
        return self.joined == self.size

    def resize(self, size: int) -> None:
        self.size = size

    def take_failed_starts(self) -> list[str]:
        failed, self.failed = self.failed, []
        return failed


class Scaled:
    """A run of rollout workers and workers of the reward hps, on a cluster with two free CPUs."""

    def __init__(self, ledger: Ledger, *overrides: str) -> None:
        config = load_config(ROOT / "configs" / "shapes.yaml", list(overrides))
        self.rollout, self.hps = PretendPool(1), PretendPool(1)
        rewards: Any = PretendPool(0)
        rewards.pools = {"hps": self.hps}
        rollout: Any = self.rollout
        config = config.model_copy(
            update={"rewards": (config.rewards[0].model_copy(update={"name": "hps"}),)}
        )
        self.ledger = ledger
        self.scaling = Scaling(
            config,
            Schedule(Layout(1, 1), 1, 0, 1),
            rollout,
            rewards,
            ledger,
            lambda each, count: None if count * each.cpus <= 2 else "there is room for 2",
        )

    def turn(self) -> None:
        self.scaling.turn(self.ledger.note_workers([]))

    def answers(self, **wanted: int) -> list[str]:
        """The answers to all wishes so far, with one more that is taken up now."""
        self.ledger.wish("ada", wanted)
        self.turn()
        return [wish.answer for wish in self.ledger.view().scaling]


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.chdir(ROOT)
    with open_ledger(LedgerConfig(), tmp_path, lambda text: None) as opened:
        yield opened


def test_a_wish_is_done_when_all_workers_have_joined(ledger: Ledger) -> None:
    """Not when they have been started; until then they do not count as workers of a step."""
    run = Scaled(ledger)
    assert run.answers(rollout=3, hps=2) == [""]
    assert (run.rollout.size, run.hps.size) == (3, 2)
    assert run.scaling.workers == {"rollout": 1, "hps": 1}
    run.rollout.joined = 3
    run.turn()
    assert [wish.answer for wish in ledger.view().scaling] == [""]
    run.hps.joined = 2
    run.turn()
    (wish,) = ledger.view().scaling
    assert (wish.before, wish.answer) == ({"rollout": 1, "hps": 1}, "done")
    assert run.scaling.workers == {"rollout": 3, "hps": 2}


def test_a_wish_that_cannot_be_granted_is_refused_whole(ledger: Ledger) -> None:
    """Each refusal names the reason; no pool is told anything. A refused wish does not disturb the
    one that is being carried out."""
    run = Scaled(ledger, "rollout.workers=2", "rollout.min_workers=2", "rollout.max_workers=9")
    run.rollout.size = run.rollout.joined = 2
    assert run.answers(rollout=4, orm=1)[-1] == (
        "refused: unknown role 'orm'; there are rollout, hps"
    )
    assert run.answers(rollout=10)[-1] == "refused: rollout=10 is above its max_workers, 9"
    assert run.answers(rollout=1)[-1] == "refused: rollout=1 is below its min_workers, 2"
    assert run.rollout.size == 2
    assert run.answers(rollout=3)[-1] == ""
    assert run.answers(rollout=5, hps=4)[-2:] == [
        "",
        "refused: hps=4: there is room for 2",
    ]
    assert run.rollout.size == 3
    run.rollout.joined = 3
    run.turn()
    assert [wish.answer for wish in ledger.view().scaling][3] == "done"


def test_a_later_wish_supersedes_the_one_that_is_carried_out(ledger: Ledger) -> None:
    """Both are answered."""
    run = Scaled(ledger)
    run.answers(rollout=3)
    assert run.answers(rollout=2) == ["superseded by a wish of ada", ""]
    run.rollout.joined = 2
    run.turn()
    assert [wish.answer for wish in ledger.view().scaling][-1] == "done"


def test_workers_that_do_not_start_are_told_of(ledger: Ledger) -> None:
    """One of two has joined; the other is gone, and its pool says why."""
    run = Scaled(ledger)
    run.answers(rollout=3)
    run.rollout.size = run.rollout.joined = 2
    run.rollout.failed = ["rollout worker 2 died"]
    run.turn()
    (wish,) = ledger.view().scaling
    assert wish.answer == "failed: rollout has 2: rollout worker 2 died"


def test_a_resumed_run_wishes_for_the_numbers_that_were_granted_last(ledger: Ledger) -> None:
    """A refused wish is forgotten. A role with a wish that waits for its answer is left to it."""
    run = Scaled(ledger, "rollout.max_workers=4")
    run.answers(rollout=3, hps=2)
    run.rollout.joined, run.hps.joined = 3, 2
    run.answers(rollout=5)
    run.ledger.wish("ada", {"hps": 1})
    resumed = Scaled(ledger, "rollout.max_workers=4")
    resumed.scaling.go_on(ledger.view().scaling)
    last = ledger.view().scaling[-1]
    assert (last.asked_by, last.wanted) == ("the resumed run", {"rollout": 3})
    resumed.turn()
    assert (resumed.rollout.size, resumed.hps.size) == (3, 1)


def test_the_autoscaler_asks_less_often_where_there_is_no_room(ledger: Ledger) -> None:
    """No host has room for a third worker. In five windows it asks twice, and not five times."""
    run = Scaled(
        ledger, "rewards.0.workers=1", "rewards.0.max_workers=4", "rewards.0.autoscale=true"
    )
    run.hps.queued, run.hps.resources = 2, Resources(cpus=3, gpus=0)
    for _ in range(5 * 31):
        run.turn()
    answers = [(wish.asked_by, wish.answer) for wish in ledger.view().scaling]
    assert answers == [("the autoscaler", "refused: hps=2: there is room for 2")] * 2


def test_the_autoscaler_asks_as_anybody_does(ledger: Ledger) -> None:
    """After thirty seconds in which a batch waits; while workers join it sees nothing."""
    run = Scaled(
        ledger, "rewards.0.workers=1", "rewards.0.max_workers=4", "rewards.0.autoscale=true"
    )
    run.hps.queued = 2
    for _ in range(31):
        run.turn()
    (wish,) = ledger.view().scaling
    assert (wish.asked_by, wish.wanted, wish.answer) == ("the autoscaler", {"hps": 2}, "")
    for _ in range(40):
        run.turn()
    assert len(ledger.view().scaling) == 1
    run.hps.joined = 2
    run.turn()
    assert [wish.answer for wish in ledger.view().scaling] == ["done"]

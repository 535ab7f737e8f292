"""Groups and weights whose machine is gone: real pools, a real ledger, and objects that Ray lost.

Ray loses an object with the process that owns it, as it does with the machine that holds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import ray
from ray.exceptions import ObjectLostError

from orchestrator.pipeline.clock import Clock
from orchestrator.pipeline.drops import Drops
from orchestrator.pipeline.learner_calls import LearnerLost
from orchestrator.pipeline.ledger_folder import open_ledger, read_run
from orchestrator.pipeline.ledger_view import LedgerView
from orchestrator.pipeline.schedule import Layout, Schedule
from orchestrator.pipeline.stages import Stages
from orchestrator.pipeline.step_batch import StepBatch
from orchestrator.record.run_folder import RunFolder
from orchestrator.settings.inputs import Inputs
from orchestrator.settings.run_config import RunConfig, load_config
from orchestrator.workers import rollout_pool as pool_module
from orchestrator.workers.failures import WorkerFailed
from orchestrator.workers.learner_group import PublishedWeights
from orchestrator.workers.placement import no_room
from orchestrator.workers.publisher import IdlePublisher
from orchestrator.workers.rollout_events import BatchSampled, RolloutEvent, WeightsLost
from orchestrator.workers.rollout_pool import RolloutPool
from orchestrator.workers.waiting import wait_answers
from tests.remote_parts import Owner, Painter
from tests.started_pools import Started, prompt, reward

ROOT = Path(__file__).parents[3]
REWARDS = (reward("Remainder"), reward("Square", "square"))

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def lost_object() -> ray.ObjectRef:
    """A reference to an object that Ray has lost: the process that owned it has ended."""
    owner = Owner.remote()
    (ref,) = ray.get(owner.owned.remote())
    ray.kill(owner)
    with suppress(ObjectLostError):
        while True:  # until the news of it has come
            ray.get(ref, timeout=60)
    return ref


class Losing(RolloutPool):
    """Loses the groups at ``places`` of the first batch, before a reward worker sees them."""

    places: Sequence[int] = ()
    ends: str = ""  # this worker ends, and is heard of, as soon as weights are lost

    def take_events(self) -> list[RolloutEvent]:
        if self.ends and any(isinstance(event, WeightsLost) for event in self._events):
            self._lose(self._place(self.ends), WorkerFailed("its host is gone"))
            self.ends = ""
        events = super().take_events()
        for event in events:
            if isinstance(event, BatchSampled) and self.places:
                for place in self.places:
                    event.groups[place] = replace(event.groups[place], ref=lost_object())
                self.places = ()
        return events


@dataclass(frozen=True)
class Parts:
    """The stages of a run of one step, and what they work with."""

    stages: Stages
    rollout: Losing
    folder: RunFolder


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.chdir(ROOT)
    small = "rollout.group_size=2 rollout.batch_size=4 prompts_per_step=4 rollout.timeout_s=60"
    config = load_config(ROOT / "configs" / "shapes.yaml", small.split())
    return config.model_copy(update={"rewards": REWARDS})


@contextmanager
def parts_of(
    config: RunConfig,
    start: Started,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    deadly: int | None = None,
) -> Iterator[Parts]:
    """Two rollout workers, each of which samples two groups in one call, and two rewards. The
    prompt with the number ``deadly`` ends each worker that samples it."""
    monkeypatch.setattr(pool_module, "start_rollout_worker", lambda *_, **__: Painter.remote())
    inputs = cast(Inputs, SimpleNamespace(model_path=Path("none"), instruction=None))
    folder, prompts = RunFolder(path), [prompt(number) for number in range(4)]
    prompts = [replace(p, text="die") if n == deadly else p for n, p in enumerate(prompts)]
    rollout = Losing(config, inputs)
    try:
        rollout.wait_ready()
        with open_ledger(config.ledger, folder.path, print) as ledger:
            schedule = Schedule(Layout(2, 2), 4, 0, 1, attempts=config.rollout.attempts)
            stages = Stages(
                config, prompts, schedule, rollout, start(*config.rewards),
                IdlePublisher(), ledger, Drops(folder, config.replacements), wait_answers, no_room,
            )  # fmt: skip
            yield Parts(stages, rollout, folder)
    finally:
        rollout.close()
        folder.close()


def step_of(parts: Parts) -> tuple[StepBatch, LedgerView]:
    """The first step, and the ledger once the step is committed."""
    parts.stages.serve(IdlePublisher().publish(None, 0), evaluate=False)
    batch = parts.stages.batch(0, Clock())
    parts.stages.trained(0)
    return batch, read_run(parts.folder.path)


def test_a_lost_group_is_sampled_and_scored_again_together_with_its_batch(
    config: RunConfig, start: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One group of two is lost before its rewards fetch it. The step gets the numbers of the
    run in which nothing is lost; a group that is sampled alone would get others. The ledger commits
    the second attempt of both groups of this batch. No worker is blamed.

    A group that is lost after it was scored, when somebody wants its pictures, is no failure: the
    pool says that it cannot be fetched."""
    with parts_of(config, start, tmp_path / "calm", monkeypatch) as calm:
        expected, view = step_of(calm)
        assert len(calm.rollout.fetch(expected.groups) or []) == 4
        lost = replace(expected.groups[2], ref=lost_object())
        assert calm.rollout.fetch([expected.groups[0], lost]) is None
    assert [group.attempt for group in view.groups] == [1, 1, 1, 1]
    with parts_of(config, start, tmp_path / "struck", monkeypatch) as struck:
        struck.rollout.places = [1]
        batch, view = step_of(struck)
        assert struck.rollout.restarts == 0
    assert [group.results for group in batch.scored] == [g.results for g in expected.scored]
    attempts = [group.attempt for group in view.groups]
    assert attempts in ([2, 1, 2, 1], [1, 2, 1, 2])
    assert [group.state for group in view.groups] == ["trained"] * 4
    assert list(view.commits[0].attempts.values()) == attempts
    assert view.counts.get("lost/reward", 0) == 0
    assert view.counts["released_infrastructure"] == 2


def test_lost_weights_cost_the_learner_and_no_rollout_worker(
    config: RunConfig, start: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The learner rank that made them was on the same machine. The workers cannot load them, and go
    on as they are when weights are published again."""
    with parts_of(config, start, tmp_path / "run", monkeypatch) as parts:
        pids = ray.get([worker.pid.remote() for worker in parts.rollout.workers])
        buckets = lost_object()
        with pytest.raises(LearnerLost, match=r"^weight version 0 is lost: .*rollout worker "):
            parts.stages.serve(PublishedWeights(0, (buckets,)), evaluate=False)
        parts.stages.fall_back(0)
        assert len(step_of(parts)[0].groups) == 4
        assert ray.get([worker.pid.remote() for worker in parts.rollout.workers]) == pids
        assert parts.rollout.restarts == 0


def test_a_group_that_is_dropped_holds_back_none_that_is_scored_with_it(
    config: RunConfig, start: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One prompt ends each worker that samples it, and is dropped. The reward scores two groups in
    one call; the neighbour of the dropped one is scored alone, and the step has three groups."""
    config = config.model_copy(
        update={
            "rewards": (reward("Remainder", batch_size=4, max_workers=2),),
            "rollout": config.rollout.model_copy(update={"attempts": 1}),
        }
    )
    monkeypatch.setattr("orchestrator.pipeline.stages.step_prompts", lambda prompts, *_: prompts)
    with parts_of(config, start, tmp_path / "run", monkeypatch, deadly=1) as parts:
        batch, view = step_of(parts)
        assert parts.rollout.restarts == 2  # with its batch, and alone
    assert [group.prompt.id for group in batch.groups] == [prompt(n).id for n in (0, 2, 3)]
    assert [group.state for group in view.groups] == ["trained", "dropped", "trained", "trained"]
    assert "it lost 1 rollout workers in a row" in (tmp_path / "run" / "dropped.jsonl").read_text()


def test_what_happened_behind_the_loss_of_the_weights_is_heard_afterwards(
    config: RunConfig, start: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host of learner rank 0 had a rollout worker too. Its loss comes in the same turn as that
    of the weights, behind it. Nobody asks it again for anything."""
    with parts_of(config, start, tmp_path / "run", monkeypatch) as parts:
        names = list(parts.rollout.states)
        parts.rollout.ends = names[1]
        with pytest.raises(LearnerLost, match=r"^weight version 0 is lost"):
            parts.stages.serve(PublishedWeights(0, (lost_object(),)), evaluate=False)
        parts.stages.fall_back(0)
        assert len(step_of(parts)[0].groups) == 4
        assert list(parts.rollout.states) == [names[0], f"{names[1]} (process 2)"]
        assert names[1] not in parts.stages.schedule.workers

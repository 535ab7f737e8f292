"""What a run holds: objects in the store while it goes on, and nothing when it has failed."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray._private.internal_api import get_memory_info_reply, get_state_from_address

from orchestrator.pipeline import worker_notes
from orchestrator.pipeline.interrupt import Interrupt
from orchestrator.pipeline.opening import open_run
from orchestrator.pipeline.order import step_prompts
from orchestrator.pipeline.training import train
from orchestrator.record.progress import Progress
from orchestrator.record.run_folder import RunFolder
from orchestrator.settings.input_checks import check_inputs
from orchestrator.settings.model_size import ModelSize
from orchestrator.settings.object_store import object_store_bytes
from orchestrator.settings.run_config import load_config
from orchestrator.workers.failures import WorkerFailed
from orchestrator.workers.learner_group import LearnerGroup, PublishedWeights
from orchestrator.workers.publisher import WeightPublisher
from orchestrator.workers.rollout_events import BatchSampled, RolloutEvent
from orchestrator.workers.rollout_pool import RolloutPool
from policy.checkpoint.loading import read_config
from policy.errors import RunFailed
from policy.prompts import load_prompts
from tests.started_pools import reward
from tests.training_records import rows

ROOT = Path(__file__).parents[3]
SMALL = (
    "steps=4 prompts_per_step=2 rollout.group_size=32 rollout.workers=1"
    " rollout.sleep_while_learning=true learner.micro_batch_size=32"
    " evaluation.every=1 evaluation.prompts=2 evaluation.samples_per_prompt=32 learner.restarts=0"
).split()  # groups of more than 100 KB: Ray keeps smaller ones out of the store

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.usefixtures("ray_cluster")]


class Store:
    """The bytes of a run in the object store of this machine."""

    def __init__(self) -> None:
        self._state = get_state_from_address(ray.get_runtime_context().gcs_address)
        self._before = self._bytes()
        self.found: list[int] = []

    def check(self, allowed: int) -> None:
        """Fail unless no more is held than this, as soon as Ray has dropped what nobody holds."""
        deadline = time.monotonic() + 20
        while (held := self._bytes() - self._before) > allowed:
            assert time.monotonic() < deadline, f"{held} bytes are held, not {allowed}"
            time.sleep(0.05)
        self.found.append(held)

    def _bytes(self) -> int:
        stats = get_memory_info_reply(self._state).store_stats
        return int(stats.object_store_bytes_primary_copy)


def size_of(ref: ray.ObjectRef) -> int:
    return int(ray.experimental.get_object_locations([ref])[ref]["object_size"])


def process_of(actor: Any) -> int:
    return int(ray.get(actor.__ray_call__.remote(lambda self: os.getpid()), timeout=60))


def test_a_run_holds_one_batch_and_its_weights_and_ends_with_its_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over three steps, a dropped group, and evaluations: whenever groups were just sampled, the
    store holds two weight versions and the groups of one step or one evaluation; whenever weights
    were just published, three versions and no group. The plan allows for no less.

    In the fourth step the learner fails. The cluster was there before and goes on; the run's
    processes do not, though somebody still holds their handles.
    """
    monkeypatch.chdir(ROOT)
    # Whoever looks at the workers now and then must not be the one who lets go of the groups.
    monkeypatch.setattr(worker_notes, "_EVERY_S", 60.0)
    config = load_config(ROOT / "configs" / "shapes.yaml", [*SMALL, f"root={tmp_path}"])
    (tmp_path / "rejected").mkdir()
    first, *_ = step_prompts(load_prompts(config.data.train), 2, config.seed, step=0)
    options = dict(folder=str(tmp_path / "rejected"), prompts=[first.id], times=1)
    config = config.model_copy(update={"rewards": (reward("Rejects", options=options),)})
    store, versions, groups = Store(), [], []
    real_events, real_complete, real_update = (
        RolloutPool.take_events,
        WeightPublisher.complete,
        LearnerGroup.update,
    )

    def take_events(self: RolloutPool) -> list[RolloutEvent]:
        events = real_events(self)
        for event in events:
            if isinstance(event, BatchSampled):
                groups.extend(size_of(group.ref) for group in event.groups)
                store.check(sum(versions[-2:]) + 2 * max(groups))
        return events

    def complete(self: WeightPublisher, learner: LearnerGroup, weights: PublishedWeights) -> None:
        real_complete(self, learner, weights)
        versions.append(sum(map(size_of, weights.refs or ())))
        store.check(sum(versions[-3:]))

    def update(self: LearnerGroup, batch: Sequence[Any]) -> dict[str, float]:
        if self.weight_version == 3:
            raise WorkerFailed("learner rank 0 failed: no more")
        return real_update(self, batch)

    monkeypatch.setattr(RolloutPool, "take_events", take_events)
    monkeypatch.setattr(WeightPublisher, "complete", complete)
    monkeypatch.setattr(LearnerGroup, "update", update)
    actors: list[Any] = []
    pids: list[int] = []

    def failing_run() -> None:
        folder = RunFolder(config.folder)
        inputs, progress = check_inputs(config), Progress(config.steps)
        with open_run(config, lambda: inputs, folder, Interrupt(), progress) as run:
            pools = (run.rollout, run.learner, run.stages._rewards.pools["light"])
            actors.extend(worker for pool in pools for worker in pool.workers)
            pids.extend(process_of(actor) for actor in actors)
            train(run)

    with pytest.raises(RunFailed, match="no more"):
        failing_run()
    assert len(rows(config.folder, "dropped.jsonl")) == 1
    # Two sets before the first step and one after each; four steps, one of them in two attempts.
    assert (len(versions), len(groups)) == (4, 2 * 2 + 3 * 2 + 4 * 2 + 1)
    assert min(groups) > 100 * 1024
    size = ModelSize.of(read_config(Path(config.model.path)))
    assert max(store.found) <= object_store_bytes(size, config)
    deadline = time.monotonic() + 60
    while alive := [pid for pid in pids if psutil.pid_exists(pid)]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.1)

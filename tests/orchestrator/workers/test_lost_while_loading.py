"""Workers that are lost while a run opens: each is replaced once, and so is a learner group."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest
import ray

from orchestrator.pipeline.ledger_folder import open_ledger
from orchestrator.pipeline.opening_learners import Learners
from orchestrator.settings.inputs import Inputs
from orchestrator.settings.ledger_config import LedgerConfig
from orchestrator.settings.run_config import load_config
from orchestrator.workers import learner_group
from orchestrator.workers.failures import WorkerDied, WorkerLate, WorkerStopped
from orchestrator.workers.learner_group import LearnerGroup
from orchestrator.workers.placement import ANYWHERE
from orchestrator.workers.rollout_events import WorkerLost, WorkerUp
from orchestrator.workers.rollout_pool import RolloutPool
from orchestrator.workers.stopped_workers import StoppedWorkers, watch_for_stopped_workers
from policy.types import Prompt
from rollout.engine import GenerationRequest
from tests.faulty_rewards import wait_for_files
from tests.remote_parts import Rank
from tests.started_pools import sampled

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


ROOT = Path(__file__).parents[3]
REQUESTS = [GenerationRequest(Prompt("p:0", "go", "color"), (1, 2))]


def test_a_worker_that_dies_while_it_loads_is_replaced_once(
    start_rollout: Callable[..., RolloutPool],
) -> None:
    """The pool comes up under the same names, and says which worker it has lost. A second death of
    a worker ends the start with its cause, and so does the first if nothing is to be replaced."""
    rollout = start_rollout()
    ray.kill(rollout.workers[1])
    rollout.wait_ready()
    lost, *up = rollout.take_events()
    assert isinstance(lost, WorkerLost)
    assert lost.reason.startswith("rollout worker 1 died: ")
    assert up == [WorkerUp("rollout worker 0"), WorkerUp("rollout worker 1")]
    assert rollout.restarts == 1
    sampled(rollout, "rollout worker 1", REQUESTS)
    rollout.close()

    rollout = start_rollout()
    ray.kill(rollout.workers[1])
    ray.wait(rollout._loaded[1:], timeout=60)
    assert rollout.replace_dead()
    ray.kill(rollout.workers[1])
    with pytest.raises(WorkerDied, match=r"^rollout worker 1 died: "):
        rollout.wait_ready()
    rollout.close()

    rollout = start_rollout("rollout.restarts=0")
    ray.kill(rollout.workers[0])
    with pytest.raises(WorkerDied, match=r"^rollout worker 0 died: "):
        rollout.wait_ready()
    rollout.close()


def test_a_worker_that_is_frozen_while_it_loads_is_replaced_once(
    start_rollout: Callable[..., RolloutPool], worker: Callable[[], Any]
) -> None:
    """It is killed at its deadline, and the pool comes up with another process. A second time, or
    with nothing to be replaced, the start ends and says that the process is stopped."""
    rollout = start_rollout()
    _, where = ray.get(rollout.running, timeout=300)
    spare = worker()  # it runs already, so that no start of a process runs against the deadline
    ray.get(spare.pid.remote(), timeout=300)
    rollout._start_worker = lambda name: spare
    rollout._start_timeout_s = 5.0
    frozen = psutil.Process(where.pid)
    frozen.suspend()
    (rollout._loaded[1],) = rollout._load([rollout.workers[1]])  # it has not answered yet
    rollout.wait_ready()
    lost, *up = rollout.take_events()
    assert isinstance(lost, WorkerLost)
    silent = rf"^rollout worker 1 did not answer within 5 s: process {frozen.pid} on .* is stopped"
    assert re.match(silent, lost.reason), lost.reason
    assert up == [WorkerUp("rollout worker 0"), WorkerUp("rollout worker 1")]
    assert rollout.restarts == 1
    frozen.wait(60)  # raises if the process does not end
    sampled(rollout, "rollout worker 1", REQUESTS)

    again = ray.get(rollout.workers[1].__ray_call__.remote(lambda _: os.getpid()))
    psutil.Process(again).suspend()
    rollout._start_timeout_s = 2.0  # no process starts any more
    (rollout._loaded[1],) = rollout._load([rollout.workers[1]])
    with pytest.raises(
        WorkerLate, match=rf"^rollout worker 1 .*: process {again} on .* is stopped"
    ):
        rollout.wait_ready()
    rollout.close()


@pytest.mark.parametrize(
    ("restarts", "moment", "start_timeout_s", "silent"),
    [
        (1, "loading", 2.0, "learner rank 1 did not answer within 2 s: "),
        (0, "loading", 600.0, "learner rank 1 does not answer: "),
        # Rank 0 cannot choose where the ranks meet before rank 1 has told its host.
        (0, "meeting", 2.0, "learner rank 0, learner rank 1 did not answer .* runs; .*; "),
        (1, "meeting", 600.0, "learner rank 1 does not answer: "),
    ],
)
def test_a_learner_group_with_a_frozen_rank_is_formed_again_once(
    restarts: int,
    moment: str,
    start_timeout_s: float,
    silent: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One rank of two is frozen while it loads its model, or before. At a deadline that is short,
    or as soon as the rank is certainly stopped, the processes of both are ended, and the run opens
    with another group; the ledger has noted it. With nothing to be replaced, the start ends and
    says that the process is stopped."""
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("REDIS_URL", raising=False)
    gate, joins = tmp_path / "gate", tmp_path / "joins"
    gate.mkdir()
    joins.mkdir()
    monkeypatch.setattr(
        learner_group, "start_learner_worker", lambda settings, place: Rank.remote(str(gate))
    )
    config = load_config(
        ROOT / "configs" / "shapes.yaml",
        ["learner.ranks=2", "prompts_per_step=2", f"learner.restarts={restarts}"],
    )
    inputs = cast(Inputs, SimpleNamespace(model_path=Path("none"), instruction=None))
    noticed = start_timeout_s > 60
    with (
        watch_for_stopped_workers() if noticed else nullcontext(StoppedWorkers()) as watch,
        open_ledger(LedgerConfig(), tmp_path, lambda text: None) as ledger,
    ):
        learners = Learners(config, inputs, ANYWHERE, watch, lambda text: None)
        learners.start()
        first = learners._group
        assert first is not None
        pids = [where.pid for where in ray.get(first.running, timeout=300)]
        processes = [psutil.Process(pid) for pid in pids]
        if moment == "loading":
            (gate / "hosts").touch()
            wait_for_files(str(joins), 2)
        processes[1].suspend()
        (gate / "hosts").touch()
        (gate / "loaded").touch()
        if moment == "loading":
            ray.get(first._loaded[0], timeout=60)
        first._start_timeout_s = start_timeout_s  # the next group has that of the settings
        stopped = rf"^{silent}process {pids[1]} on [^ ]+ is stopped"
        if restarts:
            second = learners.form_first(None, ledger)
            assert isinstance(second, LearnerGroup)
            assert second is not first
            assert len(ray.get([rank.host.remote() for rank in second.workers], timeout=60)) == 2
            view = ledger.view()
            assert view.counts["lost/learner"] == 1
            assert [bool(re.match(stopped, error.text)) for error in view.errors] == [True]
        else:
            with pytest.raises((WorkerLate, WorkerStopped), match=stopped):
                learners.form_first(None, ledger)
        learners.close()
    for process in processes:
        process.wait(60)  # raises if the process does not end

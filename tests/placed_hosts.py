"""Reservations and checks on a cluster of a head without CPUs and two hosts with 2 and 3 CPUs.

Each of the two says that it has a GPU. Nothing here uses one.

Run as a program: a cluster of several hosts needs a process of its own. Prints one JSON object.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

from benchmarks.chaos.hosts import Hosts
from benchmarks.chaos.processes import descendants
from policy.errors import RunFailed, UserError

SHAPES = "configs/shapes.yaml"
FOUR_CPUS = ("learner.ranks=2", "rollout.workers=1", "data.evaluation={}",
             'rewards=[{name: picky, factory: "tests.placed_hosts:Picky"}]')  # fmt: skip

# A rank and a rollout worker have shares of one GPU.
TURNS = ("learner.ranks=2", "learner.device=cuda", "learner.gpus_per_rank=0.6",
         "rollout.workers=2", "rollout.device=cuda", "rollout.gpus_per_worker=0.4",
         "rollout.sleep_while_learning=true", "data.evaluation={}",
         'rewards=[{name: a, factory: "shapes.rewards:Structure", cpus_per_worker: 0}]',
         )  # fmt: skip


class Picky:
    """A reward whose files are on one of the two hosts alone."""

    @staticmethod
    def check() -> None:
        import ray

        if ray.util.get_node_ip_address() == "127.0.0.2":
            raise UserError("/models/picky is missing")

    def score(self, images: object, prompts: object) -> list[float]:
        return []


def main(scratch: Path) -> None:
    found: dict[str, Any] = {}
    hosts = Hosts(3, scratch, gpus=1)  # sets the environment of Ray
    try:
        import ray

        from orchestrator.settings.resources import Resources, roles
        from orchestrator.settings.run_config import load_config
        from orchestrator.workers.placement import no_room, reserved

        address = f"cluster.address={hosts.address}"
        root = f"root={scratch / 'runs'}"
        doctor = ["doctor", SHAPES, "--cluster", hosts.address, root]
        found["doctor"] = said(*doctor, *FOUR_CPUS)
        found["too large"] = said(
            *doctor, "learner.ranks=4", "learner.placement=together", "rollout.resources={x: 1}"
        )
        found["left"] = [path.name for path in scratch.iterdir() if path.name == "runs"]
        found["train"] = said("train", SHAPES, root, address, *FOUR_CPUS)
        measured = str(scratch / "measured")
        found["evaluate"] = said(
            "evaluate", "shapes", "--model", "shapes/checkpoint", "--out", measured, address,
            "prompts=1", "rewards.0.factory=tests.placed_hosts:Picky",
        )  # fmt: skip
        ray.init(address=hosts.address, logging_level="WARNING")
        config = load_config(Path(SHAPES), [address, *FOUR_CPUS, "learner.placement=together"])
        patient = load_config(Path(SHAPES), [address, *FOUR_CPUS, "cluster.wait_for_room_s=60"])
        wanted = roles(config)

        def take(own: Any, refused: Event) -> str | None:
            """Take the places, and hold them until another run was refused."""
            try:
                with reserved(own, wanted):
                    refused.wait(120)
            except RunFailed as failure:
                refused.set()
                return str(failure)
            return None

        with ThreadPoolExecutor() as pool:
            refused = Event()
            runs = [pool.submit(take, config, refused) for _ in range(2)]
            found["two at once"] = [run.result() for run in runs]
            with reserved(config, wanted):
                waiting = pool.submit(take, patient, refused)
                time.sleep(2)
                found["waits"] = not waiting.done()
            found["waited"] = waiting.result()

        deadline = time.monotonic() + 60  # in which Ray hears of what was given back
        while no_room(Resources(2, 0), 2) and time.monotonic() < deadline:
            time.sleep(0.2)
        found["room"] = [no_room(Resources(2, 0), 2), no_room(Resources(2, 0), 3)]
        found["brought"] = brought(config, scratch)
        worker = ray.remote(Where)
        turns = load_config(Path(SHAPES), [address, *TURNS])
        shares = {name: role.each.gpus for role in roles(turns)[:2] for name in role.names}
        with reserved(turns, roles(turns)) as places:
            found["turns"] = {
                name: ray.get(started(worker, places, name, share).gpus.remote(), timeout=120)
                for name, share in shares.items()
            }
        found["refused turns"] = []
        for setting in ("rollout.workers=3", "learner.placement=together"):
            turns = load_config(Path(SHAPES), [address, *TURNS, setting])
            try:
                with reserved(turns, roles(turns)):
                    pass
            except RunFailed as failure:
                found["refused turns"].append(str(failure))
        with reserved(config, wanted) as places:

            def start(name: str) -> Any:
                return started(worker, places, name)

            names = [name for role in wanted for name in role.names]
            actors = {name: start(name) for name in names}
            lived = {name: ray.get(actor.host.remote()) for name, actor in actors.items()}
            found["lived"] = lived
            victim = process_of(ray.get(actors["learner rank 0"].pid.remote()))
            hosts.lose(victim, pause_s=0)
            lost = [name for name in names if lived[name] == lived["learner rank 0"]]
            hosts.start_due()
            lives = {name: answer_of(start, name) for name in lost}
            found["lives"] = lives
        ray.shutdown()
    finally:
        hosts.end()
    print(json.dumps(found))


class Where:
    """An actor that says where it is."""

    def host(self) -> str:
        import ray

        return str(ray.util.get_node_ip_address())

    def gpus(self) -> tuple[str, list[str]]:
        """Its host, and the ids of the GPUs that it has a share of."""
        import ray

        return self.host(), [str(gpu) for gpu in ray.get_gpu_ids()]

    def pid(self) -> int:
        import os

        return os.getpid()


def brought(config: Any, scratch: Path) -> list[list[str]]:
    """The hosts that have a bucket of new weights, before and after it is brought: of two workers
    on two hosts, the second one samples. Then that one is stopped: what is said of it is last."""
    import numpy as np
    import ray

    from orchestrator.workers import rollout_pool
    from orchestrator.workers.learner_group import PublishedWeights
    from orchestrator.workers.rollout_events import WorkerLost
    from orchestrator.workers.stopped_workers import watch_for_stopped_workers
    from policy.types import Prompt
    from rollout.engine import GenerationRequest
    from tests.remote_parts import Worker
    from tests.started_pools import take_event

    names = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    homes = iter(sorted(set(names) - {ray.get_runtime_context().get_node_id()}, key=names.get))

    def start(*_: Any, place: Any) -> Any:
        affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        return Worker.options(scheduling_strategy=affinity(next(homes), soft=False)).remote()

    rollout_pool.start_rollout_worker, real = start, rollout_pool.start_rollout_worker
    try:
        two = config.model_copy(
            update={"rollout": config.rollout.model_copy(update={"workers": 2})}
        )
        inputs: Any = SimpleNamespace(model_path=Path("none"), instruction=None)
        pool = rollout_pool.RolloutPool(two, inputs)
        pool.wait_ready()
        bucket = ray.put(np.ones(2**20))
        weights = PublishedWeights(0, (ray.put(()), bucket))

        def having() -> list[str]:
            have = ray.experimental.get_object_locations([bucket])[bucket]["node_ids"]
            return sorted(names[node] for node in have)

        seen = [having()]
        (scratch / "never").mkdir()  # a file in it would end the sampling
        prompt = Prompt("p:0", str(scratch / "never"), "attribute")
        pool.sample("rollout worker 1", [GenerationRequest(prompt, (0,))])
        pool.bring(weights)
        deadline = time.monotonic() + 60
        while len(having()) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        seen.append(having())
        victim = ray.get(pool.running[1]).pid
        with watch_for_stopped_workers() as watch:
            watch.over(pool)
            os.kill(victim, signal.SIGSTOP)
            lost = take_event(pool, WorkerLost)
        pool.close()
        return [*seen, [str(victim), lost.reason]]
    finally:
        rollout_pool.start_rollout_worker = real


def started(worker: Any, places: Any, name: str, gpus: float = 0.0) -> Any:
    """A new actor at the place of this name."""
    options = {"num_cpus": 1, "num_gpus": gpus, "scheduling_strategy": places.of(name)}
    return worker.options(**options).remote()


def answer_of(start: Any, name: str) -> str:
    """The host of a new actor at this place. One that Ray sent to the lost host is started again,
    as the pools do."""
    import ray

    while True:
        with contextlib.suppress(ray.exceptions.RayActorError):
            return str(ray.get(start(name).host.remote(), timeout=120))


def process_of(pid: int) -> Any:
    return next(process for process in descendants() if process.pid == pid)


def said(*words: str) -> list[str]:
    """What ``eg-grpo`` with these words prints, and at last its exit code."""
    import pytest

    from orchestrator.cli import main as command
    from orchestrator.workers import cluster
    from tests.command_line import checked_in_this_process

    printed = io.StringIO()
    with (
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
        pytest.MonkeyPatch.context() as patch,
    ):
        # Each would start a process of its own that imports large libraries.
        patch.setattr(cluster, "_check_reachable", lambda *_: None)
        patch.setattr("orchestrator.commands.train.checked_elsewhere", checked_in_this_process)
        code = command(list(words))
    return [*printed.getvalue().splitlines(), str(code)]


if __name__ == "__main__":
    main(Path(sys.argv[1]))

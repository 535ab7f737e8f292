"""A run's workers after the loss of a host that no other one replaces for a while.

The cluster has a head without CPUs and two hosts with 2 and 3. Each host has a reward worker that
takes most of it, and one of the hosts is lost. Then each host has a learner rank, and the larger
one, which is lost, a reward worker too.

Run as a program: a cluster of several hosts needs a process of its own. Prints one JSON object.
"""

from __future__ import annotations

import json
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from benchmarks.chaos.hosts import Hosts
from benchmarks.chaos.processes import descendants
from policy.types import Group

if TYPE_CHECKING:  # they import Ray, whose environment is not set yet
    from orchestrator.settings.run_config import RunConfig
    from orchestrator.workers.placement import Places
    from orchestrator.workers.reward_pools import RewardPools

SETTINGS = ("learner.ranks=2", "learner.min_ranks=1", "learner.cpus_per_rank=1.75",
            "learner.placement=spread", "learner.zero_stage=2", "learner.micro_batch_size=3",
            "learner.learning_rate=1e-3", "data.evaluation={}", "cluster.wait_for_room_s=5",
            'rewards=[{name: a, factory: "tests.faulty_rewards:Square", batch_size: 4,'
            " restarts: 2}]",
            )  # fmt: skip


def main(scratch: Path) -> None:
    found: dict[str, Any] = {}
    hosts = Hosts(3, scratch)  # sets the environment of Ray
    try:
        import ray

        from orchestrator.settings.resources import roles
        from orchestrator.settings.run_config import load_config
        from orchestrator.workers import learner_group, placement, worker_pool
        from orchestrator.workers.reward_pools import RewardPools
        from orchestrator.workers.rollout_events import GroupRef
        from tests.started_pools import take_scored, take_turns

        said: list[str] = []
        logging.getLogger("eg_grpo").addHandler(Lines(said))
        logging.getLogger("eg_grpo").setLevel(logging.INFO)
        worker_pool.NO_PROCESS_S = learner_group.NO_PROCESS_S = 5.0

        def settings(*more: str) -> RunConfig:
            address = f"cluster.address={hosts.address}"
            return load_config(Path("configs/shapes.yaml"), [address, *SETTINGS, *more])

        two = settings("rewards.0.workers=2", "rewards.0.cpus_per_worker=1.75")
        one = settings("rewards.0.cpus_per_worker=1")
        ray.init(address=hosts.address, log_to_driver=False)
        batches = groups(scratch)
        refs = [GroupRef(group.prompt, ray.put(group), 4) for group in batches[0]]

        def lose_host(rewards: RewardPools) -> None:
            """Lose that of the last reward worker, which has a batch to score then."""
            (pool,) = rewards.pools.values()
            process = ray.get(pool.running[-1]).pid
            hosts.lose(next(one for one in descendants() if one.pid == process), pause_s=0)
            rewards.begin("all", [group.prompt for group in refs], 4)
            for place, group in enumerate(refs):
                rewards.add("all", place, group)

        def scores(rewards: RewardPools) -> list[str]:
            scored = take_scored(rewards, 2)
            take_turns(rewards, lambda: set(rewards.states.values()) == {"idle"})
            rewards.close()
            results = [result for group in scored for result in group.results["a"]]
            return [getattr(result, "reason", "scored") for result in results]

        with placement.reserved(two, roles(two)[2:]) as places:
            rewards = RewardPools(two, places)
            rewards.wait_ready()
            lose_host(rewards)
            # The pool loses its worker, and looks for another place as long as it has none.
            take_turns(rewards, lambda: any("Ray is asked anew for one" in line for line in said))
            found["others"] = _others_find_room(placement)
            hosts.start_due()
            found["scores"] = [scores(rewards)]
        learner, _, reward = roles(one)
        with placement.reserved(one, [learner, reward]) as places, ThreadPoolExecutor() as beside:
            ranks = Ranks(one, places, scratch, batches)
            rewards = RewardPools(one, places)
            rewards.wait_ready()
            lose_host(rewards)
            forming = beside.submit(ranks.form_anew)
            take_turns(rewards, forming.done, 400)
            forming.result()
            hosts.start_due()
            ranks.form_anew()
            found["scores"].append(scores(rewards))
            found |= {"ranks": ranks.ranks, "rows": ranks.rows, "said": ranks.said}
            ranks.group.close()
        ray.shutdown()
    finally:
        hosts.end()
    print(json.dumps(found))


class Lines(logging.Handler):
    """Keeps the lines of the log."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())


def groups(scratch: Path) -> list[list[Group]]:
    """Two batches of two groups of four, of the small model in a folder of ``scratch``."""
    from benchmarks.small_models.random_janus import save_tiny_checkpoint
    from benchmarks.trajectories import random_groups
    from policy.checkpoint.loading import load_policy

    policy = load_policy(save_tiny_checkpoint(scratch / "model"))
    lengths = [[3, 5, 4, 0], [1, 2, 9, 6]]
    return [random_groups(policy, lengths, weight_version=version) for version in (0, 1)]


class Ranks:
    """Two learner ranks, the checkpoint that they write, and what comes of it."""

    def __init__(
        self, config: RunConfig, places: Places, scratch: Path, batches: list[list[Group]]
    ) -> None:
        """Make one update, write the checkpoint, and make the next update."""
        from learner.shares import TrainingGroup
        from orchestrator.pipeline.opening_learners import Learners
        from orchestrator.settings.inputs import Inputs
        from orchestrator.settings.model_size import ModelSize
        from policy.checkpoint.loading import read_config

        first, self._second = (
            [TrainingGroup(group, (1.0, -0.5, None, 0.3)) for group in batch] for batch in batches
        )
        model = scratch / "model"
        inputs = Inputs(model, ModelSize.of(read_config(model)), None, [], {}, [])
        watch: Any = SimpleNamespace(over=lambda group: None)
        self.ranks: list[int] = []  # of each group
        self.rows: list[dict[str, float]] = []  # of each second update
        self.said: list[str] = []
        self._learners = Learners(config, inputs, places, watch, self.said.append)
        self._checkpoint = scratch / "step-1"
        self.group = self._learners.form_anew(None)
        self.group.update(first)
        self.group.save(self._checkpoint)
        self._update()

    def form_anew(self) -> None:
        """Form another group from the checkpoint, and make the second update."""
        from orchestrator.workers.failures import WorkerFailed

        try:
            self.group = self._learners.form_anew(self._checkpoint)
        except WorkerFailed:  # Ray sent a rank to the lost host: a run forms the group again too
            self.group = self._learners.form_anew(self._checkpoint)
        self._update()

    def _update(self) -> None:
        self.ranks.append(self.group.ranks)
        self.rows.append(self.group.update(self._second))


def _others_find_room(placement: Any) -> bool:
    """Whether Ray gives another run a place in the time of an attempt."""
    from orchestrator.settings.resources import Resources

    claim = placement.Claim(("another",), Resources(0.1, 0), "PACK")
    group = placement._group(claim)
    try:
        return not placement._missing([claim], [group])
    finally:
        placement.remove_placement_group(group)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

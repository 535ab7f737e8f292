"""What the workers of a configuration ask of Ray, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.settings.input_checks import check_inputs
from orchestrator.settings.machine import check_machine
from orchestrator.settings.resources import Resources, learner_threads, roles, usable_cores
from orchestrator.settings.run_config import load_config
from policy.errors import UserError

ROOT = Path(__file__).parents[3]
SHAPES = ROOT / "configs" / "shapes.yaml"
GPU = ("learner.device=cuda", "learner.gpus_per_rank=1")
OFFLOAD = ("learner.zero_stage=2", "learner.offload_optimizer=true")


def test_every_role_says_what_each_of_its_workers_needs() -> None:
    """Names are those that the pools give their workers; nothing is asked for at 0."""
    config = load_config(
        SHAPES,
        ["rollout.workers=2", "rollout.cpus_per_worker=0", "rollout.resources={big: 0.5}",
         "learner.ranks=2", "learner.cpus_per_rank=3",
         'rewards=[{name: a, factory: "shapes.rewards:Attributes", cpus_per_worker: 0.5}]'],
    )  # fmt: skip
    learner, rollout, reward = roles(config)
    assert (learner.key, learner.names) == ("learner", ("learner rank 0", "learner rank 1"))
    assert learner.each == Resources(3, 0)
    assert (rollout.key, rollout.names) == ("rollout", ("rollout worker 0", "rollout worker 1"))
    assert rollout.each.for_ray == {"big": 0.5}
    assert str(rollout.each) == "0 CPUs, 0 GPUs, 0.5 big"
    assert (reward.key, reward.names) == ("rewards.a", ("reward worker a/0",))
    assert reward.each.for_ray == {"CPU": 0.5}


@pytest.mark.parametrize(
    ("overrides", "threads"),
    [
        ([], 2),
        (["learner.ranks=3"], 2),
        (["learner.ranks=4"], 1),
        (["learner.ranks=8"], 1),
        (["max_staleness=1"], 1),
        (["learner.threads=4", "max_staleness=1"], 4),
        ([*GPU], 1),
        ([*GPU, *OFFLOAD], 6),
        ([*GPU, *OFFLOAD, "learner.ranks=4", "max_staleness=1"], 1),
        ([*GPU, *OFFLOAD, "learner.ranks=2", "max_staleness=1"], 3),
        ([*GPU, *OFFLOAD, "learner.threads=2"], 2),
        ([*GPU, *OFFLOAD, "cluster.address=10.0.0.1:6379", "learner.cpus_per_rank=12"], 12),
        ([*OFFLOAD], 2),
        (["cluster.address=10.0.0.1:6379"], 1),
        (["cluster.address=10.0.0.1:6379", "learner.cpus_per_rank=12"], 2),
    ],
)
def test_a_rank_takes_the_cores_that_are_free_in_its_turn(
    overrides: list[str], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A private cluster of 6 cores at staleness 0; its share of them with several ranks; what it
    reserves on an existing cluster; one where rollout goes on meanwhile, or on a GPU. More than two
    threads would give other bits. With an offloaded optimizer a rank on a GPU takes its whole
    share."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("orchestrator.settings.resources.usable_cores", lambda: 6)
    assert learner_threads(load_config(SHAPES, overrides)) == threads


@pytest.mark.parametrize(("quota", "cores"), [("150000 100000", 1), ("max 100000", 3), (None, 3)])
def test_a_container_has_the_cores_of_its_limit(
    quota: str | None, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One and a half cores count as one; without a limit the process may use three."""
    file = tmp_path / "cpu.max"
    if quota is not None:
        file.write_text(f"{quota}\n")
    monkeypatch.setattr("orchestrator.settings.resources._QUOTA", file)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2})
    assert usable_cores() == cores


def test_a_run_of_rollout_alone_has_no_learner() -> None:
    """Nothing is reserved for ranks that never start."""
    config = load_config(SHAPES, ["stages=rollout", "trajectories.keep_steps=1"])
    assert "learner" not in [role.key for role in roles(config)]


@pytest.mark.parametrize("name", ["CPU", "GPU", "memory", "object_store_memory"])
def test_what_ray_counts_itself_is_no_custom_resource(name: str) -> None:
    with pytest.raises(UserError, match=rf"rollout\.resources: {name} is counted by Ray itself"):
        load_config(SHAPES, [f"rollout.resources={{{name}: 1}}"])


def test_a_private_cluster_has_no_custom_resources(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker would wait for such a host for ever; one line says so before Ray starts."""
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = load_config(SHAPES, ["learner.resources={learner_host: 0.001}"])
    size = check_inputs(config).size
    with pytest.raises(
        UserError, match=r"^learner\.resources: a private cluster has no learner_host; give the"
    ):
        check_machine(config, size)
    elsewhere = load_config(
        SHAPES, ["learner.resources={learner_host: 0.001}", "cluster.address=auto"]
    )
    check_machine(elsewhere, size)

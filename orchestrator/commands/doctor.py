"""``eg-grpo doctor``: shows what this machine has, and checks whether a configuration can run."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
from collections.abc import Callable
from pathlib import Path

from orchestrator.settings.host import PACKAGES, Finding, finding, gpus_text, shared_memory_text
from orchestrator.settings.host_needs import needs_of_run
from orchestrator.settings.input_checks import check_inputs
from orchestrator.settings.inputs import Inputs
from orchestrator.settings.machine import check_machine
from orchestrator.settings.resources import roles
from orchestrator.settings.run_config import RunConfig, load_config
from policy.errors import RunFailed, UserError
from policy.secrets import masked


def run(parsed: argparse.Namespace) -> None:
    """Examine this machine, or the hosts of a cluster. With ``--plan``, compute the memory that a
    configuration needs."""
    if parsed.cluster is not None:
        if parsed.config is None:
            raise UserError("doctor --cluster needs a configuration file")
        examine_cluster(parsed.config, parsed.overrides, parsed.cluster)
    elif not parsed.plan:
        examine(parsed.config, parsed.overrides)
    elif parsed.config is None:
        raise UserError("doctor --plan needs a configuration file")
    else:
        plan(parsed.config, parsed.overrides, parsed.gpus, parsed.gpu_memory, parsed.host_memory)


def examine(config_path: Path | None, overrides: list[str]) -> None:
    """Print one line for each check. Raises ``UserError`` at the end when a check failed."""
    findings: list[tuple[str, Callable[[], str]]] = [
        ("python", platform.python_version),
        *((name, lambda name=name: importlib.metadata.version(name)) for name in PACKAGES),
        ("cores", lambda: str(os.cpu_count())),
        ("GPUs", gpus_text),
        ("shared memory", shared_memory_text),
        ("DeepSpeed", _deepspeed),
    ]
    if config_path is not None:
        findings.append(("configuration", lambda: _configuration(config_path, overrides)))
    report = _Report()
    for name, look in findings:
        report.add(finding(name, look))
    report.end()


def examine_cluster(config_path: Path, overrides: list[str], address: str) -> None:
    """Print one line for each check of each host on which a worker of the run may land.

    The files of the configuration are checked first, on this host. At the end it is tried whether
    the cluster has room for the run now. Raises ``UserError`` when a check failed.
    """
    config = load_config(config_path, [*overrides, f"cluster.address={address}"])
    inputs, text = _checked(config)
    report = _Report()
    report.add(Finding("configuration", text, ok=True))
    # These import Ray.
    from orchestrator.workers.cluster import ray_cluster
    from orchestrator.workers.host_checks import examine_hosts
    from orchestrator.workers.placement import reserved

    wanted = roles(config)
    with ray_cluster(config.cluster.address, start_timeout_s=config.cluster.start_timeout_s):
        for host, found in examine_hosts(needs_of_run(config, inputs, wanted)):
            report.add(found, of=f"{host} ")
        try:
            now = config.cluster.model_copy(update={"wait_for_room_s": 0.0})
            with reserved(config.model_copy(update={"cluster": now}), wanted):
                workers = sum(len(role.names) for role in wanted)
                report.add(Finding("placement", f"there is room for all {workers} workers", True))
        except RunFailed as failure:
            report.add(Finding("placement", str(failure), ok=False))
    report.end()


class _Report:
    """Prints findings as they come, and counts them."""

    def __init__(self) -> None:
        self._all = self._failed = 0

    def add(self, found: Finding, of: str = "") -> None:
        """Print a finding; ``of`` is the host that it is of."""
        self._all += 1
        self._failed += not found.ok
        line = f"{'ok   ' if found.ok else 'FAIL '} {of}{found.what}: {found.text}"
        print(masked(line), flush=True)  # another host does not know the secrets

    def end(self) -> None:
        """Raise ``UserError`` if a check failed."""
        if self._failed:
            raise UserError(f"{self._failed} of {self._all} checks failed")


def plan(
    config_path: Path,
    overrides: list[str],
    gpus: int | None,
    gpu_gib: float | None,
    host_gib: float | None,
) -> None:
    """Print the memory that a configuration needs.

    Raises ``UserError`` when the machine has too little.
    """
    from orchestrator.settings.plan import make_plan, table, this_machine
    from orchestrator.settings.plan_inputs import assumptions, planned_lengths, planned_size

    config = load_config(config_path, overrides)
    machine = this_machine(gpus, gpu_gib, host_gib)
    size, notes = planned_size(config.model.path)
    planned = make_plan(config, size, planned_lengths(config), machine)
    for note in (*notes, *assumptions(config)):
        print(note)
    print(table(planned, machine), flush=True)
    planned.refuse_what_cannot_fit(machine)


def _deepspeed() -> str:
    import deepspeed

    return f"imports, accelerator {deepspeed.get_accelerator()._name}"


def _configuration(path: Path, overrides: list[str]) -> str:
    return _checked(load_config(path, overrides))[1]


def _checked(config: RunConfig) -> tuple[Inputs, str]:
    """The inputs of the configuration, after all checks on this host, and one line about them."""
    from orchestrator.settings.batch_text import batch_text
    from orchestrator.settings.checkpoint_room import disk_text

    inputs = check_inputs(config)
    check_machine(config, inputs.size)
    disk = disk_text(config, inputs.size)
    leaks = f" ({len(inputs.leaks)} of validation: {config.data.leaks})" if inputs.leaks else ""
    return inputs, f"{len(inputs.prompts)} prompts{leaks}; {batch_text(config)}; {disk}"

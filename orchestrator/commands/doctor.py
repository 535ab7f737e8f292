"""``eg-grpo doctor``: shows what this machine has, and checks whether a configuration can run."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path

from orchestrator.settings.inputs import check_inputs
from orchestrator.settings.machine import SHARED_MEMORY, check_machine
from policy.errors import UserError
from policy.secrets import masked

PACKAGES = (
    "torch",
    "transformers",
    "ray",
    "deepspeed",
    "peft",
    "redis",
    "pydantic",
    "numpy",
    "safetensors",
)


def run(parsed: argparse.Namespace) -> None:
    """Examine this machine. With ``--plan``, compute the memory that a configuration needs."""
    if not parsed.plan:
        examine(parsed.config, parsed.overrides)
        return
    if parsed.config is None:
        raise UserError("doctor --plan needs a configuration file")
    plan(parsed.config, parsed.overrides, parsed.gpus, parsed.gpu_memory, parsed.host_memory)


def examine(config_path: Path | None, overrides: list[str]) -> None:
    """Print one line for each check. Raises ``UserError`` at the end when a check failed."""
    findings: list[tuple[str, Callable[[], str]]] = [
        ("python", platform.python_version),
        *((name, lambda name=name: importlib.metadata.version(name)) for name in PACKAGES),
        ("cores", lambda: str(os.cpu_count())),
        ("GPUs", _gpus),
        ("shared memory", _shared_memory),
        ("DeepSpeed", _deepspeed),
    ]
    if config_path is not None:
        findings.append(("configuration", lambda: _configuration(config_path, overrides)))
    failed = 0
    for name, find in findings:
        try:
            print(f"ok    {name}: {find()}")
        except (UserError, ImportError, importlib.metadata.PackageNotFoundError) as error:
            failed += 1
            print(f"FAIL  {name}: {masked(str(error))}")
    if failed:
        raise UserError(f"{failed} of {len(findings)} checks failed")


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
    from orchestrator.settings.run_config import load_config

    config = load_config(config_path, overrides)
    machine = this_machine(gpus, gpu_gib, host_gib)
    size, notes = planned_size(config.model.path)
    planned = make_plan(config, size, planned_lengths(config), machine)
    for note in (*notes, *assumptions(config)):
        print(note)
    print(table(planned, machine), flush=True)
    planned.refuse_what_cannot_fit(machine)


def _gpus() -> str:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = {torch.cuda.get_device_name(index) for index in range(count)}
    return f"{count} ({', '.join(sorted(names))})" if count else "none, everything runs on CPU"


def _shared_memory() -> str:
    if not SHARED_MEMORY.is_dir():
        raise UserError(f"{SHARED_MEMORY} is missing; Ray's object store needs it")
    return f"{shutil.disk_usage(SHARED_MEMORY).free // 2**20} MiB free in {SHARED_MEMORY}"


def _deepspeed() -> str:
    import deepspeed

    return f"imports, accelerator {deepspeed.get_accelerator()._name}"


def _configuration(path: Path, overrides: list[str]) -> str:
    from orchestrator.settings.plan import batch_text
    from orchestrator.settings.run_config import load_config

    config = load_config(path, overrides)
    inputs = check_inputs(config)
    check_machine(config, inputs.model_path)
    leaks = f" ({len(inputs.leaks)} of validation: {config.data.leaks})" if inputs.leaks else ""
    return f"{len(inputs.prompts)} prompts{leaks}; {batch_text(config)}"

"""Checks that a host has what the workers need that may run there.

The checks run in a process on that host. They compare it with the driver's host, which has been
checked as a whole before (``orchestrator.settings.inputs``).
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from policy.disk import writing
from policy.errors import UserError
from rewards.config import RewardConfig
from rewards.factory import check_factory

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
SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    what: str
    text: str  # what there is, or what is missing
    ok: bool


@dataclass(frozen=True)
class Expected:
    """What the workers need that may run on a host. Some parts are None or empty for some roles."""

    python: str  # the version of the driver
    packages: dict[str, str]  # the versions on the driver's host
    model: Path | None
    model_files: dict[str, int]  # bytes of each file of the model on the driver's host
    rewards: Sequence[RewardConfig]
    mark: Path | None  # a file that the driver made in the root of the runs
    gpus: float = 0.0  # that Ray counts on this host, if a role may use one
    store_bytes: int = 0  # of Ray's object store on this host
    needed_bytes: int = 0  # of the object store, by the roles that may run on this host


def finding(what: str, look: Callable[[], str]) -> Finding:
    """The result of a check that returns what there is, or raises what is missing.

    A library that is broken here may raise anything when it is imported, such as ``OSError`` for a
    shared library. The other checks go on.
    """
    try:
        return Finding(what, look(), True)
    except (UserError, ImportError, importlib.metadata.PackageNotFoundError) as error:
        return Finding(what, str(error), False)
    except Exception as error:
        return Finding(what, f"{type(error).__name__}: {' '.join(str(error).split())}", False)


def gpus_text() -> str:
    """The number and the names of the GPUs that torch finds here."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = {torch.cuda.get_device_name(index) for index in range(count)}
    return f"{count} ({', '.join(sorted(names))})" if count else "none, everything runs on CPU"


def shared_memory_text() -> str:
    """The free shared memory. Raises ``UserError`` when there is none."""
    if not SHARED_MEMORY.is_dir():
        raise UserError(f"{SHARED_MEMORY} is missing; Ray's object store needs it")
    return f"{shutil.disk_usage(SHARED_MEMORY).free // 2**20} MiB free in {SHARED_MEMORY}"


def examine_host(expected: Expected) -> list[Finding]:
    """All checks of this host."""
    found = [
        finding("python", lambda: _python(expected.python)),
        finding("packages", lambda: _packages(expected.packages)),
        finding("object store", lambda: _store(expected.store_bytes, expected.needed_bytes)),
    ]
    if (model := expected.model) is not None:
        found.append(finding("model.path", lambda: _model(model, expected.model_files)))
    for reward in expected.rewards:
        found.append(finding(f"rewards.{reward.name}", partial(_reward, reward)))
    if expected.gpus:
        found.append(finding("GPUs", lambda: _gpus(expected.gpus)))
    if (mark := expected.mark) is not None:
        found.append(finding("root", lambda: _root(mark)))
    return found


def versions(packages: Sequence[str]) -> dict[str, str]:
    """The versions of those packages that are installed here."""
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def file_sizes(folder: Path) -> dict[str, int]:
    """The bytes of each file below a folder, without hidden ones; nothing if it is missing."""
    files = {file.relative_to(folder): file for file in folder.rglob("*")}
    return {
        str(name): file.stat().st_size
        for name, file in sorted(files.items())
        if file.is_file() and not any(part.startswith(".") for part in name.parts)
    }


@contextmanager
def marked(root: Path) -> Iterator[Path]:
    """A new file in ``root``, which exists while the block runs.

    A host that has the file has the same folder. ``root`` is made if it does not exist, and is
    deleted again if it is still empty.
    """
    missing = not root.exists()
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".same-folder-", dir=root)
        os.close(descriptor)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)
        if missing and not any(root.iterdir()):
            root.rmdir()


def _python(drivers: str) -> str:
    here = platform.python_version()
    if here.split(".")[:2] != drivers.split(".")[:2]:
        raise UserError(f"{here}; the driver has {drivers}")
    return here


def _packages(drivers: dict[str, str]) -> str:
    here = versions(list(drivers))
    wrong = [f"{package} is missing" for package in drivers if package not in here]
    # Builds for CPU and for GPU differ after the plus sign.
    wrong += [
        f"{package} is {here[package]}, the driver has {version}"
        for package, version in drivers.items()
        if package in here and here[package].partition("+")[0] != version.partition("+")[0]
    ]
    if wrong:
        raise UserError("; ".join(wrong))
    return ", ".join(f"{package} {version}" for package, version in here.items())


def _store(there: int, needed: int) -> str:
    if there < needed:
        raise UserError(
            f"{there // 2**20} MiB cannot hold what may be here, {_mib(needed)} MiB; start Ray"
            " there with a larger --object-store-memory"
        )
    memory = shutil.disk_usage(SHARED_MEMORY).total if SHARED_MEMORY.is_dir() else 0
    if memory < needed:
        raise UserError(
            f"{SHARED_MEMORY} has {memory // 2**20} MiB, {_mib(needed)} may be needed (in a"
            " container, raise --shm-size)"
        )
    return f"{there // 2**20} MiB, of which {_mib(needed)} may be needed"


def _mib(amount: int) -> int:
    return -(-amount // 2**20)


def _model(folder: Path, drivers: dict[str, int]) -> str:
    if not folder.is_dir():
        raise UserError(f"{folder} is not there")
    here = file_sizes(folder)
    if wrong := [name for name, size in drivers.items() if here.get(name) != size]:
        raise UserError(f"{folder} is not the driver's: other or no {', '.join(wrong)}")
    return str(folder)


def _reward(reward: RewardConfig) -> str:
    if reward.runtime_env.pip:
        return f"{reward.factory} is checked when its packages are installed"
    check_factory(reward)
    return reward.factory


def _gpus(counted: float) -> str:
    # Ray hides all GPUs from a process that has asked for none.
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if there < counted:
        raise UserError(f"Ray counts {counted:g}, torch {torch.__version__} finds {there}")
    names = {torch.cuda.get_device_name(index) for index in range(there)}
    return f"{there} ({', '.join(sorted(names))})"


def _root(mark: Path) -> str:
    if not mark.is_file():
        raise UserError(
            f"{mark.parent} is not the driver's folder of this name; learner ranks write"
            " checkpoints there, so it must be on shared storage"
        )
    try:
        with tempfile.TemporaryFile(dir=mark.parent):
            pass
    except OSError as error:
        raise UserError(f"{mark.parent} cannot be written: {error.strerror}") from None
    return f"{mark.parent} is the driver's"

"""The Ray actor of a rollout worker: forwards calls to an engine.

Failure policy. A worker holds nothing that cannot be rebuilt from the checkpoint and one push of
weights. An exception reaches the caller unchanged, and the worker goes on: a failed ``generate``
has no effect, and a refused ``load_weights`` leaves the old weights in place. Ray does not restart
a worker that dies, because the new process would sample from the checkpoint's weights without
anybody knowing. Whoever replaces a worker has to push the current weights to the new one first.
Weights are loaded while the rest of them is still being published. If the rest does not come, the
worker holds a part of each version, and refuses to sample until it has loaded a whole version.
The caller enforces the deadlines (``timeout_s``, ``load_timeout_s``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError

from policy.runtime import FAST_COPIES, quick_imports, tune_process
from policy.sampling import Sampling
from policy.slots import TensorSlot
from policy.types import Group
from rollout.config import RolloutConfig
from rollout.engine import Engine, EngineIdentity, GenerationRequest
from rollout.vllm.installation import prepare_vllm_process

if TYPE_CHECKING:  # these import torch, which must not be imported before tune_process
    from policy.receipt import WeightReceipt
    from policy.weights import Bucket


class RolloutWorker:
    """Forwards to the engine that the settings name.

    The first call builds the engine. If the constructor built it, nobody could tell slow loading
    from a worker that Ray has no place for, and a ``UserError`` would be buried in Ray's traceback.
    """

    def __init__(
        self,
        config: RolloutConfig,
        checkpoint: str,
        template: str,
        instruction: str | None = None,
        dtype: str = "float32",
        deterministic: bool = False,
    ) -> None:
        self._load = partial(
            load_engine, config, Path(checkpoint), template, instruction, dtype, deterministic
        )
        self._engine: Engine | None = None
        self._whole = True  # whether all weights are of one version

    def generate(
        self, requests: Sequence[GenerationRequest], sampling: Sampling | None = None
    ) -> list[Group]:
        if not self._whole:
            raise RuntimeError("the last push of weights broke off: the worker holds a part of it")
        return self._serving().generate(requests, sampling)

    def generate_groups(
        self, requests: Sequence[GenerationRequest], sampling: Sampling | None = None
    ) -> tuple[Group | int, ...]:
        """The groups and then their number; call with ``num_returns = len(requests) + 1``.

        Each group becomes an object of its own in the store. A caller that waits for the number
        waits for all groups and fetches none.
        """
        groups = self.generate(requests, sampling)
        return (*groups, len(groups))

    def load_weights(
        self, weight_version: int, slots: tuple[TensorSlot, ...], parcels: Sequence[ray.ObjectRef]
    ) -> WeightReceipt:
        """Copies the buckets of each parcel as soon as it is on this machine. Raises Ray's error
        for one that will never be."""
        engine = self._serving()
        from policy.weights import BucketLost, WeightBuckets

        weights = WeightBuckets(slots, ArrivingBuckets(parcels))
        whole, self._whole = self._whole, False
        try:
            receipt = engine.load_weights(weights, weight_version)
        except ValueError:  # the push was refused before anything was changed
            self._whole = whole
            raise
        except BucketLost as lost:
            raise (lost.__cause__ or lost) from None
        self._whole = True
        return receipt

    def sleep(self) -> None:
        self._serving().sleep()

    def wake(self) -> None:
        self._serving().wake()

    def identity(self) -> EngineIdentity:
        return self._serving().identity()

    def _serving(self) -> Engine:
        if self._engine is None:
            self._engine = self._load()
        return self._engine


class ArrivingBuckets(Sequence["Bucket"]):
    """Buckets whose parcels may still be on their way into the object store: reading one waits."""

    def __init__(self, parcels: Sequence[ray.ObjectRef]) -> None:
        """Each parcel is a list of buckets."""
        self._parcels = list(parcels)
        self._fetched = 0  # how many of them
        self._here: list[Bucket] = []

    def __len__(self) -> int:
        """Waits for all of them."""
        self._fetch(math.inf)
        return len(self._here)

    def __getitem__(self, index: Any) -> Any:
        """Raises ``BucketLost`` from Ray's error when the bucket will never come."""
        self._fetch(index + 1)
        return self._here[index]

    def _fetch(self, count: float) -> None:
        """Fetch parcels until ``count`` buckets are here, or all."""
        from policy.weights import BucketLost

        while len(self._here) < count and self._fetched < len(self._parcels):
            try:
                self._here += ray.get(self._parcels[self._fetched])
            except RayError as error:
                raise BucketLost(f"bucket {len(self._here)} of the weights is lost") from error
            self._fetched += 1


def load_engine(
    config: RolloutConfig,
    checkpoint: Path,
    template: str,
    instruction: str | None = None,
    dtype: str = "float32",
    deterministic: bool = False,
) -> Engine:
    """The engine that the settings name. Tunes the process before torch is imported."""
    tune_process(config.threads, deterministic)
    if config.engine == "vllm":
        prepare_vllm_process(config)
        from rollout.vllm.vllm_engine import load_vllm_engine

        return load_vllm_engine(config, checkpoint, template, instruction, dtype)
    with quick_imports():
        from rollout.transformers_engine import load_transformers_engine

    return load_transformers_engine(config, checkpoint, template, instruction, dtype)


def start_rollout_worker(
    config: RolloutConfig,
    checkpoint: str,
    template: str,
    instruction: str | None = None,
    dtype: str = "float32",
    deterministic: bool = False,
    place: Any = None,
) -> Any:
    """An actor handle on a ``RolloutWorker``; returns before the worker is ready.

    ``place`` is a scheduling strategy of Ray. Without one, Ray chooses the host.
    """
    actor = ray.remote(RolloutWorker).options(
        num_cpus=config.cpus_per_worker,
        num_gpus=config.gpus_per_worker,
        resources=config.resources,
        scheduling_strategy=place,
        max_restarts=0,
        runtime_env={"env_vars": FAST_COPIES},
    )
    return actor.remote(config, checkpoint, template, instruction, dtype, deterministic)

"""The pool of rollout workers, as the pipeline sees it.

Failure policy: a worker that dies, raises or is late stops the run with its name
(``WorkerFailed``). The run goes on from its last checkpoint with ``--resume``. Requests go to
workers by position alone, so the same seed and layout give the same batches on every run.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray

from orchestrator.settings.inputs import Inputs
from orchestrator.settings.run_config import RunConfig
from orchestrator.workers.waiting import wait_all
from orchestrator.workers.worker_pool import Resources, WorkerPool
from policy.probe import WeightReceipt
from policy.sampling import Sampling
from policy.types import Group, Prompt
from rollout.engine import GenerationRequest
from rollout.worker import start_rollout_worker

log = logging.getLogger("eg_grpo")


@dataclass(frozen=True)
class GroupRef:
    """A group in the object store. This process holds only the reference."""

    prompt: Prompt
    ref: ray.ObjectRef
    size: int  # trajectories in it


class RolloutPool(WorkerPool):
    """Rollout workers that all serve the same weight version."""

    def __init__(self, config: RunConfig, inputs: Inputs) -> None:
        self.config = config.rollout
        super().__init__(
            [f"rollout worker {index}" for index in range(self.config.workers)],
            partial(
                start_rollout_worker,
                config.rollout,
                str(inputs.model_path),
                config.model.template,
                inputs.instruction,
                config.model.dtype,
                config.deterministic,
            ),
            lambda workers: [worker.identity.remote() for worker in workers],
            Resources(self.config.cpus_per_worker, self.config.gpus_per_worker),
            config.cluster.start_timeout_s,
        )

    def wait_ready(self) -> None:
        """Block until every worker has loaded its model, and log what each one runs."""
        for identity in self._wait_loaded():
            log.info("rollout engine: %s", identity)

    def generate(
        self, requests: Sequence[GenerationRequest], sampling: Sampling | None = None
    ) -> list[GroupRef]:
        """Groups for the requests, in their order; returns when all are sampled.

        Worker k of n takes requests k, k + n, k + 2n, ...
        """
        shares = [requests[index :: len(self.workers)] for index in range(len(self.workers))]
        replies = [
            # Each group is an object of its own, so that it can travel alone. Their number is one
            # more object: it says that all are there.
            worker.generate_groups.options(num_returns=len(share) + 1).remote(share, sampling)
            for worker, share in zip(self.workers, shares, strict=True)
            if share
        ]
        wait_all(
            [reply[-1] for reply in replies], self.names[: len(replies)], self.config.timeout_s
        )
        groups: list[GroupRef] = [None] * len(requests)  # type: ignore[list-item]
        for index, (share, reply) in enumerate(zip(shares, replies, strict=False)):
            groups[index :: len(self.workers)] = [
                GroupRef(request.prompt, ref, len(request.seeds))
                for request, ref in zip(share, reply[:-1], strict=True)
            ]
        return groups

    def fetch(self, groups: Sequence[GroupRef]) -> list[Group]:
        """See ``fetch_groups``."""
        return fetch_groups(groups, self.config.timeout_s)

    @contextmanager
    def asleep(self) -> Iterator[None]:
        """Have every worker sleep while the block runs, if the settings say so.

        Workers are woken after a failure too. That failure is then raised, whether they wake or
        not. After Ctrl-C nobody waits for them.
        """
        if not self.config.sleep_while_learning:
            yield
            return
        try:
            self._wait([worker.sleep.remote() for worker in self.workers])
            yield
        except Exception:
            try:
                self._wake()
            except Exception as second:
                log.warning("after a failure: %s", second)
            raise
        self._wake()

    def load_weights(self, weights: ray.ObjectRef, weight_version: int) -> list[WeightReceipt]:
        """Have every worker load one weight version; returns their receipts in worker order."""
        return self._wait([w.load_weights.remote(weights, weight_version) for w in self.workers])

    def _wake(self) -> None:
        self._wait([worker.wake.remote() for worker in self.workers])

    def _wait(self, refs: Sequence[ray.ObjectRef]) -> list[Any]:
        return wait_all(refs, self.names, self.config.load_timeout_s)


def fetch_groups(groups: Sequence[GroupRef], timeout_s: float) -> list[Group]:
    """Bring groups to this process, with their images.

    Raises ``WorkerFailed`` that names the prompt of a group which is lost or does not come in time.
    """
    names = [f"the group of prompt {group.prompt.id}" for group in groups]
    return wait_all([group.ref for group in groups], names, timeout_s)

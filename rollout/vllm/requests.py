"""What a request asks of the model, and how the model finds it for each row it is to sample.

Seed, phase, guidance and temperature travel in ``SamplingParams.extra_args``, which the model
runner keeps with the request whatever the scheduler does to it: chunked prefill, preemption and
batching cannot mix them up. A token's noise follows from the seed and from how many tokens of the
request came before it, so it does not matter when or beside whom it is sampled.

Shape legend: R = rows, one per request of the running batch, in its order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policy.sampling import Sampling
from rollout.drawing import Phase, token_noise


@dataclass(frozen=True)
class SampleRequest:
    """Draw tokens of one phase of one trajectory; ``forced`` ones are scored instead of drawn."""

    phase: Phase
    seed: int
    sampling: Sampling
    count: int  # at most so many tokens
    forced: tuple[int, ...] | None = None

    def extra_args(self) -> dict[str, Any]:
        return {"eg_grpo": self}


@dataclass(frozen=True)
class RowTask:
    """What to do with one row: draw the token at quantile ``noise``, or take ``forced``."""

    request: SampleRequest
    noise: float
    forced: int | None


class RunningBatch:
    """The batch that vLLM's model runner (V1) is computing."""

    def __init__(self, model_runner: Any) -> None:
        self._runner = model_runner

    def tasks(self) -> list[RowTask] | None:
        """One task per row to be sampled; ``None`` when the batch only reads, as the probe does.

        Raises ``RuntimeError`` when requests that sample and requests that only read are mixed.
        """
        batch = self._runner.input_batch
        count = len(batch.req_ids)
        states = [self._runner.requests[name] for name in batch.req_ids]
        every = [(s.sampling_params.extra_args or {}).get("eg_grpo") for s in states]
        asked = [request for request in every if request is not None]
        if not asked:
            return None
        if len(asked) < count:
            raise RuntimeError("requests that sample and requests that only read in one batch")
        scheduled = np.diff(self._runner.query_start_loc.np[: count + 1])
        read = batch.num_computed_tokens_cpu[:count] + scheduled
        return [
            _task(request, int(read[row]) - states[row].num_prompt_tokens)
            for row, request in enumerate(asked)
        ]


def _task(request: SampleRequest, place: int) -> RowTask:
    """``place`` is the token's place among the sampled ones; below 0 the prompt is not yet read.

    vLLM discards what is sampled from a row whose prompt it has read in part.
    """
    place = max(place, 0)
    noise = float(_noise(request.seed, request.phase, request.count)[place])
    return RowTask(request, noise, None if request.forced is None else request.forced[place])


@lru_cache(maxsize=4096)
def _noise(seed: int, phase: Phase, count: int) -> NDArray[np.float64]:
    return token_noise([seed], phase, count)[0].numpy()


def by_phase(tasks: Sequence[RowTask]) -> dict[Phase, list[int]]:
    """Rows of each phase that occurs."""
    rows: dict[Phase, list[int]] = {}
    for row, task in enumerate(tasks):
        rows.setdefault(task.request.phase, []).append(row)
    return rows

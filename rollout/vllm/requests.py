"""What a vLLM request asks of our model, and how the model finds it for each row to be sampled.

A ``SampleRequest`` travels in ``SamplingParams.extra_args``. vLLM's model runner keeps these with
the request, so that chunked prefill, preemption and batching cannot mix requests up. A token's
noise follows from the seed and from the number of tokens that its request sampled before. It
therefore does not matter when a token is sampled, or with which other requests.

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
    """Asks for the tokens of one phase of one trajectory, and for their records.

    They are drawn, or where ``forced`` holds the tokens, taken from there.
    """

    phase: Phase
    seed: int
    sampling: Sampling
    # the largest number of tokens to sample
    count: int
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
        """One task per row to be sampled, or ``None`` when the batch only reads, as the probe does.

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
    """``place`` is the token's index among the sampled tokens of its request.

    It is below 0 while vLLM has read the prompt in part; vLLM discards what is sampled then.
    """
    place = max(place, 0)
    noise = float(_noise(request.seed, request.phase, request.count)[place])
    return RowTask(request, noise, None if request.forced is None else request.forced[place])


@lru_cache(maxsize=4096)
def _noise(seed: int, phase: Phase, count: int) -> NDArray[np.float64]:
    return token_noise([seed], phase, count)[0].numpy()


def by_phase(tasks: Sequence[RowTask]) -> dict[Phase, list[int]]:
    """The rows of each phase that occurs in ``tasks``."""
    rows: dict[Phase, list[int]] = {}
    for row, task in enumerate(tasks):
        rows.setdefault(task.request.phase, []).append(row)
    return rows

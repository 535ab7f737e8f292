"""The decode step launched kernel by kernel, and as a CUDA graph: the same states, and the time.

The engine takes the graph from its second step on. On a CPU there is none; there both rows of the
dry run show the same step.
"""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_check.measuring import seconds_of
from benchmarks.gpu_check.models import janus
from benchmarks.gpu_check.task import Measure, Task
from policy.janus import JanusPolicy
from rollout import decoding
from rollout.decoding import RowDecoder
from rollout.graphed_steps import SLOTS_PER_GRAPH, GraphedSteps


def measures(task: Task) -> Iterator[Measure]:
    policy, _ = janus(task)
    rows = task.sized(64, 2)
    steps = task.sized(SLOTS_PER_GRAPH + 8, 4)
    shape = f"{rows} rows, {steps} steps after a prompt of {PROMPT}"
    with torch.inference_mode():
        for name, dtype in (("bfloat16", torch.bfloat16), ("float32", torch.float32)):
            policy.to(dtype)
            graph_s, by_graph = _decoded(policy, rows, steps)
            with mock.patch.object(decoding, "GraphedSteps", _OneByOne):
                plain_s, one_by_one = _decoded(policy, rows, steps)
            apart = float((by_graph - one_by_one).abs().max() / one_by_one.abs().max())
            yield Measure(f"{name}: largest difference of states / largest value", apart)
            yield Measure(f"{name}: a step, one by one", 1000 * plain_s, "ms", shape)
            yield Measure(f"{name}: a step, graph, recording included", 1000 * graph_s, "ms", shape)


PROMPT = 80


class _OneByOne(GraphedSteps):
    """Launches the same kernels without a graph."""

    def _record(self, embedding_RD: Tensor) -> None:
        with mock.patch("rollout.graphed_steps.recorded", lambda step: step):
            super()._record(embedding_RD)


def _decoded(policy: JanusPolicy, rows: int, steps: int) -> tuple[float, Tensor]:
    """Seconds of a step, and the last states, of tokens that are always the same."""
    prompts = [np.full(PROMPT - row % 7, 5, dtype=np.int32) for row in range(rows)]
    decoder = RowDecoder(policy, prompts, steps)
    decoder.prefill()
    ids_B1 = torch.arange(rows, device=policy.device).unsqueeze(1) % policy.num_codes
    embedding_BD = policy.embed_image(ids_B1).squeeze(1)
    states: list[Tensor] = []

    def decode() -> None:
        for _ in range(steps):
            states[:] = [decoder.step(embedding_BD)]

    return seconds_of(decode) / steps, states[0].float()

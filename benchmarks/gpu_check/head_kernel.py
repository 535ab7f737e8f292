"""Compares our kernel with full log-softmax, forward and backward, in bfloat16.

Shape legend: N = tokens, D = hidden size, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.gpu_check.measuring import MIB, extra_bytes, median_seconds
from benchmarks.gpu_check.task import Measure, Task
from benchmarks.logprobs import COMPARED, PATHS


@dataclass(frozen=True)
class Head:
    """A micro-batch's tokens under a head as training has it."""

    name: str
    vocabulary: int
    tokens: int
    hidden: int
    trained: bool


# Janus-Pro-7B's two, with 8 trajectories of 128 CoT and 576 image tokens.
REAL = (Head("text head", 102_400, 1024, 4096, True), Head("image head", 16_384, 4608, 4096, False))
TINY = (Head("text head", 512, 16, 32, True), Head("image head", 128, 32, 32, False))


def measures(task: Task) -> Iterator[Measure]:
    for head in task.sized(REAL, TINY):
        yield from _of_head(task, head)


def _of_head(task: Task, head: Head) -> Iterator[Measure]:
    generator = torch.Generator(task.device).manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=task.device)

    weight_VD = (normal(head.vocabulary, head.hidden) * head.hidden**-0.5).bfloat16()
    weight_VD.requires_grad_(head.trained)
    hidden_ND = normal(head.tokens, head.hidden).bfloat16().requires_grad_()
    target_N = torch.randint(
        head.vocabulary, (head.tokens,), generator=generator, device=task.device
    )
    grad_N = normal(head.tokens)

    def run(path: Callable[..., tuple[Tensor, Tensor]]) -> list[Tensor]:
        hidden_ND.grad = weight_VD.grad = None
        logprob_N, entropy_N = path(hidden_ND, weight_VD, target_N)
        logprob_N.backward(grad_N)
        gradients = [g for g in (hidden_ND.grad, weight_VD.grad) if g is not None]
        return [logprob_N.detach(), entropy_N, *gradients]

    shape = f"V = {head.vocabulary:,}, {head.tokens:,} tokens, hidden {head.hidden:,}"
    results = {name: run(path) for name, path in list(PATHS.items())[:2]}
    for what, full, ours in zip(COMPARED, *results.values(), strict=False):
        gap = float((full.float() - ours.float()).abs().max() / full.float().abs().max())
        yield Measure(f"{head.name}: largest difference of {what} / largest value", gap)
    del results, full, ours
    for name, path in PATHS.items():
        hidden_ND.grad = weight_VD.grad = None
        taken = median_seconds(lambda path=path: run(path))
        hidden_ND.grad = weight_VD.grad = None
        extra = extra_bytes(lambda path=path: run(path), task.device)
        yield Measure(f"{head.name}, {name}: time", 1000 * taken, "ms", shape)
        yield Measure(f"{head.name}, {name}: memory", extra / MIB, "MiB", shape)

"""Memory and time of a head's log-probs and entropies: our kernel against full log-softmax.

    python -m benchmarks.logprobs                                     # V = 102,400, minutes
    python -m benchmarks.logprobs --device cuda --dtype bfloat16 --repetitions 20

A pass is forward and backward through a trained head. "Full" is autograd on logits, log-softmax,
gather and entropy, where the entropy needs no gradient. It is measured as usually written and with
care for memory. Shares and ratios are relative to the usual form.
Memory is a peak. It is given twice: beyond the inputs, and beyond the inputs and the gradients that
every pass leaves behind. Every storage is followed from the operation that makes it until it is
freed. Memory that a library uses inside one operation is not seen. Before anything is timed,
log-probs, entropies and gradients of kernel and full log-softmax are compared. They must agree in
float32.

Shape legend: N = tokens, D = hidden size, V = vocabulary.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.storage_log import MIB, StorageLog
from benchmarks.timing import Interval, clock_of, interleave
from learner.algorithm.kernels import linear_logprob_entropy
from policy.distribution import guide, temper
from policy.runtime import tune_process

PLAIN = dict(temperature=1.0, guidance_scale=1.0)  # softmax of the logits as they are
TOLERANCE = 1e-5  # of float32 gradients, relative to the largest
COMPARED = ("log-probs", "entropies", "hidden gradients", "weight gradients")
Path = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def _full_logits(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    *,
    temperature: float,
    guidance_scale: float,
    twin_ND: Tensor | None = None,
) -> Tensor:
    logits_NV = functional.linear(hidden_ND, weight_VD, bias_V).float()
    if twin_ND is not None:
        twin_NV = functional.linear(twin_ND, weight_VD, bias_V).float()
        logits_NV = guide(logits_NV, twin_NV, guidance_scale)
    return temper(logits_NV, temperature)


def full_logprob_entropy(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    bias_V: Tensor | None = None,
    **distribution: Any,
) -> tuple[Tensor, Tensor]:
    """All logits at once, as usually written: they are kept until the end, and the entropy is taken
    under autograd.

    16-bit logits are rounded, as in public code (and their product is slow on most CPUs): one of
    16 bits into float32, which the kernel uses, has no derivative on a GPU.
    """
    logits_NV = _full_logits(hidden_ND, weight_VD, bias_V, **distribution)
    logprob_NV = torch.log_softmax(logits_NV, dim=-1)
    entropy_N = -(logprob_NV.exp() * logprob_NV).sum(dim=-1)
    return logprob_NV.gather(1, target_N[:, None])[:, 0], entropy_N.detach()


def full_logprob(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    bias_V: Tensor | None = None,
    **distribution: Any,
) -> tuple[Tensor, Tensor]:
    """The same without the entropy, which is NaN."""
    logits_NV = _full_logits(hidden_ND, weight_VD, bias_V, **distribution)
    logprob_N = torch.log_softmax(logits_NV, dim=-1).gather(1, target_N[:, None])[:, 0]
    return logprob_N, torch.full_like(logprob_N, torch.nan)


def kernel_logprob_entropy(
    hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor
) -> tuple[Tensor, Tensor]:
    logprob_N, entropy_N = linear_logprob_entropy(hidden_ND, weight_VD, target_N, **PLAIN)
    assert entropy_N is not None
    return logprob_N, entropy_N


def lean_logprob_entropy(
    hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor
) -> tuple[Tensor, Tensor]:
    """The same with care for memory: the entropy needs no gradient, and keeps nothing for one."""
    logprob_NV = torch.log_softmax(functional.linear(hidden_ND, weight_VD).float(), dim=-1)
    with torch.no_grad():
        entropy_N = -torch.linalg.vecdot(logprob_NV.exp(), logprob_NV)
    return logprob_NV.gather(1, target_N[:, None])[:, 0], entropy_N


PATHS: dict[str, Path] = {
    "full log-softmax": partial(full_logprob_entropy, **PLAIN),
    "our kernel": kernel_logprob_entropy,
    "full, with care for memory": lean_logprob_entropy,
}


def measure(options: argparse.Namespace) -> None:
    generator = torch.Generator(options.device).manual_seed(0)
    made = dict(generator=generator, device=options.device)
    dtype = getattr(torch, options.dtype)
    weight_VD = torch.randn(options.vocabulary, options.hidden, **made)
    weight_VD = weight_VD.mul_(options.hidden**-0.5).to(dtype).requires_grad_()
    hidden_ND = torch.randn(options.tokens, options.hidden, **made).to(dtype).requires_grad_()
    target_N = torch.randint(options.vocabulary, (options.tokens,), **made)
    grad_N = torch.randn(options.tokens, **made)

    def run(path: Path) -> tuple[Tensor, Tensor]:
        hidden_ND.grad = weight_VD.grad = None
        logprob_N, entropy_N = path(hidden_ND, weight_VD, target_N)
        logprob_N.backward(grad_N)
        return logprob_N.detach(), entropy_N

    peaks, results = [], []
    for path in PATHS.values():
        hidden_ND.grad = weight_VD.grad = None  # before the log, which would see them go
        with StorageLog(hidden_ND, weight_VD, target_N, grad_N) as log:
            outputs = run(path)
            peaks.append((log.peak(hidden_ND.grad, weight_VD.grad), log.peak()))
        results.append([*outputs, hidden_ND.grad, weight_VD.grad])
    for name, full, ours in zip(COMPARED, *results[:2], strict=True):
        largest = torch.linalg.vector_norm(full, torch.inf)
        error = float(torch.linalg.vector_norm(full.sub_(ours), torch.inf) / largest)
        print(f"largest difference of {name} / largest value: {error:.1e}")
        assert options.dtype != "float32" or error < TOLERANCE, name
    del results, full, ours
    hidden_ND.grad = weight_VD.grad = None

    calls = [lambda path=path: run(path) for path in PATHS.values()]
    seconds = interleave(calls, options.repetitions, clock_of(options.device))
    print(
        f"\nV = {options.vocabulary:,}, {options.tokens} tokens, hidden {options.hidden},"
        f" {options.dtype} on {options.device}, {options.repetitions} interleaved repetitions\n\n"
        "| path | peak memory, MiB | share | with gradients, MiB | time, s | ratio |\n"
        "|---|---|---|---|---|---|"
    )
    for column, (name, (beyond, whole)) in enumerate(zip(PATHS, peaks, strict=True)):
        ratio = Interval.of(seconds[:, column] / seconds[:, 0])
        print(
            f"| {name} | {beyond / MIB:.1f} | {beyond / peaks[0][0]:.1%} | {whole / MIB:,.1f}"
            f" | {np.median(seconds[:, column]):.3f} | {ratio.times() if column else '1'} |"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabulary", type=int, default=102_400)
    parser.add_argument("--tokens", type=int, default=600)
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    options = parser.parse_args()
    tune_process()
    measure(options)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Measures how well a worker's probe shows that new weights have arrived (docs/arrival.md).

    python -m benchmarks.arrival                     # float32
    python -m benchmarks.arrival --dtype bfloat16

The shapes model gets updates of several sizes, as Adam's first step makes them: every float32
weight moves by the learning rate against the sign of a policy gradient. The learner's side computes
the probe by transformers, the worker's side by vLLM, both on a CPU. ``off`` is what rule 4
compares: the root mean square of the difference of the two changes of the probe, here as a share of
that of the learner's change. A worker that serves the old weights is off by 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.trajectories import random_groups
from policy.checkpoint.loading import load_encoder, load_policy
from policy.encoding import SpecialIds
from policy.janus import JanusPolicy
from policy.probe import probe_logprobs
from policy.runtime import tune_process
from policy.sequences import collate
from policy.trajectory_logprobs import trajectory_logprobs
from policy.types import FloatArray
from policy.weights import load_into, pack
from rollout.config import RolloutConfig, VllmSettings
from rollout.vllm.installation import check_vllm_installed, prepare_vllm_process

SHAPES = Path(__file__).parent.parent / "shapes" / "checkpoint"
RATES = (1.5e-4, 1e-5, 1e-6, 1e-7)
PART_RATE = 1e-6  # of the workers that serve a part of the old weights
# The names of the weights that such a worker has not replaced.
PARTS = {
    "one layer of four": "model.language_model.layers.1.",
    "one q_proj": "model.language_model.layers.1.self_attn.q_proj.",
    "the embeddings": "model.language_model.embed_tokens.",
    "the last norm": "model.language_model.norm.",
    "the text head": "lm_head.",
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    options = parser.parse_args(arguments)
    check_vllm_installed()
    print("\n".join(measure(options.dtype)))
    return 0


def measure(dtype: str, rates: tuple[float, ...] = RATES) -> Iterator[str]:
    """The lines of the table, and in float32 those of workers that have a part of the weights."""
    # The parity check of the engine is not what is measured: its tolerance is beyond any rounding.
    config = RolloutConfig(
        engine="vllm",
        guidance_scale=1.0,
        max_cot_tokens=24,
        batch_size=8,
        vllm=VllmSettings(parity_tolerance=10.0),
    )
    tune_process(config.threads)
    prepare_vllm_process(config)
    from rollout.vllm.vllm_engine import load_vllm_engine

    kind = getattr(torch, dtype)
    special = load_encoder(SHAPES, "shapes").special
    master = dict(load_policy(SHAPES).trained_parameters())
    signs = gradient_signs(load_policy(SHAPES), special)
    learner = load_policy(SHAPES, kind)
    worker = load_vllm_engine(config, SHAPES, "shapes", dtype=dtype)

    def stepped(rate: float) -> dict[str, Tensor]:
        return {n: (w.detach() - rate * signs[n]).to(kind) for n, w in master.items()}

    def learners(weights: Mapping[str, Tensor]) -> FloatArray:
        load_into(learner.trained_parameters(), pack(weights.items()))
        return probe_logprobs(learner, special)

    def workers(weights: Mapping[str, Tensor]) -> FloatArray:
        return worker.load_weights(pack(weights.items()), 0).probe_logprobs

    old = stepped(0.0)
    ours, theirs = learners(old), workers(old)
    yield (
        f"| {dtype}: learning rate | weights moved | learner's change, rms nats"
        " | tokens moved, learner / vLLM | off |"
    )
    yield "|---|---|---|---|---|"
    for rate in rates:
        new = stepped(rate)
        change, other = learners(new) - ours, workers(new) - theirs
        shares = " / ".join(f"{np.mean(moved != 0):.0%}" for moved in (change, other))
        yield (
            f"| {rate:g} | {_moved(old, new):.2%} | {_rms(change):.2g} | {shares} |"
            f" {_share(other - change, change)} |"
        )
    yield ""
    gap = abs(float((theirs - ours).mean()))
    yield f"The two engines differ by {_rms(theirs - ours):.2g} nats (rms), {gap:.2g} in the mean."
    if dtype == "float32":
        yield ""
        yield f"| serves the old, at {PART_RATE:g} | off |"
        yield "|---|---|"
        new = stepped(PART_RATE)
        change = learners(new) - ours
        for part, prefix in PARTS.items():
            mixed = {n: old[n] if n.startswith(prefix) else w for n, w in new.items()}
            other = workers(mixed) - theirs
            yield f"| {part} | {_share(other - change, change)} |"
    worker.shutdown()


def gradient_signs(policy: JanusPolicy, special: SpecialIds) -> dict[str, Tensor]:
    """The signs of the gradient of -sum of advantage x log-prob, by the name of each weight.

    Random trajectories have the advantages 1 and -1 in turns.
    """
    (group,) = random_groups(policy, [[12] * 8], special=special)
    batch = collate(group.trajectories, special)
    logprob_BT = trajectory_logprobs(policy, batch, 1.0, None).logprob_BT
    advantage_B = torch.tensor([1.0, -1.0]).repeat(4)
    named = dict(policy.trained_parameters())
    for parameter in named.values():
        parameter.requires_grad_()
    loss = -(advantage_B[:, None] * logprob_BT * batch.mask_BT).sum()
    gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient.sign()
        for (name, parameter), gradient in zip(named.items(), gradients, strict=True)
    }


def _moved(old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> float:
    moved = sum(int((new[name] != weight).sum()) for name, weight in old.items())
    return moved / sum(weight.numel() for weight in old.values())


def _share(difference: FloatArray, change: FloatArray) -> str:
    return f"{_rms(difference) / size:.3f}" if (size := _rms(change)) else "-"


def _rms(value: FloatArray) -> float:
    return float(np.sqrt(np.mean(np.square(value, dtype=np.float64))))


if __name__ == "__main__":
    sys.exit(main())

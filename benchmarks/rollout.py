"""Images and tokens per second of the engines, compared with the plain loop of public code.

    python -m benchmarks.rollout                  # the shapes model, then the wide one
    python -m benchmarks.rollout --model wide     # 576 image tokens, hidden 256, 4 layers
    python -m benchmarks.rollout --model wider    # 576 image tokens, hidden 512, 8 layers
    python -m benchmarks.rollout --threads 2      # both cores, seconds on the wall
    python -m benchmarks.rollout --profile        # and where the time goes
    python -m benchmarks.rollout --model 1b --device cuda --dtype bfloat16

All candidates generate whole trajectories (CoT, image tokens, pixels) of the same prompts with the
same weights, dtype, temperature, batch and threads. Each runs in a process of its own, and they
take turns. The engines also record log-probs and entropies under two distributions. The plain loop
(``benchmarks/plain_loop.py``) returns only tokens and pixels.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from benchmarks.models import SIZES, random_prompts, save_random_checkpoint
from benchmarks.rollout_candidates import (
    BASELINE,
    TRANSFORMERS_ENGINE,
    VLLM_ENGINE,
    Candidate,
    Produced,
    Workload,
    candidates,
)
from benchmarks.timing import Interval, take_turns
from policy.prompts import load_prompts
from policy.types import Prompt
from rollout.config import RolloutConfig, VllmSettings

ROOT = Path(__file__).parent.parent


def measure(name: str, folder: Path, prompts: list[Prompt], options: argparse.Namespace) -> None:
    config = RolloutConfig(
        engine="vllm",  # for its settings below; each candidate takes the engine of its name
        group_size=8,
        guidance_scale=5.0,
        max_cot_tokens=24,
        batch_size=8 * len(prompts),
        threads=options.threads,
        device=options.device,
        gpus_per_worker=float(options.device == "cuda"),
        vllm=VllmSettings(
            # Room for all at once: with less, vLLM lets some wait, and the batch shrinks.
            **({"cpu_kv_cache_gib": 4} if options.device == "cpu" else {}),
            # Kernels round 16-bit numbers differently (docs/vllm.md).
            parity_tolerance=1e-4 if options.dtype == "float32" else 0.6,
        ),
    )
    workload = Workload(folder, tuple(prompts), config, options.dtype)
    names = candidates(options.device)
    print(
        f"\n{name}: {len(prompts)} prompts x 8, guidance 5, {options.dtype} on {options.device},"
        f" {options.threads} thread(s), {options.rounds} rounds\n\n"
        f"| {name} | images/s | tokens/s | against the {BASELINE} |\n|---|---|---|---|",
        flush=True,
    )
    run = by_turns if options.device == "cpu" else one_by_one
    rounds, profiles = run(names, workload, options)
    baseline_s = np.array([produced[0].seconds for produced in rounds])
    for column, candidate in enumerate(names):
        own = [produced[column] for produced in rounds]
        own_s = np.array([produced.seconds for produced in own])
        images = np.median([produced.images for produced in own] / own_s)
        tokens = np.median([produced.tokens for produced in own] / own_s)
        ratio = Interval.of(baseline_s / own_s).times() if column else "1"
        print(f"| {candidate} | {images:.2f} | {tokens:.0f} | {ratio} |", flush=True)
    if VLLM_ENGINE not in names:
        print(f"| {VLLM_ENGINE} | not installed | | |")
    else:
        ours_s, vllm_s = (
            np.array([produced[names.index(engine)].seconds for produced in rounds])
            for engine in (TRANSFORMERS_ENGINE, VLLM_ENGINE)
        )
        against = Interval.of(ours_s / vllm_s).times()
        print(f"\n{VLLM_ENGINE} against {TRANSFORMERS_ENGINE}: {against}", flush=True)
    for candidate, profile in zip(names, profiles, strict=False):
        print(f"\n{candidate}\n{profile}", flush=True)


def by_turns(
    names: list[str], workload: Workload, options: argparse.Namespace
) -> tuple[list[list[Produced]], list[str]]:
    """What each candidate produced in each round, and the profiles: all run side by side, one at
    work, so that the machine's moods meet all of them."""
    with ExitStack() as stack:
        running = [stack.enter_context(Candidate(name, workload)) for name in names]
        rounds = take_turns([candidate.generate for candidate in running], options.rounds)
        profiles = [candidate.profile() for candidate in running if options.profile]
    return rounds, profiles


def one_by_one(
    names: list[str], workload: Workload, options: argparse.Namespace
) -> tuple[list[list[Produced]], list[str]]:
    """The same on a GPU, which has room for one model at a time and keeps its pace."""
    columns, profiles = [], []
    for name in names:
        with Candidate(name, workload) as candidate:
            candidate.generate()  # kernels are chosen, memory is taken
            columns.append([candidate.generate() for _ in range(options.rounds)])
            profiles += [candidate.profile()] if options.profile else []
    return [list(row) for row in zip(*columns, strict=True)], profiles


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=["shapes", *SIZES], action="append")
    parser.add_argument("--prompts", type=int, default=4, help="groups of 8 in a batch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--profile", action="store_true", help="one more round under cProfile")
    options = parser.parse_args()
    try:
        for model in options.model or ["shapes", "wide"]:
            if model == "shapes":
                prompts = load_prompts(ROOT / "shapes/data/train.jsonl")[: options.prompts]
                measure(model, ROOT / "shapes/checkpoint", prompts, options)
            else:
                with tempfile.TemporaryDirectory() as folder:
                    save_random_checkpoint(model, Path(folder), getattr(torch, options.dtype))
                    measure(model, Path(folder), random_prompts(options.prompts), options)
    except RuntimeError as error:
        sys.exit(f"benchmarks.rollout: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Images and tokens per second of the engines, against a plain loop as public code has it.

    python -m benchmarks.rollout                  # the shapes model, then the wide one
    python -m benchmarks.rollout --model wide     # 576 image tokens, hidden 256, 4 layers
    python -m benchmarks.rollout --threads 2      # both cores, seconds on the wall
    python -m benchmarks.rollout --profile        # and where the time goes
    python -m benchmarks.rollout --model 1b --device cuda --dtype bfloat16

All candidates generate whole trajectories (CoT, image tokens, pixels) of the same prompts with the
same weights, dtype, temperature, batch and threads, in one process, and take turns. The engines
record log-probs and entropies under two distributions beside the tokens; the plain loop
(``benchmarks/plain_loop.py``) has tokens and pixels alone.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from benchmarks.models import SIZES, random_prompts, save_random_checkpoint
from benchmarks.plain_loop import PlainLoop
from benchmarks.timing import Interval, clock_of, interleave
from policy.loading import load_encoder, load_policy
from policy.prompts import load_prompts
from policy.runtime import tune_process
from policy.types import Prompt
from rollout.config import RolloutConfig
from rollout.engine import Engine, GenerationRequest
from rollout.transformers_engine import load_engine

ROOT = Path(__file__).parent.parent
BASELINE, VLLM_ENGINE = "plain loop", "vLLM engine"
_PROFILE_LINES = 15


@dataclass
class Work:
    """What one candidate has produced, call after call."""

    images: list[int]
    tokens: list[int]


def candidates(
    folder: Path, config: RolloutConfig, prompts: list[Prompt], dtype: str
) -> dict[str, Callable[[], tuple[int, int]]]:
    """Each generates the groups of all prompts; returns its images and its tokens."""
    policy = load_policy(folder, getattr(torch, dtype)).to(config.device)
    plain = PlainLoop(policy, load_encoder(folder, "shapes"))
    repeated = [prompt for prompt in prompts for _ in range(config.group_size)]

    def run_plain() -> tuple[int, int]:
        samples = plain.generate(repeated, config.sampling)
        return len(samples), sum(len(s.cot_ids) + len(s.image_ids) for s in samples)

    def run(engine: Engine) -> Callable[[], tuple[int, int]]:
        requests = [
            GenerationRequest(p, tuple(range(i * config.group_size, (i + 1) * config.group_size)))
            for i, p in enumerate(prompts)
        ]

        def generate() -> tuple[int, int]:
            done = [t for group in engine.generate(requests) for t in group.trajectories]
            return len(done), sum(t.num_tokens for t in done)

        return generate

    runs = {
        BASELINE: run_plain,
        "transformers engine": run(load_engine(config, folder, "shapes", dtype=dtype)),
    }
    if find_spec("vllm") is not None:
        from rollout import worker

        vllm = RolloutConfig(**(config.model_dump() | {"engine": "vllm"}))
        runs[VLLM_ENGINE] = run(worker.load_engine(vllm, folder, "shapes", dtype=dtype))
    return runs


def measure(name: str, folder: Path, prompts: list[Prompt], options: argparse.Namespace) -> None:
    config = RolloutConfig(
        group_size=8,
        guidance_scale=5.0,
        max_cot_tokens=24,
        batch_size=8 * len(prompts),
        threads=options.threads,
        device=options.device,
    )
    runs = candidates(folder, config, prompts, options.dtype)
    work = {candidate: Work([], []) for candidate in runs}

    def recorded(candidate: str) -> Callable[[], None]:
        def call() -> None:
            images, tokens = runs[candidate]()
            work[candidate].images.append(images)
            work[candidate].tokens.append(tokens)

        return call

    print(
        f"\n{name}: {len(prompts)} prompts x 8, guidance 5, {options.dtype} on {options.device},"
        f" {options.threads} thread(s), {options.rounds} rounds\n\n"
        f"| {name} | images/s | tokens/s | against the {BASELINE} |\n|---|---|---|---|",
        flush=True,
    )
    calls = [recorded(candidate) for candidate in runs]
    seconds = interleave(calls, options.rounds, clock_of(options.device, options.threads))
    for column, candidate in enumerate(runs):
        own = seconds[:, column]
        images = np.median(np.array(work[candidate].images) / own)
        tokens = np.median(np.array(work[candidate].tokens) / own)
        ratio = Interval.of(seconds[:, 0] / own).times() if column else "1"
        print(f"| {candidate} | {images:.2f} | {tokens:.0f} | {ratio} |", flush=True)
    if VLLM_ENGINE not in runs:
        print(f"| {VLLM_ENGINE} | not installed | | |")
    if options.profile:
        for candidate, generate in runs.items():
            print(f"\n{candidate}", flush=True)
            with cProfile.Profile() as profile:
                generate()
            pstats.Stats(profile).sort_stats("tottime").print_stats(_PROFILE_LINES)


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
    tune_process(options.threads)
    for model in options.model or ["shapes", "wide"]:
        if model == "shapes":
            prompts = load_prompts(ROOT / "shapes/data/train.jsonl")[: options.prompts]
            measure(model, ROOT / "shapes/checkpoint", prompts, options)
        else:
            with tempfile.TemporaryDirectory() as folder:
                save_random_checkpoint(model, Path(folder), getattr(torch, options.dtype))
                measure(model, Path(folder), random_prompts(options.prompts), options)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What EG-GRPO costs over GRPO, per learner step and per head.

    python benchmarks/overhead.py step      # at the shapes size: whole learner steps, interleaved
    python benchmarks/overhead.py head      # at V = 102,400 and 16,384, hidden 4,096, 600 tokens

Both methods run in one process and take turns, so that the machine's moods meet both; a ratio is
the median over pairs, in CPU time of one thread, with a bootstrap interval. The GRPO baseline
computes no entropies. The paper reports +1.35 % of a whole training step (table 5).
"""

from __future__ import annotations

import argparse
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from learner.advantages import group_advantages
from learner.batch import GroupSlice, TrainingGroup
from learner.bonus import capped_bonus
from learner.config import AlgorithmConfig, LearnerConfig
from learner.kernels import linear_logprob_entropy
from learner.objective import token_advantages
from learner.partition import partition_by_modality
from learner.rank import LearnerRank
from learner.settings import LearnerSettings, Place
from orchestrator.config import load_config
from orchestrator.prompts import derived_seed, step_prompts
from policy.prompts import load_prompts
from policy.runtime import tune_process
from rollout.engine import GenerationRequest
from rollout.transformers_engine import load_engine

ROOT = Path(__file__).parent.parent


def interleave(
    baseline: Callable[[], object], method: Callable[[], object], pairs: int
) -> tuple[np.ndarray, np.ndarray]:
    """CPU seconds of each call, on one thread; who goes first alternates."""
    seconds = np.zeros((pairs, 2))
    for pair in range(pairs):
        order = (0, 1) if pair % 2 == 0 else (1, 0)
        for column in order:
            start = time.process_time()
            (baseline, method)[column]()
            seconds[pair, column] = time.process_time() - start
    return seconds[:, 0], seconds[:, 1]


def report(name: str, baseline: np.ndarray, method: np.ndarray) -> None:
    """Medians, and the median ratio of pairs with its 95 % bootstrap interval."""
    ratios = method / baseline
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(ratios, size=(2000, len(ratios))), axis=1)
    low, high = np.percentile(medians, [2.5, 97.5])
    print(
        f"{name}: {1e3 * np.median(baseline):.1f} -> {1e3 * np.median(method):.1f} ms,"
        f" {np.median(ratios) - 1:+.2%} (95 % interval {low - 1:+.2%} to {high - 1:+.2%},"
        f" {len(ratios)} pairs)",
        flush=True,
    )


def measure_step(pairs: int) -> None:
    """One optimizer step of configs/shapes.yaml on a batch sampled once: EG-GRPO against GRPO."""
    config = load_config(ROOT / "configs" / "shapes.yaml", [])
    model = ROOT / config.model.path
    engine = load_engine(config.rollout, model, config.model.template)
    prompts = load_prompts(ROOT / config.data.train)
    chosen = step_prompts(prompts, config.prompts_per_step, config.seed, 0)
    requests = [
        GenerationRequest(p, tuple(derived_seed(i, j) for j in range(config.rollout.group_size)))
        for i, p in enumerate(chosen)
    ]
    rng = np.random.default_rng(0)
    batch = []
    for group in engine.generate(requests):
        rewards = rng.normal(size=len(group.trajectories)).tolist()
        advantages = group_advantages(rewards, minimum_survivors=2) or []
        source = TrainingGroup(group, tuple(advantages))
        batch.append(GroupSlice(source, tuple(range(len(advantages)))))

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # A learning rate near 0: both keep seeing the same weights, and the same work.
    learner = LearnerConfig(**(config.learner.model_dump() | {"learning_rate": 1e-12}))

    def rank(**algorithm: str) -> Callable[[], object]:
        built = LearnerRank(
            LearnerSettings(learner, AlgorithmConfig(**algorithm), model, total_steps=10**6),
            Place(0, 1, "127.0.0.1", port),
        )

        def step() -> None:
            built.weight_version = 0  # the batch stays fresh
            built.update(batch)

        step()
        return step

    grpo = rank(modalities="none")
    for preset in ("as-code", "as-paper"):
        report(f"learner step, {preset}", *interleave(grpo, rank(preset=preset), pairs))
    report("learner step, GRPO against itself", *interleave(grpo, grpo, pairs))


def measure_head(
    name: str, vocabulary: int, trained: bool, tokens: int, hidden: int, pairs: int
) -> None:
    """One head, forward and backward, with the entropies and all that is made of them, or none."""
    generator = torch.Generator().manual_seed(0)
    weight_VD = torch.randn(vocabulary, hidden, generator=generator) / hidden**0.5
    weight_VD.requires_grad_(trained)
    hidden_ND = torch.randn(tokens, hidden, generator=generator, requires_grad=True)
    target_N = torch.randint(vocabulary, (tokens,), generator=generator)
    advantage_B = torch.ones(1)
    no_token_BT = torch.zeros(1, tokens, dtype=torch.bool)

    def head(with_entropy: bool) -> None:
        logprob_N, entropy_N = linear_logprob_entropy(
            hidden_ND, weight_VD, target_N, with_entropy=with_entropy
        )
        coefficient_N = advantage_B
        if entropy_N is not None:
            low, high = partition_by_modality(entropy_N[None], ~no_token_BT, no_token_BT, "both")
            bonus = capped_bonus(advantage_B, entropy_N[None])
            coefficient_N = token_advantages(advantage_B, low, high, bonus)[0]
        (logprob_N * coefficient_N).sum().backward()
        hidden_ND.grad = weight_VD.grad = None

    head(True)
    report(
        f"{name} head, V = {vocabulary:,}, {tokens} tokens, hidden {hidden}",
        *interleave(lambda: head(False), lambda: head(True), pairs),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["step", "head"])
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--tokens", type=int, default=600)
    parser.add_argument("--hidden", type=int, default=4096)
    parsed = parser.parse_args()
    tune_process()
    if parsed.what == "step":
        measure_step(parsed.pairs)
    else:
        for head in (("text", 102_400, True), ("image", 16_384, False)):
            measure_head(*head, parsed.tokens, parsed.hidden, parsed.pairs)
    return 0


if __name__ == "__main__":
    sys.exit(main())

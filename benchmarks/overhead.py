"""The time that EG-GRPO costs over GRPO, per learner step and per head.

    python -m benchmarks.overhead step   # at the shapes size: whole learner steps, and only the
                                         # pieces that differ
    python -m benchmarks.overhead head   # at V = 102,400 and 16,384, hidden 4,096, 600 tokens

Both methods run in one process and take turns, so that a slow moment of the machine slows both. A
ratio is the median over pairs with a bootstrap interval, in CPU time of one thread
(benchmarks/timing.py).
The GRPO baseline computes no entropies. The paper reports +1.35 % of a whole training step
(its table 5).
"""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.presets import preset
from benchmarks.synthetic import STILL, rewarded
from benchmarks.timing import Interval, interleave
from learner.algorithm.bonus import capped_bonus
from learner.algorithm.kernels import linear_logprob_entropy
from learner.algorithm.methods.eg_grpo import token_advantages
from learner.algorithm.objective import BatchCounts
from learner.algorithm.partition import partition_by_modality
from learner.batch_loss import micro_batch_loss, normalised_entropy, recorded_rows
from learner.config import AlgorithmConfig, LearnerConfig
from learner.logprob_module import entropy_kernel, logprob_kernel
from learner.micro_batches import MicroBatch, cut_micro_batches, micro_batch, training_trajectories
from learner.rank import LearnerRank
from learner.rank_settings import LearnerSettings, Place
from learner.shares import GroupSlice
from orchestrator.pipeline.order import derived_seed, step_prompts
from orchestrator.settings.run_config import RunConfig, load_config
from policy.checkpoint.loading import load_encoder, load_policy
from policy.prompts import load_prompts
from policy.runtime import tune_process
from policy.trajectory_logprobs import LogprobKernel
from rollout.engine import GenerationRequest
from rollout.transformers_engine import load_transformers_engine

ROOT = Path(__file__).parent.parent
PLAIN = dict(temperature=1.0, guidance_scale=1.0)  # the softmax of configs/shapes.yaml
PIECES_PAIRS = 60  # of some milliseconds each


def report(
    name: str, baseline: Callable[[], object], method: Callable[[], object], pairs: int
) -> tuple[float, float]:
    """Print the median ratio of pairs; returns the median seconds of both."""
    seconds = interleave((baseline, method), pairs)
    medians = np.median(seconds, axis=0)
    ratio = Interval.of(seconds[:, 1] / seconds[:, 0]).percent()
    print(
        f"{name}: {1e3 * medians[0]:.1f} -> {1e3 * medians[1]:.1f} ms, {ratio}, {pairs} pairs",
        flush=True,
    )
    return float(medians[0]), float(medians[1])


def sampled_batch(config: RunConfig) -> list[GroupSlice]:
    """The groups of one optimizer step of the shapes world, with rewards out of a hat."""
    engine = load_transformers_engine(
        config.rollout, ROOT / config.model.path, config.model.template
    )
    prompts = load_prompts(ROOT / config.data.train)
    chosen = step_prompts(prompts, config.prompts_per_step, config.seed, 0)
    requests = [
        GenerationRequest(p, tuple(derived_seed(i, j) for j in range(config.rollout.group_size)))
        for i, p in enumerate(chosen)
    ]
    return rewarded(engine.generate(requests))


def measure_step(pairs: int) -> None:
    """One optimizer step of configs/shapes.yaml on a batch sampled once: EG-GRPO against GRPO."""
    config = load_config(ROOT / "configs" / "shapes.yaml", [])
    model = ROOT / config.model.path
    batch = sampled_batch(config)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    learner = LearnerConfig(**(config.learner.model_dump() | {"learning_rate": STILL}))

    def rank(**algorithm: str) -> Callable[[], object]:
        built = LearnerRank(
            LearnerSettings(
                learner=learner,
                algorithm=AlgorithmConfig(**algorithm),
                checkpoint=model,
                dtype=config.model.dtype,
                template=config.model.template,
                instruction=None,
                sampling=config.rollout.sampling,
                total_steps=10**6,
            ),
            Place(0, 1, "127.0.0.1", port),
        )

        def step() -> None:
            built.weight_version = 0  # the batch stays fresh
            built.update(batch)

        step()
        return step

    grpo = rank(modalities="none")
    for name in ("as-code", "as-paper"):
        report(f"learner step, {name}", grpo, rank(**preset(name)), pairs)
    step_seconds, _ = report("learner step, GRPO against itself", grpo, grpo, pairs)
    measure_pieces(config, batch, step_seconds)


def measure_pieces(config: RunConfig, batch: list[GroupSlice], step_seconds: float) -> None:
    """What differs between the methods, alone: heads, partition, bonus, loss and metrics of one
    step, on hidden states out of a hat. The step around it is noisier than the difference."""
    policy = load_policy(ROOT / config.model.path)
    special = load_encoder(ROOT / config.model.path, config.model.template).special
    parts = cut_micro_batches(training_trajectories(batch), config.learner.micro_batch_size)
    micro_batches = [micro_batch(part, special, 0, False, policy.device) for part in parts]
    counts = BatchCounts(
        tokens=sum(int(b.mask_BT.sum()) for b in micro_batches), sequences=sum(map(len, parts))
    )
    heads = policy.model.lm_head, policy.model.model.generation_head.vision_head

    def normalised(entropy_BT: Tensor, batch: MicroBatch) -> Tensor:
        return normalised_entropy(entropy_BT, batch, *(head.out_features for head in heads))

    def logprobs(batch: MicroBatch, kernel: LogprobKernel) -> tuple[Tensor, Tensor]:
        results = []
        for phase, head in zip((batch.tokens.cot, batch.tokens.image), heads, strict=True):
            target_N = phase.target_BT[phase.mask_BT]
            hidden_ND = torch.randn(len(target_N), head.in_features, requires_grad=True)
            results.append(kernel(hidden_ND, head.weight, target_N, head.bias, **PLAIN))
        logprob_BT, entropy_BT = (
            torch.zeros(batch.mask_BT.shape).masked_scatter(batch.mask_BT, torch.cat(values))
            for values in zip(*results, strict=True)
        )
        return logprob_BT, entropy_BT

    def pieces(algorithm: AlgorithmConfig) -> Callable[[], None]:
        method = algorithm.objective().method
        calibrated = "batch" in method.needs
        from_training = "entropy" in method.needs

        def run() -> None:
            entropies = [normalised(b.recorded_entropy_BT, b) for b in micro_batches]
            settled = None
            if calibrated:
                summaries = [
                    method.summary(recorded_rows(b, entropy_BT))
                    for b, entropy_BT in zip(micro_batches, entropies, strict=True)
                ]
                settled = method.settle(summaries)
            for b, entropy_BT in zip(micro_batches, entropies, strict=True):
                logprob_BT, new_BT = logprobs(
                    b, entropy_kernel if from_training else logprob_kernel
                )
                entropy_BT = normalised(new_BT, b) if from_training else entropy_BT
                loss, _ = micro_batch_loss(
                    b, logprob_BT, b.recorded_logprob_BT, entropy_BT, algorithm, counts, settled
                )
                loss.backward()

        run()
        return run

    grpo = pieces(AlgorithmConfig(modalities="none"))
    for name in ("as-code", "as-paper"):
        base, method = report(
            f"pieces alone, {name}", grpo, pieces(AlgorithmConfig(**preset(name))), PIECES_PAIRS
        )
        print(f"  that is {(method - base) / step_seconds:+.2%} of a step")


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
            hidden_ND, weight_VD, target_N, with_entropy=with_entropy, **PLAIN
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
        lambda: head(False),
        lambda: head(True),
        pairs,
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

"""Measures how much vLLM's records and probe differ from the policy's, to set the tolerances.

    python -m benchmarks.vllm_gaps                                       # the shapes model, float32
    python -m benchmarks.vllm_gaps --dtype bfloat16
    python -m benchmarks.vllm_gaps my-janus --device cuda --dtype bfloat16

It replays the trajectories that a worker replays at its start (``rollout.vllm.parity``), and reads
the probe.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from policy import probe
from policy.checkpoint.hub import checkpoint_folder
from policy.checkpoint.loading import check_checkpoint, load_policy
from policy.checkpoint.tokenizer import load_tokenizer
from policy.encoding import special_ids
from policy.errors import UserError
from policy.runtime import tune_process
from rollout.config import RolloutConfig
from rollout.vllm.installation import check_vllm_installed, prepare_vllm_process

SHAPES = Path(__file__).parent.parent / "shapes" / "checkpoint"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", nargs="?", default=str(SHAPES), help="folder or Hub id")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--guidance", type=float, default=5.0, help="scale, above 1")
    options = parser.parse_args(arguments)
    config = RolloutConfig(
        engine="vllm",
        device=options.device,
        gpus_per_worker=float(options.device == "cuda"),
        guidance_scale=options.guidance,
        max_cot_tokens=24,
        batch_size=8,
    )
    try:
        check_vllm_installed()
        check_checkpoint(options.checkpoint)
        measure(options.checkpoint, options.dtype, config)
    except UserError as error:
        sys.exit(f"benchmarks.vllm_gaps: {error}")
    return 0


def measure(checkpoint: str, dtype: str, config: RolloutConfig) -> None:
    """Print the largest gap of each record, and the tolerances that would let them pass."""
    tune_process(config.threads)
    prepare_vllm_process(config)
    from rollout.vllm.parity import replay, replay_gaps, slopes, vllm_probe_logprobs
    from rollout.vllm.server import VllmServer

    folder = checkpoint_folder(checkpoint)
    policy = load_policy(folder, getattr(torch, dtype))
    special = special_ids(load_tokenizer(folder))
    server = VllmServer(policy, special, config, streams=2 if config.sampling.guided else 1)
    # At a tolerance of 1 a gap's own tolerance is the factor that guidance grants it.
    replayed = replay(server, policy, special, config.sampling)
    gaps = replay_gaps(replayed, config.sampling, tolerance=1.0)
    theirs = vllm_probe_logprobs(server, policy, special)
    server.shutdown()
    print(f"| record, nats, {dtype} on {config.device}, guidance {config.guidance_scale:g} | gap |")
    print("|---|---|")
    for gap in gaps:
        print(f"| {gap.record} | {gap.nats:.2g} |")
    probe_gap = abs(float((theirs - probe.probe_logprobs(policy, special)).mean()))
    print(f"| probe | {probe_gap:.2g} |")
    for name, slope in slopes(replayed, guided=server.streams == 2).items():
        print(f"| slope of {name} | {slope:.3f} |")
    needed = max(gap.nats / gap.tolerance for gap in gaps)
    print(f"\nrollout.vllm.parity_tolerance must be above {needed:.2g}")
    print(f"probe_tolerance must be above {probe_gap:.2g}")


if __name__ == "__main__":
    sys.exit(main())

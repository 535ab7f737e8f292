"""Several real learner ranks in processes of their own, without Ray."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch.multiprocessing
from learner_settings import learner_settings
from learner_state import full_state
from safetensors.torch import load_file, save_file

from learner.rank_settings import Place
from learner.shares import TrainingGroup, split_over_ranks
from policy.runtime import tune_process
from policy.weights import unpack


@dataclass(frozen=True)
class Scenario:
    """One training from the model, or from a checkpoint: every batch is one update."""

    name: str
    batches: Sequence[Sequence[TrainingGroup]]
    learner: dict[str, Any] = field(default_factory=dict)
    algorithm: dict[str, Any] = field(default_factory=dict)
    resume: Path | None = None


def run_ranks(
    scenarios: Sequence[Scenario], checkpoint: Path, folder: Path, port: int, ranks: int = 2
) -> dict[str, tuple[dict[str, torch.Tensor], list[dict[str, float]]]]:
    """Run the scenarios one after another; final weights and metrics rows of each.

    ``folder`` holds NAME-checkpoint, the state after the last update in NAME-state.safetensors and
    the one that was loaded in NAME-loaded.safetensors (``full_state``).
    """
    torch.multiprocessing.spawn(
        _rank_process, (ranks, scenarios, checkpoint, folder, port), nprocs=ranks
    )
    return {
        s.name: (
            load_file(folder / f"{s.name}.safetensors"),
            json.loads((folder / f"{s.name}.json").read_text()),
        )
        for s in scenarios
    }


def _rank_process(
    index: int,
    ranks: int,
    scenarios: Sequence[Scenario],
    checkpoint: Path,
    folder: Path,
    port: int,
) -> None:
    os.environ["DS_ACCELERATOR"] = "cpu"
    tune_process()
    from benchmarks.published import published_weights
    from learner.collectives import exchange
    from learner.rank import LearnerRank

    for scenario in scenarios:
        settings = learner_settings(
            checkpoint, scenario.algorithm, ranks=ranks, timeout_s=60, **scenario.learner
        )
        rank = LearnerRank(settings, Place(index, ranks, "127.0.0.1", port))
        if scenario.resume is not None:
            rank.load(scenario.resume)
            loaded = full_state(rank)
            if index == 0:
                save_file(loaded, folder / f"{scenario.name}-loaded.safetensors")
        rows = [rank.update(split_over_ranks(batch, ranks)[index]) for batch in scenario.batches]
        receipt, buckets = published_weights(rank)
        # Every rank computes with what rank 0 publishes, to the last bit.
        for probe in exchange(receipt.probe_logprobs):
            assert np.array_equal(probe, receipt.probe_logprobs)
        rows[-1]["probe"] = float(receipt.probe_logprobs.mean())
        rank.save(folder / f"{scenario.name}-checkpoint")
        state = full_state(rank)
        if index == 0:
            save_file(state, folder / f"{scenario.name}-state.safetensors")
            weights = {name: tensor.clone() for name, tensor in unpack(buckets)}
            save_file(weights, folder / f"{scenario.name}.safetensors")
            (folder / f"{scenario.name}.json").write_text(json.dumps(rows))
        rank.close()

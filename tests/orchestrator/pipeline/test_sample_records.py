"""What is recorded of samples is what the learner trains on, of steps that are fixed beforehand."""

from __future__ import annotations

import base64
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from learner.algorithm.partition import entropy_partition
from learner.config import AlgorithmConfig
from orchestrator.pipeline.sample_records import TokenMaps, TrainingSamples, partition
from orchestrator.record.run_folder import RunFolder
from policy.types import Prompt
from tests.written_runs import Fetched, encoder, keep_groups, token_maps, trajectory

PROMPT = Prompt("p", "a photo of a red circle", "object")


def sets_of(entropies: np.ndarray) -> str:
    """The letters of the learner's partition, with its default quantiles."""
    entropy = torch.from_numpy(entropies)[None]
    low, high = entropy_partition(entropy, torch.ones_like(entropy, dtype=torch.bool))
    return "".join("l" if a else "h" if b else "-" for a, b in zip(low[0], high[0], strict=True))


def test_the_sets_are_those_of_the_learner() -> None:
    """CoT and image apart, each by its own percentiles; h is H over the log of its vocabulary."""
    sample = trajectory(PROMPT, 0, np.random.default_rng(0))
    tokens = token_maps().of_sample(sample)
    assert tokens["cot"]["sets"] == sets_of(sample.cot_entropies)
    assert tokens["image"]["sets"] == sets_of(sample.image_entropies_conditional)
    log_codes = math.log(512)
    mean = float(sample.image_entropies_conditional.mean()) / log_codes
    assert tokens["image"]["mean"] == pytest.approx(mean, rel=1e-6)
    levels = np.frombuffer(base64.b64decode(tokens["image"]["entropy"]), dtype=np.uint8)
    wanted = np.clip(sample.image_entropies_conditional / log_codes, 0, 1)
    np.testing.assert_allclose(levels / 255, wanted, atol=0.5 / 255 + 1e-6)
    assert "".join(tokens["cot"]["pieces"]) == sample.cot_text


@pytest.mark.parametrize("count", [0, 1, 2, 3, 11, 576])
def test_the_driver_splits_tokens_as_the_learner_does(count: int) -> None:
    """To the bit, also between neighbouring numbers and where many entropies are equal."""
    rng = np.random.default_rng(count)
    smooth = rng.gamma(2.0, size=count).astype(np.float32)
    close = np.nextafter(np.float32(0.7), rng.integers(0, 2, size=count).astype(np.float32))
    for entropies in (smooth, close, np.round(smooth, 1)):
        for low, high in ((0.2, 0.5), (0.0, 1.0), (0.37, 0.37)):
            entropy = torch.from_numpy(entropies)[None]
            ones = torch.ones_like(entropy, dtype=torch.bool)
            if count:
                theirs = [sets[0].numpy() for sets in entropy_partition(entropy, ones, low, high)]
            else:
                theirs = [np.zeros(0, dtype=bool)] * 2
            np.testing.assert_array_equal(partition(entropies, low, high), theirs)


def test_the_trained_distribution_and_the_modalities_decide() -> None:
    """Guided entropies are half as high here; a modality that is off has no sets."""
    sample = trajectory(PROMPT, 0, np.random.default_rng(0))
    guided = TokenMaps(
        encoder, 64, 64, AlgorithmConfig(trained_distribution="guided", modalities="image")
    ).of_sample(sample)
    plain = TokenMaps(encoder, 64, 64, AlgorithmConfig()).of_sample(sample)
    assert guided["image"]["mean"] == pytest.approx(plain["image"]["mean"] / 2)
    assert set(guided["cot"]["sets"]) == {"-"}
    assert set(guided["image"]["sets"]) == {"-", "l", "h"}


def test_the_first_two_groups_of_evenly_spaced_steps_are_recorded(tmp_path: Path) -> None:
    """Of 50 steps every third one and the last: 18. Whole groups, with rewards and advantages."""
    folder = RunFolder(tmp_path / "run")
    samples = TrainingSamples(50, folder, Fetched(), token_maps())  # type: ignore[arg-type]
    for step in range(1, 51):
        keep_groups(folder, step, samples, side=4)
    rows = folder.rows("samples/training.jsonl")
    steps = list(dict.fromkeys(row["step"] for row in rows))
    assert steps == [*range(1, 50, 3), 50]
    assert len(rows) == len(steps) * 2 * 8
    first = rows[:8]
    assert [row["index"] for row in first] == list(range(8))
    assert {row["group"] for row in rows} == {0, 1}
    assert sum(row["advantage"] for row in first[:7]) == pytest.approx(0, abs=1e-9)
    assert (first[7]["total"], first[7]["advantage"]) == (None, None)
    assert all((folder.path / "samples" / row["image"]).is_file() for row in rows)
    folder.fall_back(10)
    assert max(row["step"] for row in folder.rows("samples/training.jsonl")) == 10
    folder.close()

"""Two training runs of one configuration that share a Redis; one of the rewards fails at times."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis

from policy.types import JsonDict
from tests.command_line import train_on_test_cluster
from tests.redis_server import redis_server
from tests.training_records import rows, untimed, weights_digest

SMALL = (
    "steps=2 prompts_per_step=4 rollout.workers=1 rollout.group_size=4 rollout.batch_size=8"
    " learner.micro_batch_size=8 evaluation.prompts=4 evaluation.samples_per_prompt=2"
).split()
WEIGHTS = {"attributes": 0.5, "light": 0.01}
NAN = "light: score is nan"

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


@dataclass(frozen=True)
class Finished:
    """A run's folder, how many scores its workers found in Redis and how many they did not, and
    how many Redis held when the run had ended.

    The last evaluation may draw some images exactly as the first did.
    """

    folder: Path
    hits: int
    misses: int
    keys: int


def train(root: Path, name: str, url: str, *overrides: str) -> Finished:
    settings: dict[str, Any] = {"cpus_per_worker": 0.1, "normalise": True}
    rewards = [
        {"name": "attributes", "factory": "shapes.rewards:Attributes"},
        # A fifth of all images have no number for it, and always the same ones.
        {"name": "light", "factory": "tests.faulty_rewards:Faulty",
         "options": {"folder": str(root), "transient": 0.0, "nan": 0.2}},
    ]  # fmt: skip
    rewards = [reward | settings | {"weight": WEIGHTS[reward["name"]]} for reward in rewards]
    client = redis.Redis.from_url(url)
    client.config_resetstat()
    folder = train_on_test_cluster(
        root, name, *SMALL, f"cache.redis_url={url}", f"rewards={json.dumps(rewards)}", *overrides
    )
    stats: JsonDict = client.info("stats")
    return Finished(folder, stats["keyspace_hits"], stats["keyspace_misses"], client.dbsize())


@pytest.fixture(scope="module")
def runs(
    ray_cluster: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Finished, Finished]]:
    """The first finds Redis empty. The second finds what the first left there, and remembers the
    scores of training images too."""
    root = tmp_path_factory.mktemp("runs")
    with redis_server(root) as url:
        yield train(root, "cold", url), train(root, "warm", url, "cache.training=true")


def test_only_evaluations_are_remembered_unless_training_is_set(
    runs: tuple[Finished, Finished],
) -> None:
    """The first run asks Redis about evaluations alone and leaves only their scores there. The
    second finds every one of these, and adds a score for each training image that has one.

    A failure is never kept, and is scored again.
    """
    cold, warm = runs
    evaluations = rows(cold.folder, "evaluations.jsonl")
    samples = sum(row["num_samples"] for row in evaluations)
    failed = sum(row["num_failed"] for row in evaluations)
    assert cold.hits + cold.misses == 2 * samples
    assert cold.misses == cold.keys + failed

    trained = failed_in_training = 0
    for first, second in zip(rows(cold.folder), rows(warm.folder), strict=True):
        trained += 4 * (first["groups/trained"] + first["groups/failed"])
        failed_in_training += first["rewards/failed"]
        for name in ("attributes", "light"):
            assert first[f"scoring/{name}/cache_hit_rate"] is None
            assert second[f"scoring/{name}/cache_hit_rate"] == 0
    assert warm.keys == cold.keys + 2 * trained - failed_in_training
    assert warm.hits == 2 * samples - failed
    assert warm.misses == failed + 2 * trained
    assert failed > 0
    assert failed_in_training > 0


def test_the_cache_changes_no_weight_and_no_figure(runs: tuple[Finished, Finished]) -> None:
    """Weights, metrics and evaluations of both runs are equal to the last bit."""
    cold, warm = runs
    assert weights_digest(warm.folder, 2) == weights_digest(cold.folder, 2)
    assert learned(warm.folder) == learned(cold.folder)
    for name in ("evaluations.jsonl", "samples/records.jsonl"):
        assert rows(warm.folder, name) == rows(cold.folder, name)


def learned(run: Path) -> list[JsonDict]:
    """All metrics but the cache's share."""
    return [
        {key: value for key, value in row.items() if not key.endswith("/cache_hit_rate")}
        for row in untimed(run)
    ]


def test_failed_samples_of_an_evaluation_are_counted_and_left_out_of_its_means(
    runs: tuple[Finished, Finished],
) -> None:
    """Every evaluation's row, from the records of its samples; 0 for a failure would be lower.

    A sample's total is the weighted sum of plain values, though training normalises both rewards.
    """
    run, failures = runs[0].folder, 0
    for row in rows(run, "evaluations.jsonl"):
        samples = [
            record
            for record in rows(run, "samples/records.jsonl")
            if (record["step"], record["set"]) == (row["step"], row["set"])
        ]
        failed = [sample for sample in samples if sample["failures"]]
        scored = [sample for sample in samples if not sample["failures"]]
        assert (row["num_samples"], row["num_failed"]) == (8, len(failed))
        assert row["failure_reasons"] == ({NAN: len(failed)} if failed else {})
        for sample in failed:
            assert (sample["total"], sample["rewards"]["light"]) == (None, None)
        for sample in scored:
            rewards = sample["rewards"]
            assert sample["total"] == pytest.approx(
                0.5 * rewards["attributes"] + 0.01 * rewards["light"]
            )
        light = [sample["rewards"]["light"] for sample in scored]
        assert row["reward/light"] == pytest.approx(sum(light) / len(light))
        by_prompt: dict[str, list[float]] = {}
        for sample in scored:
            by_prompt.setdefault(sample["prompt_id"], []).append(sample["total"])
        means = [sum(totals) / len(totals) for totals in by_prompt.values()]
        assert row["reward/mean"] == pytest.approx(sum(means) / len(means))
        if failed:
            with_zeros = sum(sample["total"] or 0.0 for sample in samples) / 8
            assert with_zeros < 0.99 * row["reward/mean"]
        failures += len(failed)
    assert failures > 0

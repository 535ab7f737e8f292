"""What an evaluation and a step make of scores: real reward pools, and images of known rewards."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from orchestrator.pipeline.clock import Clock
from orchestrator.pipeline.fixed_evaluation import FixedEvaluation
from orchestrator.pipeline.step_batch import BatchSampler
from orchestrator.pipeline.step_row import reward_metrics
from orchestrator.record.run_folder import RunFolder
from orchestrator.settings.run_config import RunConfig, load_config
from orchestrator.workers.rollout_pool import GroupRef, fetch_groups
from orchestrator.workers.waiting import WorkerLate
from policy.types import Group, RewardResult, Score
from rollout.engine import GenerationRequest
from tests.image_groups import image_group
from tests.remote_parts import late_group
from tests.started_pools import Started, groups_of, prompt, reward
from tests.training_records import rows

ROOT = Path(__file__).parents[3]
BROKEN = 99  # images of this brightness have no number for a reward

pytestmark = pytest.mark.cluster


class Drawn:
    """Plays the rollout workers: groups of images whose brightness is given, in turn."""

    def __init__(self, *batches: Sequence[Sequence[int]]) -> None:
        self._batches = iter(batches)

    def generate(
        self, requests: Sequence[GenerationRequest], sampling: Any = None
    ) -> list[GroupRef]:
        _, refs = groups_of(next(self._batches))
        return [
            GroupRef(request.prompt, group.ref, group.size)
            for request, group in zip(requests, refs, strict=True)
        ]

    def fetch(self, groups: Sequence[GroupRef]) -> list[Group]:
        return fetch_groups(groups, timeout_s=60)

    def asleep(self) -> AbstractContextManager[None]:
        raise AssertionError("nobody learns here")


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.chdir(ROOT)
    small = "rollout.group_size=4 prompts_per_step=3 learner.micro_batch_size=4"
    return load_config(
        ROOT / "configs" / "shapes.yaml", [*small.split(), "evaluation.samples_per_prompt=2"]
    )


def test_a_failed_sample_is_counted_in_an_evaluation_and_is_no_0_in_its_mean(
    start: Started, config: RunConfig, tmp_path: Path
) -> None:
    """10 and 30; failed and 50; twice failed: the mean is 35 of two prompts, and not 15 of three.

    A set of which every sample failed has no mean at all.
    """
    folder = RunFolder(tmp_path / "run")
    evaluation = FixedEvaluation(
        config,
        {"seen": [prompt(0), prompt(1), prompt(2)], "held_out": [prompt(3)]},
        Drawn([[10, 30], [BROKEN, 50], [BROKEN, BROKEN]], [[BROKEN, BROKEN]]),
        start(reward("NotANumber", options={"values": [BROKEN]})),
        folder,
    )
    assert evaluation.run(step=0) == {"seen": 35.0}
    seen, held_out = rows(folder.path, "evaluations.jsonl")
    assert (seen["reward/mean"], seen["reward/light"]) == (35.0, 30.0)
    assert seen["prompt_means"] == [20.0, 50.0, None]
    assert (seen["num_prompts"], seen["num_samples"], seen["num_failed"]) == (3, 6, 3)
    assert seen["failure_reasons"] == {"light: score is nan": 3}
    assert (held_out["reward/mean"], held_out["num_failed"]) == (None, 2)
    records = folder.rows("samples/records.jsonl")
    assert [record["total"] for record in records] == [10, 30, None, 50, None, None, None, None]
    assert records[2]["rewards"] == {"light": None}
    assert records[2]["failures"] == {"light": "score is nan"}
    folder.close()


def test_a_group_that_does_not_arrive_is_named(ray_cluster: None, tmp_path: Path) -> None:
    """The wait for a group that was scored, and whose pictures are then lost, has a deadline."""
    group, gate = image_group(prompt(7), [10, 30]), tmp_path / "gate"
    gate.mkdir()
    ref = GroupRef(group.prompt, late_group.remote(str(gate), 1, group), 2)
    with pytest.raises(WorkerLate, match=r"^the group of prompt p:7 did not answer within 0\.5 s$"):
        fetch_groups([ref], timeout_s=0.5)
    (gate / "open").touch()


def z_scores(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over everything that is a number; unbiased."""
    return (values - np.nanmean(values)) / np.nanstd(values, ddof=1)


def values_of(results: Sequence[RewardResult]) -> list[float]:
    return [result.value if isinstance(result, Score) else np.nan for result in results]


def test_a_step_trains_on_the_weighted_sum_of_z_scores_over_its_batch(
    start: Started, config: RunConfig, tmp_path: Path
) -> None:
    """Totals are 2 z(light) + 0.5 z(square) + 0.1 remainder, by NumPy from the recorded scores.

    z is over the batch and not the group; a failed score takes no part in it, and neither does a
    group that was dropped. The metrics remain sums of plain values.
    """
    rewards = (
        reward("NotANumber", weight=2.0, normalise=True, options={"values": [BROKEN]}),
        reward("Square", "square", weight=0.5, normalise=True),
        reward("Remainder", "remainder", weight=0.1),
    )
    drawn = Drawn(
        [[10, 20, 33, BROKEN], [BROKEN, BROKEN, BROKEN, 200], [1, 2, 4, 8]],
        [[120, 130, 180, 125]],  # the second again
    )
    folder = RunFolder(tmp_path / "run")
    batches = BatchSampler(
        config.model_copy(update={"rewards": rewards}),
        [prompt(0), prompt(1), prompt(2)],
        drawn,
        start(*rewards),
        folder,
    )
    batch = batches.sample(0, Clock())
    folder.close()
    assert [row["survivors"] for row in folder.rows("dropped.jsonl")] == [1]

    light, square, remainder = (
        np.array([values_of(group.results[name]) for group in batch.scored])
        for name in ("light", "square", "remainder")
    )
    assert light.tolist()[1:] == [[120, 130, 180, 125], [1, 2, 4, 8]]
    assert (square[0, 3], remainder[1, 2]) == (BROKEN**2, 180 % 7)
    totals = 2 * z_scores(light) + 0.5 * z_scores(square) + 0.1 * remainder
    for total, advantages in zip(totals, batch.advantages, strict=True):
        survivors = total[~np.isnan(total)]
        expected = (survivors - survivors.mean()) / (survivors.std(ddof=1) + 1e-4)
        kept = [advantage for advantage in advantages if advantage is not None]
        assert kept == pytest.approx(expected.tolist(), rel=1e-9)
    assert [advantages.count(None) for advantages in batch.advantages] == [1, 0, 0]
    plain = 2 * light + 0.5 * square + 0.1 * remainder
    row = reward_metrics(batch.scored, batch.advantages, batch.dropped)
    assert row["reward/mean"] == pytest.approx(np.nanmean(plain))

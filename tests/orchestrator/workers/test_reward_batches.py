"""What an evaluation and a step make of scores: real reward pools, and images of known rewards."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.stand_ins import FixedNumber
from orchestrator.pipeline.clock import Clock
from orchestrator.pipeline.drops import Drops
from orchestrator.pipeline.fixed_evaluation import FixedEvaluation
from orchestrator.pipeline.ledger_folder import open_ledger
from orchestrator.pipeline.sample_records import TokenMaps
from orchestrator.pipeline.schedule import Layout, Schedule
from orchestrator.pipeline.stages import Stages
from orchestrator.pipeline.step_row import reward_metrics
from orchestrator.record.run_folder import RunFolder
from orchestrator.settings.model_size import ModelSize
from orchestrator.settings.run_config import RunConfig, load_config
from orchestrator.workers.failures import WorkerLate
from orchestrator.workers.learner_group import PublishedWeights
from orchestrator.workers.placement import no_room
from orchestrator.workers.reward_pools import RewardPools
from orchestrator.workers.rollout_events import (
    BatchSampled,
    GroupRef,
    RolloutEvent,
    WeightsLoaded,
    WorkerUp,
)
from orchestrator.workers.rollout_pool import fetch_groups
from orchestrator.workers.waiting import wait_answers
from policy.checkpoint.loading import read_config
from policy.receipt import WeightReceipt
from policy.types import Group, Prompt, RewardResult, Score
from rollout.engine import GenerationRequest
from tests.image_groups import image_group
from tests.remote_parts import late_group
from tests.started_pools import Started, groups_of, prompt, reward
from tests.training_records import rows

ROOT = Path(__file__).parents[3]
BROKEN = 99  # images of this brightness have no number for a reward

pytestmark = pytest.mark.cluster


RECEIPT = WeightReceipt(0, "0", np.zeros(1, dtype=np.float32))


class Drawn(FixedNumber):
    """Plays a rollout worker, which samples at once: groups of images whose brightness is given,
    call by call."""

    def __init__(self, *batches: Sequence[Sequence[int]]) -> None:
        self._batches = iter(batches)
        self._events: list[RolloutEvent] = [WorkerUp("drawn")]
        self.states: dict[str, str] = {}
        self.calls: list[Any] = []
        self.wake_at = math.inf

    def bring(self, weights: PublishedWeights) -> None:
        """There is one host."""

    def load(self, worker: str, weights: PublishedWeights) -> None:
        self._events.append(WeightsLoaded(worker, RECEIPT))

    def sample(
        self, worker: str, requests: Sequence[GenerationRequest], sampling: Any = None
    ) -> None:
        _, refs = groups_of(next(self._batches))
        groups = [
            GroupRef(request.prompt, group.ref, group.size)
            for request, group in zip(requests, refs, strict=True)
        ]
        self._events.append(BatchSampled(worker, groups))

    def take_events(self) -> list[RolloutEvent]:
        events, self._events = self._events, []
        return events

    def advance(self) -> None:
        """Nothing is ever late."""

    def receive(self, call: Any) -> None:
        raise AssertionError("there are no calls")

    def end(self, worker: str) -> None:
        raise AssertionError("no worker leaves")

    def discard(self, worker: str, reason: str) -> None:
        raise AssertionError("no worker is lost")

    def fetch(self, groups: Sequence[GroupRef]) -> list[Group]:
        return fetch_groups(groups, timeout_s=60)

    starting = sleeping = False

    def asleep(self) -> AbstractContextManager[None]:
        raise AssertionError("nobody learns here")

    def wake(self) -> None:
        raise AssertionError("nobody sleeps")


class OneVersion:
    """Plays the publisher of weights that nobody trains."""

    def publish(self, learner: Any, weight_version: int) -> PublishedWeights:
        return PublishedWeights(0, refs=None)

    def complete(self, learner: Any, weights: PublishedWeights) -> None:
        """Nothing is on its way."""

    def check(self, worker: str, receipt: WeightReceipt) -> float:
        return 0.0


@contextmanager
def stages_of(
    config: RunConfig,
    prompts: Sequence[Prompt],
    drawn: Drawn,
    pools: RewardPools,
    folder: RunFolder,
) -> Iterator[Stages]:
    """The stages of a run with one rollout worker that takes all groups of a step in one call, with
    a ledger of its own and the first weights served."""
    schedule = Schedule(Layout(1, 8), config.prompts_per_step, 0, 1)
    with open_ledger(config.ledger, folder.path, print) as ledger:
        drops, publisher = Drops(folder, config.replacements), OneVersion()
        stages = Stages(
            *(config, prompts, schedule, drawn, pools, publisher, ledger, drops),
            *(wait_answers, no_room),
        )
        stages.serve(publisher.publish(None, 0), evaluate=True)
        yield stages


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    monkeypatch.chdir(ROOT)
    small = "rollout.group_size=4 prompts_per_step=3 learner.micro_batch_size=4"
    return load_config(
        ROOT / "configs" / "shapes.yaml", [*small.split(), "evaluation.samples_per_prompt=2"]
    )


def test_no_worker_joins_while_rollout_sleeps_and_rollout_sleeps_when_none_starts(
    start: Started, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wishes for more workers wait until the learner has left the GPU. Before it gets the GPU, the
    stages turn until the worker that starts is up."""
    drawn = Drawn([], [])
    pools = start(reward("NotANumber", options={"values": [BROKEN]}))
    with stages_of(config, (), drawn, pools, RunFolder(tmp_path / "run")) as stages:
        turns: list[object] = []
        monkeypatch.setattr(stages, "scaling", SimpleNamespace(turn=turns.append))
        for sleeping, expected in ((True, 0), (False, 1)):
            monkeypatch.setattr(drawn, "sleeping", sleeping)
            stages._turn(0.0)
            assert len(turns) == expected
        left = [False, True, True]
        monkeypatch.setattr(Drawn, "starting", property(lambda self: left.pop()))
        stages.wait_for_starts()
        assert len(turns) == 3


def test_a_failed_sample_is_counted_in_an_evaluation_and_is_no_0_in_its_mean(
    start: Started, config: RunConfig, tmp_path: Path
) -> None:
    """10 and 30; failed and 50; twice failed: the mean is 35 of two prompts, and not 15 of three.

    A set of which every sample failed has no mean at all.
    """
    folder = RunFolder(tmp_path / "run")
    drawn = Drawn([[10, 30], [BROKEN, 50], [BROKEN, BROKEN]], [[BROKEN, BROKEN]])
    pools = start(reward("NotANumber", options={"values": [BROKEN]}))
    sets = {"seen": [prompt(0), prompt(1), prompt(2)], "held_out": [prompt(3)]}
    model = ROOT / "shapes" / "checkpoint"
    tokens = TokenMaps.of(config, model, ModelSize.of(read_config(model)))
    with stages_of(config, (), drawn, pools, folder) as stages:
        evaluation = FixedEvaluation(config, sets, drawn, stages, folder, tokens)
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
    config = config.model_copy(update={"rewards": rewards})
    prompts = [prompt(0), prompt(1), prompt(2)]
    with stages_of(config, prompts, drawn, start(*rewards), folder) as stages:
        batch = stages.batch(0, Clock())
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

"""Drawing and scoring of an evaluation with pools that lose what they are told to lose."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pytest

from orchestrator.pipeline.evaluation_drawing import draw
from orchestrator.pipeline.evaluation_scoring import score
from orchestrator.workers.rollout_events import (
    BatchSampled,
    GroupRef,
    RolloutEvent,
    WeightsLoaded,
    WorkerLost,
    WorkerUp,
)
from policy.errors import RunFailed
from policy.receipt import WeightReceipt
from policy.sampling import Sampling
from policy.types import Group, Prompt, Score
from rewards.scored_group import ScoredGroup
from rollout.config import RolloutConfig
from rollout.engine import GenerationRequest
from tests.image_groups import image_group

SAMPLING = Sampling(1.0, 1.0, 0)
PROMPTS = [Prompt(f"p:{place}", f"picture {place}", "color") for place in range(6)]
REQUESTS = [GenerationRequest(prompt, (place,)) for place, prompt in enumerate(PROMPTS)]


class Drawers:
    """Two workers whose answers come at once. ``deaths`` are prompts that kill their worker so
    often, and ``gone`` are prompts whose group is lost so often after it was drawn."""

    def __init__(self, deaths: dict[str, int], gone: dict[str, int]) -> None:
        self.deaths, self.gone = deaths, gone
        self.events: list[RolloutEvent] = [WorkerUp("a 1"), WorkerUp("b 1")]
        self.drawn: list[list[str]] = []
        self.wake_at, self.calls = math.inf, ()

    def load(self, worker: str, weights: Any) -> None:
        receipt = WeightReceipt(0, "", np.zeros(0, dtype=np.float32))
        self.events.append(WeightsLoaded(worker, receipt))

    def sample(
        self, worker: str, requests: Sequence[GenerationRequest], sampling: Sampling
    ) -> None:
        assert sampling == SAMPLING
        ids = [request.prompt.id for request in requests]
        self.drawn.append(ids)
        for name in ids:
            if self.deaths.get(name, 0):
                self.deaths[name] -= 1
                self.events.append(WorkerLost(worker, "it died"))
                process = int(worker.split()[1]) + 1
                self.events.append(WorkerUp(f"{worker[0]} {process}"))
                return
        groups = [image_group(request.prompt, request.seeds) for request in requests]
        refs: list[Any] = [GroupRef(group.prompt, group, 1) for group in groups]  # type: ignore[arg-type]
        self.events.append(BatchSampled(worker, refs))

    def take_events(self) -> list[RolloutEvent]:
        events, self.events = self.events, []
        return events

    def fetch(self, refs: Sequence[Any]) -> list[Group] | None:
        name = refs[0].prompt.id
        if self.gone.get(name, 0):
            self.gone[name] -= 1
            return None
        return [ref.ref for ref in refs]

    def advance(self) -> None: ...


def drawn(deaths: dict[str, int], gone: dict[str, int]) -> tuple[dict[int, Group], Drawers]:
    """What is kept of six prompts in batches of two, and the pool."""
    pool, kept = Drawers(deaths, gone), {}

    def keep(place: int, group: Group) -> None:
        assert place not in kept
        kept[place] = group

    config = RolloutConfig(guidance_scale=1.0, max_cot_tokens=1, workers=2, batch_size=2)
    draw(REQUESTS, SAMPLING, config, pool, None, lambda calls, timeout_s: [], keep)  # type: ignore[arg-type]
    return kept, pool


def test_every_prompt_is_kept_once() -> None:
    """Two shares of three prompts, in batches of at most two; each batch is drawn once."""
    kept, pool = drawn({}, {})
    assert {place: group.prompt.id for place, group in kept.items()} == {
        place: f"p:{place}" for place in range(6)
    }
    assert sorted(map(len, pool.drawn)) == [1, 1, 2, 2]


def test_the_batch_of_a_lost_worker_is_drawn_again() -> None:
    """One death costs one repeated batch."""
    kept, pool = drawn({"p:2": 1}, {})
    assert sorted(kept) == list(range(6))
    assert len(pool.drawn) == 5


def test_a_group_that_is_gone_is_drawn_again_and_the_others_are_kept_once() -> None:
    """Its batch is repeated whole; ``keep`` is not called a second time for its neighbour."""
    kept, pool = drawn({}, {"p:2": 1})
    assert sorted(kept) == list(range(6))
    assert len(pool.drawn) == 5


def test_a_prompt_that_kills_each_worker_ends_the_evaluation() -> None:
    """Three tries of its batch, then three of it alone; the error names it."""
    with pytest.raises(RunFailed, match="prompt p:2 loses each rollout worker that samples it"):
        drawn({"p:2": 100}, {})


class Scorers:
    """One reward whose groups are scored at once; those of ``gone`` are lost once before."""

    def __init__(self, gone: set[str]) -> None:
        self.gone, self.open = gone, 0
        self.sizes: dict[Hashable, int] = {}
        self.most_open = 0
        self.wake_at, self.calls = math.inf, ()
        self.lost: list[tuple[Hashable, int]] = []
        self.done: list[tuple[Hashable, int, ScoredGroup]] = []

    def begin(self, key: Hashable, prompts: Sequence[Prompt], size: int) -> None:
        self.sizes[key] = size
        self.open += 1
        self.most_open = max(self.most_open, self.open)

    def add(self, key: Hashable, place: int, group: Any) -> None:
        if group.prompt.id in self.gone:
            self.gone.remove(group.prompt.id)
            self.lost.append((key, place))
            return
        assert len(group.trajectories) == self.sizes[key]
        values = [float(trajectory.image.mean()) for trajectory in group.trajectories]
        results = {"r": tuple(map(Score, values))}
        self.done.append((key, place, ScoredGroup(group.prompt, tuple(values), results)))

    def forget(self, key: Hashable, places: Sequence[int]) -> None: ...

    def end(self, key: Hashable) -> None:
        self.open -= 1

    def advance(self) -> None: ...

    def take_lost(self) -> list[tuple[Hashable, int]]:
        lost, self.lost = self.lost, []
        return lost

    def take_failures(self) -> list[str]:
        return []

    def take_scored(self) -> list[tuple[Hashable, int, ScoredGroup]]:
        done, self.done = self.done, []
        return done


def scored(images: dict[int, list[int]], pool: Scorers) -> tuple[dict[int, list[float]], list[int]]:
    """What is kept of the images of each place, in rounds of two, and the places in the order in
    which they were read."""
    kept: dict[int, list[float]] = {}
    read: list[int] = []

    def group(place: int) -> Group:
        read.append(place)
        return image_group(PROMPTS[place], images[place])

    def keep(place: int, results: Sequence[Any]) -> None:
        assert place not in kept
        kept[place] = [result.value for result in results]

    score(
        {place: len(of_place) for place, of_place in images.items()}, group, "r", 2, pool,
        lambda made: made, lambda calls, timeout_s: [], keep,  # type: ignore[arg-type]
    )  # fmt: skip
    return kept, read


def test_images_are_scored_in_rounds_and_each_once() -> None:
    """Five places in rounds of two, at most two rounds at a time; a lost group is read again."""
    pool = Scorers(gone={"p:4"})
    kept, read = scored({place: [place] for place in (0, 1, 2, 4, 5)}, pool)
    assert kept == {0: [0.0], 1: [1.0], 2: [2.0], 4: [4.0], 5: [5.0]}
    assert read.count(4) == 2
    assert pool.most_open == 2
    assert pool.open == 0


def test_places_with_other_numbers_of_images_have_rounds_of_their_own() -> None:
    """After failures a place may have few images left. A pool takes groups of one size at once:
    places 0 and 3 have two images, 1 and 4 have one, and 2 has three."""
    pool = Scorers(gone=set())
    images = {0: [1, 2], 1: [3], 2: [4, 5, 6], 3: [7, 8], 4: [9]}
    kept, read = scored(images, pool)
    assert kept == {place: list(map(float, values)) for place, values in images.items()}
    assert read == [2, 0, 3, 1, 4]
    assert list(pool.sizes.values()) == [3, 2, 1]

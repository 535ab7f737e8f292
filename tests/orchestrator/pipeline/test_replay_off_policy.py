"""Which steps of a replay are trained on trajectories that other weights have sampled."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from learner.shares import TrainingGroup
from orchestrator.pipeline.opening_replay import _OF_THE_LEARNER, _off_policy_from
from orchestrator.pipeline.replay import Replay
from orchestrator.settings.run_config import load_config
from orchestrator.settings.unchanged import changed_settings

SHAPES = Path(__file__).parents[3] / "configs" / "shapes.yaml"
RUN = Path("runs/kept")


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(SHAPES.parent.parent)


@pytest.mark.parametrize(
    ("overrides", "checkpoint", "first"),
    [
        ([], None, None),
        # More steps at a constant rate, another number of ranks, what only other roles read.
        (["steps=160", "learner.ranks=2", "evaluation.prompts=8", "max_staleness=1"], None, None),
        (["learner.learning_rate=1e-5"], None, 62),  # the first step is still the run's
        (["learner.learning_rate=1e-5"], RUN / "checkpoints" / "step-60", 62),
        (["algorithm.kl_beta=0"], Path("runs/kept-replay/checkpoints/step-60"), 61),
        (["model.path=shapes/mixed_checkpoint"], None, 61),
        (["steps=160", "learner.schedule=linear"], None, 62),
    ],
)
def test_the_first_step_of_other_weights(
    overrides: list[str], checkpoint: Path | None, first: int | None
) -> None:
    """Steps 61 to 80 are replayed."""
    found = changed_settings(load_config(SHAPES, overrides), load_config(SHAPES, []))
    changed = [key for key in found if key.startswith(_OF_THE_LEARNER)]
    assert _off_policy_from(changed, RUN, range(61, 81), checkpoint) == first


def test_the_groups_of_these_steps_say_so() -> None:
    replay = cast(Any, object.__new__(Replay))
    replay.off_policy_from = 62
    groups = [TrainingGroup("group", (1.0, -1.0))]
    assert replay.marked(61, groups) == groups
    assert replay.marked(62, groups) == [TrainingGroup("group", (1.0, -1.0), off_policy=True)]
    replay.off_policy_from = None
    assert replay.marked(62, groups) == groups

"""Which steps of a replay are trained on trajectories that another policy has sampled."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from learner.shares import TrainingGroup
from orchestrator.pipeline.off_policy import OffPolicy
from orchestrator.pipeline.replay import Replay
from orchestrator.settings.run_config import load_config
from orchestrator.settings.unchanged import save_settings

SHAPES = Path(__file__).parents[3] / "configs" / "shapes.yaml"
LORA = "learner.lora={rank: 4}"


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(SHAPES.parent.parent)


@pytest.mark.parametrize(
    ("run", "replay", "checkpoint", "first"),
    [
        ([], [], None, None),
        # More steps at a constant rate, another number of ranks, what only other roles read.
        ([], ["steps=160", "learner.ranks=2", "evaluation.prompts=8"], None, None),
        ([], ["learner.micro_batch_size=8", "max_staleness=1", "seed=7"], None, None),
        ([], ["rollout.guidance_scale=2"], None, None),  # the conditional distribution is trained
        # The first step is still the run's.
        ([], ["learner.learning_rate=1e-5"], None, 62),
        ([], ["learner.learning_rate=1e-5"], "checkpoints/step-60", 62),
        (["learner.schedule=linear"], ["learner.schedule=linear", "steps=160"], None, 62),
        # It is not: other weights, or another distribution of the same weights.
        ([], ["algorithm.kl_beta=0"], "../kept-replay/checkpoints/step-60", 61),
        ([], ["model.path=shapes/mixed_checkpoint"], None, 61),
        ([], ["rollout.temperature=0.7"], None, 61),
        ([LORA], [LORA, "seed=7"], None, 61),
        (
            ["algorithm.trained_distribution=guided", "rollout.guidance_scale=3"],
            ["algorithm.trained_distribution=guided", "rollout.guidance_scale=2"],
            None,
            61,
        ),
    ],
)
def test_the_first_step_of_another_policy(
    tmp_path: Path, run: list[str], replay: list[str], checkpoint: str | None, first: int | None
) -> None:
    """Steps 61 to 80 are replayed."""
    folder = tmp_path / "kept"
    folder.mkdir()
    save_settings(load_config(SHAPES, run), folder)
    begin = None if checkpoint is None else (folder / checkpoint).resolve()
    found = OffPolicy.of(load_config(SHAPES, replay), folder, range(61, 81), begin)
    assert (found and found.first_step) == first
    if found is not None:
        assert replay[-1].partition("=")[0] in str(found)


def test_a_run_whose_settings_are_lost_is_another_policy(tmp_path: Path) -> None:
    """Its trajectories can be trained on all the same."""
    found = OffPolicy.of(load_config(SHAPES, []), tmp_path, range(61, 81), None)
    assert found is not None
    assert found.first_step == 61
    assert str(found).startswith("the run's settings are not known (")


def test_the_groups_of_these_steps_say_so() -> None:
    replay = cast(Any, object.__new__(Replay))
    replay.off_policy_from = 62
    groups = [TrainingGroup("group", (1.0, -1.0))]
    assert replay.marked(61, groups) == groups
    assert replay.marked(62, groups) == [TrainingGroup("group", (1.0, -1.0), off_policy=True)]
    replay.off_policy_from = None
    assert replay.marked(62, groups) == groups

"""examples/my_reward.py is what docs/rewards.md says a reward is."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.small_models.tiny_rewards import PROMPTS
from policy.errors import UserError
from policy.types import RewardFailure, Score
from rewards.config import RewardConfig
from rewards.factory import build_reward, check_factory
from rewards.scoring import RewardScorer

SPATIAL, NUMERACY = PROMPTS[0], PROMPTS[1]


@pytest.fixture(autouse=True)
def _started_in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent.parent.parent)
    monkeypatch.delitem(sys.modules, "examples", raising=False)


def config(**options: int) -> RewardConfig:
    return RewardConfig(name="mine", factory="examples.my_reward:Palette", options=options)


def test_the_example_scores_by_its_formula() -> None:
    """Three colours of shares 1/2, 1/4, 1/4: two of them cover 3/4; a failure is no 0."""
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    image[2:, :2, 0] = 255
    image[2:, 2:, 1] = 255
    empty = np.zeros((0, 4, 3), dtype=np.uint8)
    scorer = RewardScorer(build_reward(config(colours=2)), batch_size=8)
    assert scorer.score([image, image, empty], [SPATIAL, NUMERACY, SPATIAL]) == [
        Score(0.75, {"colours": 3.0}),
        Score(0.0, applicable=False),
        RewardFailure("the image has no pixels"),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"colours": 0}, "reward 'mine': colours: 0 is below 1"),
        ({"colours": 2, "levels": 1}, "reward 'mine': levels: 1 is not one of 2, 4, 8, ... 256"),
        ({"colours": 2, "levels": 100}, "reward 'mine': levels: 100 is not one of 2, 4, 8"),
        ({}, "missing a required argument: 'colours'"),
    ],
)
def test_its_options_are_checked_before_it_is_built(options: dict[str, int], message: str) -> None:
    """What its ``check`` raises is the one line, with the reward's name."""
    with pytest.raises(UserError, match=message):
        check_factory(config(**options))

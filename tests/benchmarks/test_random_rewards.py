"""The random reward models of a dress rehearsal, tiny: written as published files, and scoring."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.random_rewards import write
from benchmarks.small_models.tiny_rewards import PROMPTS, images
from orchestrator.settings.run_config import load_config
from policy.types import Score
from rewards.factory import build_reward, check_factory

CONFIG = Path(__file__).parents[2] / "configs" / "dress-rehearsal-1b.yaml"


def test_the_rewards_of_the_dress_rehearsal_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its configuration names them, in the working folder: every image has a score, and HPS
    tells images apart."""
    monkeypatch.chdir(tmp_path)
    write(Path("rehearsal"), tiny=True)
    scores = {}
    for reward in load_config(CONFIG, []).rewards:
        check_factory(reward)
        results = build_reward(reward).score(images(2), [PROMPTS[2]] * 2)
        assert all(isinstance(result, Score) for result in results), results
        scores[reward.name] = [result.value for result in results]
    assert list(scores) == ["hps", "git", "grounding_dino"]
    assert scores["hps"][0] != scores["hps"][1]

"""The worked example of docs/own_reward.md: its code scores, its settings are a configuration."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.small_models.tiny_rewards import PROMPTS
from orchestrator.cli import main
from orchestrator.settings.run_config import load_config
from policy.types import Score
from rewards.config import RewardConfig
from rewards.factory import build_reward
from rewards.scoring import RewardScorer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "own_reward.md").read_text(encoding="utf-8")


PYTHON, SHAPES, JANUS = re.findall(
    r"^```(?:python|yaml)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL
)


def score(reward: RewardConfig, image: np.ndarray) -> object:
    (result,) = RewardScorer(build_reward(reward), batch_size=8).score([image], PROMPTS[:1])
    return result


def test_the_smallest_reward_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The class as the page shows it, saved as the page says: a white image scores 1."""
    (tmp_path / "my_rewards.py").write_text(PYTHON, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_rewards", raising=False)
    white = np.full((4, 4, 3), 255, dtype=np.uint8)
    config = RewardConfig(name="brightness", factory="my_rewards:Brightness")
    assert score(config, white) == Score(1.0)


def test_the_settings_load_and_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The YAML file as the page shows it: two rewards, of which the example scores an image whose
    half is of one colour, and the other half of eight."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.delitem(sys.modules, "examples", raising=False)
    file = tmp_path / "few-colours.yaml"
    file.write_text(SHAPES.replace("base: ", f"base: {ROOT}/"), encoding="utf-8")
    config = load_config(file, [])
    assert [reward.name for reward in config.rewards] == ["attributes", "palette"]
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    image[2:, :, 0] = 32 * np.arange(8).reshape(2, 4)
    assert score(config.rewards[1], image) == Score(14 / 16, {"colours": 8.0})


def test_the_rewards_of_janus_pro_and_one_more(tmp_path: Path) -> None:
    """The other YAML file has the four rewards of the configuration that it stands on, to the last
    setting. Its own one takes nothing of a GPU."""
    file = tmp_path / "janus-few-colours.yaml"
    file.write_text(JANUS.replace("base: ", f"base: {ROOT}/"), encoding="utf-8")
    *four, palette = load_config(file, []).rewards
    assert tuple(four) == load_config(ROOT / "configs" / "janus-pro-7b.yaml", []).rewards
    assert (palette.name, palette.gpus_per_worker) == ("palette", 0)
    shares = sum(reward.workers * reward.gpus_per_worker for reward in four)
    assert shares == pytest.approx(1)


def test_the_check_before_a_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The dry run of the page passes; with 0 colours it ends with the line that the page quotes."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.delitem(sys.modules, "examples", raising=False)
    (flags,) = re.findall(r"^eg-grpo (train .* --dry-run) '(.*)'$", PAGE, re.MULTILINE)
    assert main([*flags[0].split(), flags[1]]) == 0
    assert main([*flags[0].split(), flags[1].replace("colours: 6", "colours: 0")]) == 2
    assert capsys.readouterr().err.splitlines()[-1] in PAGE

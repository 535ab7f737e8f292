"""The settings reference: what a user is told about every key."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.settings.layers import flat
from orchestrator.settings.reference import _OF_THE_DRIVER, all_settings, as_markdown
from orchestrator.settings.run_config import load_config

ROOT = Path(__file__).parents[3]


def test_the_document_is_the_reference() -> None:
    """docs/settings.md is what ``eg-grpo config --reference`` prints."""
    assert (ROOT / "docs" / "settings.md").read_text(encoding="utf-8") == as_markdown()


def test_every_setting_has_a_description_and_every_key_of_a_run_is_there() -> None:
    """A key of a resolved configuration is a setting, or lies in a mapping that is one."""
    settings = all_settings()
    assert [setting.key for setting in settings if not setting.description] == []
    known = {setting.key for setting in settings}
    for key in flat(load_config(Path("shapes"), ["learner.lora.rank=4"]).model_dump()):
        parts = ["N" if part.isdecimal() else part for part in key.split(".")]
        assert any(".".join(parts[:end]) in known for end in range(1, len(parts) + 1)), key


def test_what_the_driver_reads_of_the_workers_groups() -> None:
    """The number of workers, their places and their deadlines: no worker knows them."""
    readers = {setting.key: setting.reader for setting in all_settings()}
    of_the_driver = {key for key, reader in readers.items() if reader == "the driver"}
    assert {key for key in of_the_driver if key.startswith("learner.")} == {
        "learner.ranks", "learner.min_ranks", "learner.max_skipped_updates", "learner.restarts",
        "learner.cpus_per_rank", "learner.gpus_per_rank", "learner.resources",
        "learner.placement", "learner.start_timeout_s",
    }  # fmt: skip
    assert {key for key in of_the_driver if key.startswith("algorithm.")} == {
        "algorithm.minimum_survivors"
    }
    assert of_the_driver > _OF_THE_DRIVER  # no key of the table is outdated
    assert readers["deterministic"] == "all workers"


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (
            "learner.learning_rate",
            "learner.learning_rate: peak learning rate of AdamW.\n  type     number\n"
            "  default  1e-06\n  range    above 0\n  used by  the learner ranks\n",
        ),
        (
            "rewards.0.min_workers",
            "rewards.N.min_workers: Fewest reward workers that scaling may leave.\n"
            "  type     integer\n  default  1\n  range    at least 1\n"
            "  used by  the driver\n",
        ),
        (
            "rewards.0.batch_size",
            "rewards.N.batch_size: Images passed to one score() call.\n"
            "  type     integer\n  default  64\n  range    at least 1\n"
            "  used by  the workers of this reward\n",
        ),
        (
            "learner.betas",
            "learner.betas: AdamW's averages.\n  type     number and number\n"
            "  default  [0.9, 0.999]\n  range    at least 0; below 1\n"
            "  used by  the learner ranks\n",
        ),
        (
            "trajectories",
            "trajectories.keep_steps: keep the trajectories of the last steps; 0 keeps none.\n"
            "trajectories.replay: stages learner: folder of the run whose kept trajectories are"
            " trained on.\n",
        ),
    ],
)
def test_one_setting_is_explained(key: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With its type, default, range and reader; a group of settings is a line for each."""
    assert main(["config", "--explain", key]) == 0
    assert capsys.readouterr().out == text


def test_an_unknown_key_is_refused_with_the_nearest_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line, exit code 2."""
    assert main(["config", "--explain", "learner.learning_rat"]) == 2
    expected = "learner.learning_rat is no setting; did you mean learner.learning_rate?"
    assert capsys.readouterr().err == f"eg-grpo: {expected}\n"

"""What the hosts of an evaluation are checked for: the roles that are left, and their images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from evaluation.suites.registry import suite_named
from orchestrator.pipeline.evaluation import Evaluation
from orchestrator.pipeline.evaluation_needs import needs_of_evaluation
from orchestrator.record.evaluation_folder import EvaluationFolder
from orchestrator.settings.suite_images import given_images
from orchestrator.settings.suite_inputs import check_suite
from policy.types import Score
from tests.command_line import ROOT

MODEL = ROOT / "shapes" / "checkpoint"
SMALL = ["prompts=1", "images_per_prompt=2", "rollout.workers=3", "rollout.batch_size=4"]
BATCHES = [f"rewards.{place}.batch_size=8" for place in range(3)]
RECORD = 64 * 1024  # bytes that are counted for all of an image but its pixels


def test_a_new_evaluation_needs_the_policy_and_every_scorer(tmp_path: Path) -> None:
    """Three workers have two batches of four images each, 24 in all. A scorer has two rounds of two
    batches of eight, 32. An image has 32 x 32 pixels."""
    inputs = check_suite(suite_named("shapes"), str(MODEL), [*SMALL, *BATCHES])
    folder = EvaluationFolder(tmp_path / "out", inputs.asked())
    evaluation = Evaluation(inputs, folder, None)
    needs = needs_of_evaluation(evaluation)
    names = ["rewards.attributes", "rewards.structure", "rewards.cleanliness"]
    assert [role.key for role in needs.roles] == ["rollout", *names]
    assert (needs.model, needs.root, needs.vllm) == (MODEL, None, False)
    assert needs.store_bytes == needs.reward_store_bytes == 32 * (3 * 32 * 32 + RECORD)

    for place in range(2):
        folder.keep_drawn(place, {}, [np.zeros((32, 32, 3), np.uint8)] * 2)
        folder.keep_scored("structure", None, place, [Score(1.0), Score(1.0)])
    folder.keep_scored("cleanliness", None, 0, [Score(1.0), Score(1.0)])
    needs = needs_of_evaluation(evaluation)
    assert [role.key for role in needs.roles] == ["rewards.attributes", "rewards.cleanliness"]
    assert [reward.name for reward in needs.rewards] == ["attributes", "cleanliness"]
    assert evaluation.scorers_left() == needs.rewards
    assert needs.model is None
    folder.close()


def test_given_images_count_with_their_own_size(tmp_path: Path) -> None:
    """The largest of them, 100 x 40 pixels; no policy is asked for."""
    for place in (0, 96):
        for index, size in enumerate(((32, 32), (100, 40))):
            file = tmp_path / "images" / f"{place:05d}" / f"{index:02d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", size).save(file)
    inputs = check_suite(suite_named("shapes"), None, [*SMALL, *BATCHES])
    given = given_images(tmp_path / "images", inputs)
    folder = EvaluationFolder(tmp_path / "out", inputs.asked())
    needs = needs_of_evaluation(Evaluation(inputs, folder, given))
    assert needs.roles[0].key == "rewards.attributes"
    assert needs.model is None
    assert needs.store_bytes == 32 * (3 * 100 * 40 + RECORD)
    folder.close()

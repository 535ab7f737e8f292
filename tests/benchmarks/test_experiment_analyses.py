"""Means over seeds of the entropy analyses, from weights that are those of the records."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.experiments import analyses, weights
from benchmarks.experiments.arms import WEIGHTS_KEPT, WORLDS
from benchmarks.experiments.likeness import likeness, vendi_of_codes
from benchmarks.experiments.records import Records
from policy.errors import UserError
from policy.types import Group, Prompt
from tests.written_runs import trajectory

ROOT = Path(__file__).parents[2]


def _kept(records: Records, root: Path, world: str) -> None:
    """Two finished runs of each arm; EG-GRPO of the plain world ends as the mixed checkpoint."""
    for arm in WEIGHTS_KEPT:
        if arm.world == world:
            ends = "mixed" if "as-code" in arm.name else world
            for seed in (11, 12):
                shutil.copytree(ROOT / WORLDS[ends], weights.folder(root, arm, seed))
                digest = weights.digest(root, arm, seed)
                records.add(arm, seed, {"weights": {"file": digest}})


@pytest.mark.slow
def test_analyses_are_means_over_seeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real drawing and scoring, two prompts. The world without runs is not reported."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(analyses, "SEEDS", (11, 12))
    for name, size in (("PROMPTS", 2), ("COTS", 2), ("IMAGES", 2)):
        monkeypatch.setattr(analyses, name, size)
    records = Records(tmp_path / "results", tmp_path)
    _kept(records, tmp_path, "plain")
    text = "\n".join(analyses.page(records, tmp_path))
    plain, mixed = text.split("## World ")[1:]
    assert "Not yet measured: 0 of 4 runs are finished." in mixed
    # GRPO is the checkpoint before training and is drawn with the same noise.
    zero = "0.000 ± 0.000 | [0.000, 0.000]"
    assert f"| 5 | GRPO minus CoT | image token entropy | mean |  |  | {zero} | 2 |" in plain
    assert "| 5 | EG-GRPO minus GRPO | image token entropy | mean |  |  | " in plain
    assert plain.count("| all images of a prompt | ") == 2  # GRPO after CoT, EG-GRPO after GRPO
    assert plain.count("bin 1 of 4") == 0

    shutil.rmtree(weights.folder(tmp_path, WEIGHTS_KEPT[0], 12))
    with pytest.raises(UserError, match=r"plain-w1-conditional-grpo-s12 are not in .*weights make"):
        list(analyses.page(records, tmp_path))


def test_the_vendi_score_of_images_with_equal_codes() -> None:
    """Two images that share half of their codes have the eigenvalues 0.75 and 0.25, and equal ones
    the score 1. The score is a mean over prompts."""
    prompt, rng = Prompt("train:1", "a red circle", "color"), np.random.default_rng(0)
    codes = [np.array(row, dtype=np.int32) for row in ([0, 0, 0, 0], [0, 7, 0, 7])]
    half, equal = (
        Group(prompt, tuple(replace(trajectory(prompt, 0, rng), image_ids=c) for c in of_group))
        for of_group in (codes, codes[:1] * 2)
    )
    np.testing.assert_array_equal(likeness(half), [[1.0, 0.5], [0.5, 1.0]])
    score = 1.7547654  # exp(-0.75 ln 0.75 - 0.25 ln 0.25)
    assert vendi_of_codes([half, equal]) == pytest.approx((score + 1) / 2)

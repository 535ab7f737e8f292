"""A run whose gradient is not finite: what it writes down, where it stops, how it goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from learner.shares import TrainingGroup
from orchestrator.workers.learner_group import LearnerGroup
from tests.command_line import ONE_REWARD, on_test_cluster, train_on_test_cluster
from tests.training_records import rows

SMALL = (
    "steps=4 prompts_per_step=2 rollout.group_size=4 learner.micro_batch_size=8"
    " data.evaluation={} checkpoint.every=9 learner.max_skipped_updates=2 rollout.workers=1"
    f" {ONE_REWARD}"
).split()


def weights(checkpoint: Path) -> dict[str, str]:
    """Digests of the exported model's weight files."""
    files = json.loads((checkpoint / "manifest.json").read_text())["files"]
    return {name: digest for name, digest in files.items() if name.endswith(".safetensors")}


@pytest.mark.slow
@pytest.mark.cluster
def test_skipped_updates_are_written_down_and_end_the_run(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Updates 2 and 3 of 4 are spoilt, of which two in a row are allowed: rows and skipped.jsonl
    say so, the run ends with one line and a checkpoint of step 3, and --resume goes on with step 4,
    which is an update again.

    The learner's own update is given a NaN as the first advantage of versions 1 and 2.
    """
    real_update = LearnerGroup.update

    def spoilt(self: LearnerGroup, batch: Sequence[TrainingGroup]) -> dict[str, float]:
        if self.weight_version in (1, 2):
            first, *others = batch
            batch = [replace(first, advantages=(math.nan, *first.advantages[1:])), *others]
        return real_update(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(LearnerGroup, "update", spoilt)
        done = on_test_cluster(
            "train", "configs/shapes.yaml", f"root={tmp_path}", "name=run", *SMALL
        )
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    run = tmp_path / "run"
    assert "the last 2 updates were skipped, that of step 3 for " in last
    assert f"{run / 'skipped.jsonl'} names their groups" in last
    assert "--resume" in last
    steps = rows(run)
    assert [row["updates/skipped"] for row in steps] == [0, 1, 1]
    assert [row["weight_version"] for row in steps] == [1, 2, 3]
    assert [row["grad_norm"] is None for row in steps] == [False, True, True]
    assert any("skipped" in alarm for alarm in steps[1]["alarms"])
    written = rows(run, "skipped.jsonl")
    assert [row["step"] for row in written] == [2, 3]
    assert all(row["reason"] == "loss nan" for row in written)
    assert all(len(row["groups"]) == 2 for row in written)
    assert all(group["prompt_id"] for row in written for group in row["groups"])

    stopped = weights(run / "checkpoints" / "step-3")
    train_on_test_cluster(tmp_path, "run", *SMALL, "--resume")
    assert [row["updates/skipped"] for row in rows(run)] == [0, 1, 1, 0]
    assert rows(run, "skipped.jsonl") == written
    assert weights(run / "checkpoints" / "step-4") != stopped

"""The paper's four rewards beside a procedural one, in one training run of two steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.small_models.tiny_rewards import save_git, save_grounding_dino, save_hps, save_orm
from tests.command_line import train_on_test_cluster
from tests.training_records import rows

NAMES = ("hps", "git", "grounding_dino", "orm", "structure")

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


def test_two_steps_with_the_four_models(ray_cluster: None, tmp_path: Path) -> None:
    """Every pool scores every image, the first one with two workers: no failure, four sums in the
    records, weights that moved.

    GIT does not judge spatial and numeracy prompts, and the records say so.
    """
    hps = str(save_hps(tmp_path / "hps"))
    options = {
        "hps": ("rewards.models.hps:HpsReward", {"model": hps, "clip": hps}),
        "git": ("rewards.models.git:GitReward", {"model": str(save_git(tmp_path / "git"))}),
        "grounding_dino": (
            "rewards.models.grounding_dino:GroundingDinoReward",
            {"model": str(save_grounding_dino(tmp_path / "grounding_dino"))},
        ),
        "orm": ("rewards.models.orm:OrmReward", {"model": str(save_orm(tmp_path / "orm"))}),
        "structure": ("shapes.rewards:Structure", {}),
    }
    rewards = [
        {"name": name, "factory": factory, "options": given, "workers": 2 if name == "hps" else 1,
         "cpus_per_worker": 0.2, "batch_size": 8}
        for name, (factory, given) in options.items()
    ]  # fmt: skip
    run = train_on_test_cluster(
        tmp_path, "run", "steps=2", "prompts_per_step=4", "rollout.group_size=4",
        "rollout.workers=1", "rollout.batch_size=8", "learner.micro_batch_size=8",
        "evaluation.prompts=12", "evaluation.samples_per_prompt=1", "evaluation.every=2",
        "checkpoint.every=2", f"rewards={json.dumps(rewards)}",
    )  # fmt: skip
    metrics = rows(run)
    assert len(metrics) == 2
    for row in metrics:
        assert row["rewards/failed"] == 0
        assert row["groups/trained"] == 4
        assert row["grad_norm"] > 0
        assert all(row[f"reward/{name}"] is not None for name in NAMES)
    judged = set()
    for record in rows(run, "samples/records.jsonl"):
        assert record["total"] == pytest.approx(sum(record["rewards"].values()))
        assert set(record["not_applicable"]) <= {"git"}
        judged.add(bool(record["not_applicable"]))
        assert (record["rewards"]["git"] == 0) == bool(record["not_applicable"])
    assert judged == {True, False}

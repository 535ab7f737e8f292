"""Training with rewards that fail: the batch stays whole, or the run says why.

Its rewards look at the brightness of the images that the shapes policy draws.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from orchestrator.pipeline.order import step_prompts
from policy.prompts import load_prompts
from policy.types import Prompt
from tests.command_line import ROOT, on_test_cluster
from tests.training_records import rows, untimed

SMALL = (
    "steps=2 prompts_per_step=4 rollout.workers=1 rollout.group_size=4 rollout.batch_size=8"
    " learner.micro_batch_size=8 data.evaluation={}"
).split()

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.usefixtures("ray_cluster")]


def train(
    root: Path, name: str, rejected: Prompt, times: int, *arguments: str
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """A run of which one reward rejects a prompt's first groups and another is often busy."""
    folders = [root / f"{name}-{reward}" for reward in ("rejects", "busy")]
    for folder in folders:
        folder.mkdir()
    settings: dict[str, Any] = {"cpus_per_worker": 0.1, "retry_delay_s": 0.01, "batch_size": 8}
    rejects = {"folder": str(folders[0]), "prompts": [rejected.id], "times": times}
    busy = {"folder": str(folders[1]), "transient": 0.5, "nan": 0.0}
    rewards = [
        {"name": "rejects", "factory": "tests.faulty_rewards:Rejects", "options": rejects},
        {"name": "busy", "factory": "tests.faulty_rewards:Faulty", "options": busy, "workers": 2},
    ]
    done = on_test_cluster(
        "train", "configs/shapes.yaml", f"root={root}", f"name={name}", *SMALL, *arguments,
        f"rewards={json.dumps([reward | settings for reward in rewards])}",
    )  # fmt: skip
    return done, root / name


@pytest.fixture(scope="module")
def prompt() -> Prompt:
    """The second prompt of the first step."""
    prompts = load_prompts(ROOT / "shapes" / "data" / "train.jsonl")
    return step_prompts(prompts, 4, seed=0, step=0)[1]


def test_a_dropped_group_is_replaced_recorded_and_the_same_on_every_run(
    tmp_path: Path, prompt: Prompt
) -> None:
    """Its prompt is sampled again with other seeds; same faults, same run, twice."""
    done, run = train(tmp_path, "one", prompt, 1)
    assert done.returncode == 0, done.stderr[-3000:]
    (dropped,) = rows(run, "dropped.jsonl")
    assert (dropped["step"], dropped["attempt"], dropped["prompt_id"]) == (1, 1, prompt.id)
    assert (dropped["survivors"], dropped["group_size"]) == (0, 4)
    assert dropped["reasons"]["rejects: rejected"] == 4
    first, second = rows(run, "metrics.jsonl")
    assert [row["groups/trained"] for row in (first, second)] == [4, 4]
    assert [row["groups/failed"] for row in (first, second)] == [1, 0]
    assert first["scoring/rejects/failed"] == 4
    assert first["scoring/busy/retries"] + second["scoring/busy/retries"] > 0
    assert 0 < first["reward/rejects"] < 1
    assert f"group of prompt {prompt.id} dropped" in (run / "run.log").read_text()

    again, other = train(tmp_path, "two", prompt, 1)
    assert again.returncode == 0, again.stderr[-3000:]
    assert untimed(other) == untimed(run)
    assert rows(other, "dropped.jsonl") == rows(run, "dropped.jsonl")


def test_a_prompt_that_cannot_be_scored_stops_the_run_with_one_line(
    tmp_path: Path, prompt: Prompt
) -> None:
    """After its replacements, with the prompt, the numbers and the reasons."""
    done, run = train(tmp_path, "bad", prompt, 2, "replacements=1")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(
        f"eg-grpo: step 1: prompt {prompt.id} was sampled 2 times, and each time fewer than 2 of 4"
        " trajectories were scored: 4 x rejects: rejected"
    ), done.stderr[-3000:]
    assert [row["attempt"] for row in rows(run, "dropped.jsonl")] == [1, 2]

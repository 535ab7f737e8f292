"""The learner step as a benchmark: that it runs where little is installed, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import learner_step, learner_task
from benchmarks.learner_task import Task
from benchmarks.presets import preset
from benchmarks.public_way import PublicUpdater, public_model
from benchmarks.storage_log import peak_bytes
from benchmarks.synthetic import random_batch
from benchmarks.torch_model import TorchModel
from learner.update import Updater
from orchestrator.settings.memory import GIB

ROOT = Path(__file__).parent.parent.parent
SMALL = ["--prompts", "1", "--cot", "4", "--rounds", "1"]
WITHOUT = """
import sys
sys.modules |= dict.fromkeys(["ray", "deepspeed", "vllm", "peft", "redis"])
from benchmarks.learner_step import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_it_needs_no_cluster_and_no_deepspeed() -> None:
    """All five updates are timed and their memory is counted, with nothing but torch there."""
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT, *SMALL],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [line for line in run.stdout.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows[1:]] == [
        f"| {name}" for name in (learner_step.GRPO, *learner_step.AGAINST)
    ]
    assert all(float(row.split(" | ")[-1].strip(" |")) > 0 for row in rows[1:])
    assert "planned: " in run.stdout


@pytest.mark.slow
def test_everything_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """An adapter on guided log-probs with activations computed twice."""
    pytest.importorskip("peft")
    options = ["--lora", "2", "--gradient-checkpointing", "--trained-distribution", "guided"]
    assert learner_step.main([*SMALL, *options]) == 0
    assert "LoRA of rank 2, gradient checkpointing, guided" in capsys.readouterr().out


def test_the_public_code_s_way_makes_the_same_update() -> None:
    """Loss, gradient norm and entropies are ours to float32's rounding: only the way differs."""
    task = Task.of("shapes", "cpu", "float32", prompts=2, cot=6)
    policy, special = task.policy()
    batch = random_batch(policy, special, task.shape, task.sampling)
    settings = task.settings(**preset("as-code"))
    model = TorchModel(policy, special, settings, policy.device)
    ours = Updater(model, settings, special).update(batch, 0)
    theirs = PublicUpdater(public_model(model), settings, special).update(batch, 0)
    assert theirs.keys() == ours.keys()
    for key in ("loss", "grad_norm", "entropy/cot/mean", "entropy/image/std", "tokens/trained"):
        assert theirs[key] == pytest.approx(ours[key], rel=1e-4, abs=1e-6), key


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ([], "; --lora 16 needs less"),
        (["--lora", "16", "--micro-batch", "64"], "; --gradient-checkpointing or a smaller"),
    ],
)
def test_what_cannot_fit_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options, hint
) -> None:
    """7b in bfloat16 with 40 GiB: what a step needs, of what, and which option needs less."""
    monkeypatch.setattr(learner_task, "room", lambda device: 40 * GIB)
    assert learner_step.main(["--model", "7b", "--dtype", "bfloat16", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("learner_step: 7b, ")
    assert "cpu has 40.0" in line
    assert hint in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert learner_step.main(["--device", "cuda"]) == 2
    assert capsys.readouterr().err == "learner_step: --device cuda: torch finds no GPU here\n"


def test_peak_bytes() -> None:
    """400 held + 800 that live on + the larger of two that come and go, 4,000."""
    held, kept = torch.ones(100), []

    def call() -> None:
        torch.ones(500)
        kept.append(torch.ones(200))
        torch.ones(1000)
        held.view(10, 10).add_(1)

    assert peak_bytes(call, [held, held[:10]]) == 400 + 800 + 4000

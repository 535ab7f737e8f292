"""LoRA through the whole pipeline, with rollout workers that know no adapter."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from transformers import JanusForConditionalGeneration

from orchestrator.cli import main
from policy.checkpoint.loading import load_policy
from tests.command_line import ONE_REWARD, ROOT, train_on_test_cluster
from tests.training_records import rows

BASE = ROOT / "shapes" / "checkpoint"
SMALL = (
    "steps=3 prompts_per_step=2 rollout.workers=1 rollout.group_size=4 rollout.batch_size=8"
    " learner.micro_batch_size=8 learner.learning_rate=1e-3 learner.warmup_steps=0"
    " learner.lora.rank=4 learner.gradient_checkpointing=true"
    f" data.evaluation={{}} checkpoint.every=3 {ONE_REWARD}"
).split()

pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.usefixtures("ray_cluster")]


def test_lora_trains_publishes_and_exports(tmp_path: Path) -> None:
    """Every push passes the proof of arrival, rollouts stay on the policy, the KL to the base
    grows; both exports load without this project, and the adapter on the base is the merged model.
    """
    run = train_on_test_cluster(tmp_path, "lora", *SMALL)
    metrics = rows(run)
    assert len(metrics) == 3
    assert all(row["probe/gap"] < 1e-5 for row in metrics)
    assert all(row["ratio/mean"] == pytest.approx(1, abs=1e-5) for row in metrics)
    assert metrics[0]["kl/mean"] == pytest.approx(0, abs=1e-9)
    assert metrics[2]["kl/mean"] > 0
    assert metrics[0]["guidance/logprob_gap"] == 0  # the shapes world samples at guidance 1

    step = run / "checkpoints" / "step-3"
    assert main(["export", str(step), str(tmp_path / "merged")]) == 0
    assert main(["export", str(step), str(tmp_path / "adapter"), "--adapter"]) == 0
    assert sorted(file.name for file in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip
    merged = JanusForConditionalGeneration.from_pretrained(tmp_path / "merged").state_dict()
    base = JanusForConditionalGeneration.from_pretrained(BASE)
    frozen = base.lm_head.weight.clone()
    adapted = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload()
    for name, tensor in adapted.state_dict().items():
        assert torch.allclose(tensor, merged[name], atol=1e-6), name
    assert torch.equal(merged["lm_head.weight"], frozen)
    trained = load_policy(step / "model").model.model.language_model.layers[0].mlp.up_proj.weight
    start = load_policy(BASE).model.model.language_model.layers[0].mlp.up_proj.weight
    assert not torch.equal(trained, start)

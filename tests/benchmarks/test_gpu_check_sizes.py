"""What the check would build on a GPU, built without memory: the published sizes, and no typing
error on the paths that a dry run does not take."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.gpu_check import reward_folders
from benchmarks.gpu_check.generation import ROWS
from benchmarks.gpu_check.learner_update import learner_task
from benchmarks.gpu_check.models import engine, janus, requests, sampling_of
from benchmarks.gpu_check.reward_models import REWARDS, build
from benchmarks.gpu_check.task import Task
from orchestrator.settings.memory import GIB, REWARD_MODELS


def real(folder: Path, device: str = "meta") -> Task:
    return Task(device, tiny=False, seconds=60, folder=folder)


@pytest.mark.parametrize(("size", "trained"), [("1b", 1_652_656_128), ("7b", 6_910_365_696)])
def test_policies_have_the_sizes_of_janus_pro(tmp_path: Path, size: str, trained: int) -> None:
    """Language model and text head of DeepSeek-LLM 1.3B and 7B with a vocabulary of 102,400, and
    prompts that its tokenizer reads word by word."""
    policy, encoder = janus(real(tmp_path), size)
    assert sum(p.numel() for _, p in policy.trained_parameters()) == trained
    assert (policy.num_image_tokens, policy.num_codes) == (576, 16_384)
    asked = requests(max(ROWS) // 2)
    assert sum(len(request.seeds) for request in asked) == max(ROWS) // 2
    assert len({seed for request in asked for seed in request.seeds}) == max(ROWS) // 2
    ids = encoder.cot_prompt_ids(asked[0].prompt)
    assert encoder.special.bos == ids[0]
    assert len(set(ids.tolist())) > 64
    task = real(tmp_path, "cpu")
    assert engine(task, policy, encoder, 8, sampling_of(task)).identity().num_codes == 16_384


@pytest.mark.parametrize(("size", "how"), [("1b", {}), ("7b", {"lora": 16})])
def test_both_learners_fit_a_gpu_of_80_gb(tmp_path: Path, size: str, how: dict[str, int]) -> None:
    """By the plan that the check compares with."""
    task = learner_task(real(tmp_path, "cuda"), size, **how)
    assert task.dtype == "bfloat16"
    assert task.learner.gradient_checkpointing
    assert task.planned().total < 75 * GIB


@pytest.mark.parametrize("name", REWARDS)
def test_rewards_have_their_published_sizes(tmp_path: Path, name: str) -> None:
    """As the memory plan counts them, within a hundredth; PickScore is the CLIP of HPS."""
    factory, _ = REWARDS[name]
    options = reward_folders.described(name, tmp_path / name, tiny=False)
    made: list = []
    build(factory, options | {"device": "meta"}, made)
    counted = REWARD_MODELS.get(factory, REWARD_MODELS["rewards.models.hps:HpsReward"])[0]
    assert sum(p.numel() for p in made[0].parameters()) == pytest.approx(counted, rel=0.01)

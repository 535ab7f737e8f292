"""Distils guidance into a checkpoint, so that RL can begin without guidance.

The teacher is the checkpoint under guidance w, and does not change. The student begins as the
checkpoint and learns, on the teacher's own samples, to give the teacher's distribution without
guidance: it minimises KL(teacher || student) at image tokens and at CoT tokens. CoTs are drawn
without guidance, so that there the student only has to stay what it was.

Shape legend: B = trajectories, T = tokens of a phase, L = positions, D = hidden size,
V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from orchestrator.pipeline.order import derived_seed, step_prompts
from policy.checkpoint.generation_defaults import GenerationDefaults, save_defaults
from policy.checkpoint.loading import load_encoder, load_policy
from policy.distribution import guide
from policy.janus import JanusPolicy
from policy.prompts import load_prompts
from policy.sampling import Sampling
from policy.sequences import TrajectoryBatch, collate
from policy.tree_states import tree_states
from policy.types import Trajectory
from rollout.config import RolloutConfig
from rollout.engine import GenerationRequest
from rollout.transformers_engine import TransformersEngine

STEPS, PROMPTS, SAMPLES = 40, 16, 8
MICRO_BATCH = 32
LEARNING_RATE = 3e-4  # the peak; it falls in a straight line to 0
GUIDANCE, MAX_COT = 2.0, 24
# What decides the student, but for the seed and the checkpoint.
SETTINGS = {
    "steps": STEPS,
    "prompts": PROMPTS,
    "samples": SAMPLES,
    "micro_batch": MICRO_BATCH,
    "learning_rate": LEARNING_RATE,
    "guidance": GUIDANCE,
    "max_cot": MAX_COT,
}


def distil(
    checkpoint: Path,
    prompt_file: Path,
    output: Path,
    seed: int,
    report: Callable[[int, str], None],
    steps: int = STEPS,
    prompts_per_step: int = PROMPTS,
) -> None:
    """Write the student of ``checkpoint`` as a checkpoint to ``output``.

    ``seed`` decides which prompts and which noise it learns from.
    """
    teacher, student = (load_policy(checkpoint, torch.float32) for _ in range(2))
    encoder = load_encoder(checkpoint, "shapes")
    config = RolloutConfig(guidance_scale=GUIDANCE, max_cot_tokens=MAX_COT)
    engine = TransformersEngine(teacher, encoder, config)
    prompts = load_prompts(prompt_file)
    parameters = [parameter for _, parameter in student.trained_parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0)
    for step in range(steps):
        requests = [
            GenerationRequest(
                prompt, tuple(derived_seed("distil", seed, step, place, i) for i in range(SAMPLES))
            )
            for place, prompt in enumerate(step_prompts(prompts, prompts_per_step, seed, step))
        ]
        drawn = [t for group in engine.generate(requests) for t in group.trajectories]
        optimizer.zero_grad()
        loss = 0.0
        for start in range(0, len(drawn), MICRO_BATCH):
            part = drawn[start : start + MICRO_BATCH]
            share = divergence(teacher, student, collate(part, encoder.special)) * _share(
                part, drawn
            )
            share.backward()
            loss += share.item()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * (1 - step / steps)
        optimizer.step()
        report(step + 1, f"divergence {loss:.4f} nats a token")
    output.mkdir(parents=True, exist_ok=True)
    student.model.save_pretrained(output)
    encoder.tokenizer.save_pretrained(output)
    save_defaults(output, GenerationDefaults.of("shapes", None, Sampling(1.0, 1.0, MAX_COT)))


def divergence(teacher: JanusPolicy, student: JanusPolicy, batch: TrajectoryBatch) -> Tensor:
    """KL(teacher under guidance || student without), the mean over all tokens, in nats."""
    with torch.no_grad():
        hidden_PD, twin_PD = (tree_states(teacher, t) for t in (batch.tree, batch.twin_tree))
        image_BTV = guide(
            teacher.image_logits(hidden_PD[batch.image.source_BT]),
            teacher.image_logits(twin_PD[batch.unconditional.source_BT]),
            GUIDANCE,
        )
        cot_BTV = teacher.text_logits(hidden_PD[batch.cot.source_BT])
    hidden_PD = tree_states(student, batch.tree)
    parts_BT = [
        _divergence(cot_BTV, student.text_logits(hidden_PD[batch.cot.source_BT])),
        _divergence(image_BTV, student.image_logits(hidden_PD[batch.image.source_BT])),
    ]
    return torch.cat(parts_BT, dim=1)[batch.mask_BT].mean()


def _divergence(teacher_BTV: Tensor, student_BTV: Tensor) -> Tensor:
    logprob_BTV = teacher_BTV.log_softmax(-1)
    return (logprob_BTV.exp() * (logprob_BTV - student_BTV.log_softmax(-1))).sum(-1)


def _share(part: list[Trajectory], whole: list[Trajectory]) -> float:
    """The share of a batch's tokens that a part of it has."""
    return sum(t.num_tokens for t in part) / sum(t.num_tokens for t in whole)

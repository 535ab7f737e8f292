"""Compares a rollout's records with the learner's log-probs of the same tokens, in bfloat16.

Temperature 0.7 and guidance 5 enlarge rounding errors. Random weights with enlarged heads stand in
for a trained model's.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.gpu_check.models import engine, janus, requests
from benchmarks.gpu_check.task import Measure, Task
from learner.logprob_module import entropy_kernel
from policy.sequences import collate
from policy.trajectory_logprobs import trajectory_logprobs

GUIDANCE, TEMPERATURE = 5.0, 0.7


def measures(task: Task) -> Iterator[Measure]:
    policy, encoder = janus(task)
    count = task.sized(8, 2)
    sampler = engine(task, policy, encoder, count, guidance_scale=GUIDANCE, temperature=TEMPERATURE)
    (group,) = sampler.generate(requests(count))
    made = group.trajectories
    batch = collate(made, encoder.special).to(policy.device)
    longest = batch.cot.mask_BT.shape[1]
    scored = {}
    for name, scale in (("conditional", None), ("guided", GUIDANCE)):
        with torch.no_grad():
            scores = trajectory_logprobs(policy, batch, TEMPERATURE, scale, entropy_kernel)
        scored[name] = scores.logprob_BT.cpu().numpy(), scores.entropy_BT.cpu().numpy()
    gaps: dict[str, list[np.ndarray]] = {}
    for row, t in enumerate(made):
        cot = slice(0, len(t.cot_ids))
        pairs = {
            "CoT log-prob": (t.cot_logprobs, scored["conditional"][0][row, cot]),
            "CoT entropy": (t.cot_entropies, scored["conditional"][1][row, cot]),
        }
        for name, (logprob_BT, entropy_BT) in scored.items():
            recorded = (
                getattr(t, f"image_logprobs_{name}"),
                getattr(t, f"image_entropies_{name}"),
            )
            pairs[f"image log-prob, {name}"] = recorded[0], logprob_BT[row, longest:]
            pairs[f"image entropy, {name}"] = recorded[1], entropy_BT[row, longest:]
        for name, (there, here) in pairs.items():
            gaps.setdefault(name, []).append(np.abs(there - here))
    shape = f"{count} trajectories, w = {GUIDANCE:g}, T = {TEMPERATURE:g}"
    for name, parts in gaps.items():
        gap = np.concatenate(parts)
        yield Measure(f"{name}: mean difference", float(gap.mean()), "nats", shape)
        yield Measure(f"{name}: largest difference", float(gap.max()), "nats", shape)

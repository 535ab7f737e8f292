"""Compares a rollout's records with the learner's log-probs of the same tokens, in bfloat16.

Temperature 0.7 and guidance 5 enlarge rounding errors. Random weights with enlarged heads stand in
for a trained model's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from benchmarks.gpu_check.models import engine, janus, requests, sampling_of
from benchmarks.gpu_check.task import Measure, Task
from learner.logprob_module import entropy_kernel
from policy.sequences import collate
from policy.trajectory_logprobs import trajectory_logprobs

TEMPERATURE = 0.7


def measures(task: Task) -> Iterator[Measure]:
    policy, encoder = janus(task)
    count = task.sized(8, 2)
    sampling = replace(sampling_of(task), temperature=TEMPERATURE)
    sampler = engine(task, policy, encoder, count, sampling)
    (group,) = sampler.generate(requests(count))
    made = group.trajectories
    batch = collate(made, encoder.special).to(policy.device)
    longest = batch.cot.mask_BT.shape[1]
    by_learner = {}
    for name, scale in (("conditional", None), ("guided", sampling.guidance_scale)):
        with torch.no_grad():
            found = trajectory_logprobs(policy, batch, TEMPERATURE, scale, entropy_kernel)
        by_learner[name] = found.logprob_BT.cpu().numpy(), found.entropy_BT.cpu().numpy()
    gaps: dict[str, list[np.ndarray]] = {}
    for row, t in enumerate(made):
        cot = slice(0, len(t.cot_ids))
        pairs = {
            "CoT log-prob": (t.cot_logprobs, by_learner["conditional"][0][row, cot]),
            "CoT entropy": (t.cot_entropies, by_learner["conditional"][1][row, cot]),
        }
        for name, (logprob_BT, entropy_BT) in by_learner.items():
            recorded = (
                getattr(t, f"image_logprobs_{name}"),
                getattr(t, f"image_entropies_{name}"),
            )
            pairs[f"image log-prob, {name}"] = recorded[0], logprob_BT[row, longest:]
            pairs[f"image entropy, {name}"] = recorded[1], entropy_BT[row, longest:]
        for name, (there, here) in pairs.items():
            gaps.setdefault(name, []).append(np.abs(there - here))
    shape = f"{count} trajectories, w = {sampling.guidance_scale:g}, T = {TEMPERATURE:g}"
    for name, parts in gaps.items():
        gap = np.concatenate(parts)
        yield Measure(f"{name}: mean difference", float(gap.mean()), "nats", shape)
        yield Measure(f"{name}: largest difference", float(gap.max()), "nats", shape)

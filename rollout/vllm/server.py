"""Runs stock vLLM with our model in it: builds it from a policy, serves requests, ends it.

Shape legend: K = channels, T = tokens.
"""

from __future__ import annotations

import gc
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory
from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind

from policy.encoding import SpecialIds
from policy.errors import UserError
from policy.janus import JanusPolicy
from policy.low_rank import Receiver
from policy.types import FloatArray, IntArray
from policy.weights import WeightBuckets
from rollout.config import RolloutConfig
from rollout.vllm.installation import ARCHITECTURE, check_head_size, head_size, register_model
from rollout.vllm.janus_model import JanusForVllm
from rollout.vllm.requests import RunningBatch, SampleRequest
from rollout.vllm.vocabulary import Vocabulary


@dataclass(frozen=True)
class Sampled:
    """The tokens of a finished request (text or image ids), T, and their records in nats, T."""

    ids: IntArray
    logprobs_conditional: FloatArray
    entropies_conditional: FloatArray
    logprobs_guided: FloatArray
    entropies_guided: FloatArray
    logprobs_unconditional: FloatArray  # of guided image tokens; of others the conditional ones


def written_config(policy: JanusPolicy, special: SpecialIds, streams: int) -> dict[str, Any]:
    """The model's ``config.json``: Llama's, with the heads of all streams, and our own part."""
    config: Any = policy.model.config
    text: dict[str, Any] = config.get_text_config().to_dict()
    heads = text["num_attention_heads"]
    head = policy.model.model.generation_head
    return text | {
        "architectures": [ARCHITECTURE],
        "vocab_size": Vocabulary(policy.text_vocab_size, policy.num_codes).size,
        "head_dim": head_size(config),
        "num_attention_heads": streams * heads,
        "num_key_value_heads": streams * (text.get("num_key_value_heads") or heads),
        "eg_grpo": {
            "streams": streams,
            "pad": special.pad,
            "begin_of_image": special.begin_of_image,
            "num_text": policy.text_vocab_size,
            "num_codes": policy.num_codes,
            "head_hidden": head.vision_head.in_features,
            "head_activation": config.vq_config.hidden_act,
        },
    }


class VllmServer:
    """One vLLM engine in this process. Raises ``UserError`` for a model that vLLM cannot run."""

    def __init__(
        self, policy: JanusPolicy, special: SpecialIds, config: RolloutConfig, streams: int
    ) -> None:
        """Copies the policy's weights; the policy is not kept."""
        check_head_size(config, policy.model.config)
        description = written_config(policy, special, streams)
        self.streams = streams
        self._eos = special.eos
        self.vocabulary = Vocabulary(policy.text_vocab_size, policy.num_codes)
        register_model()
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "config.json").write_text(json.dumps(description))
            self._llm = LLM(folder, **_engine_arguments(config, policy.dtype))
        self._engine = self._llm.llm_engine
        runner = self._engine.model_executor.driver_worker.worker.model_runner
        # With CUDA graphs ``runner.model`` is a wrapper: what is set on it never reaches the model.
        self._model: JanusForVllm = runner.get_model()
        self._load_all(policy)
        self._model.running_batch = RunningBatch(runner)

    def check_weights(self, weights: WeightBuckets, receiver: Receiver) -> None:
        """Raise ``ValueError`` when a tensor is missing, unknown or misshapen."""
        receiver.check_fit(self._model.trained_parameters(), weights)

    def load_weights(self, weights: WeightBuckets, receiver: Receiver) -> str:
        """Replace the trained part, and drop keys and values that the old one computed.

        Returns the checksum of the weights.
        """
        checksum = receiver.load(self._model.trained_parameters(), weights)
        if not self._engine.reset_prefix_cache():
            raise RuntimeError("vLLM kept its prefix cache: requests are still running")
        return checksum

    def run(
        self,
        requests: Sequence[tuple[str, list[int], SampleRequest]],
        finished: Callable[[str, Sampled], Sequence[tuple[str, list[int], SampleRequest]]],
    ) -> None:
        """Serve the requests (name, prompt, what to sample) until none is left.

        ``finished`` is called with each result as soon as it is ready. The requests that it returns
        join the running batch.
        """
        try:
            self._add(requests)
            while self._engine.has_unfinished_requests():
                for output in self._engine.step():
                    assert isinstance(output, RequestOutput)
                    self._add(finished(output.request_id, self._sampled(output)))
        except BaseException:
            self._drop_all()
            raise

    def prompt_logprobs(self, prompts: Sequence[list[int]]) -> list[list[float]]:
        """Conditional log-probs, at temperature 1, of all tokens of each prompt but the first."""
        params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)
        outputs = self._llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False
        )
        rows = [zip(p[1:], o.prompt_logprobs[1:], strict=True) for p, o in zip(prompts, outputs)]  # noqa: B905
        return [[at[token].logprob for token, at in row] for row in rows]

    def sleep(self) -> None:
        """Free the KV cache and move the weights to the host.

        For a GPU, and with ``sleep_while_learning`` alone: only then can vLLM free its memory.
        """
        self._llm.sleep(level=1)

    def wake(self) -> None:
        """Undo ``sleep``."""
        self._llm.wake_up()

    def shutdown(self) -> None:
        """Free everything. No method may be called afterwards."""
        self._model.running_batch = None
        self._engine.engine_core.shutdown()
        del self._llm, self._engine, self._model
        cleanup_dist_env_and_memory()
        gc.collect()

    @torch.no_grad()
    def _load_all(self, policy: JanusPolicy) -> None:
        named: dict[str, Tensor] = dict(policy.model.named_parameters())
        for name, tensor in self._model.trained_parameters():
            tensor.copy_(named[name])
        codes = torch.arange(policy.num_codes, device=policy.device)
        named["image_embeddings"] = policy.embed_image(codes.unsqueeze(0)).squeeze(0)
        for name, tensor in self._model.frozen_parameters():
            tensor.copy_(named[name])

    def _add(self, requests: Sequence[tuple[str, list[int], SampleRequest]]) -> None:
        longest = self._engine.vllm_config.model_config.max_model_len
        for name, prompt, request in requests:
            if len(prompt) + request.count > longest:  # else vLLM would cut it silently
                raise UserError(
                    f"rollout.engine: a prompt of {len(prompt)} tokens and {request.count} to be"
                    f" sampled are more than the {longest} that vLLM holds here (the checkpoint's"
                    " positions, or its KV cache: rollout.vllm)"
                )
            params = SamplingParams(
                max_tokens=request.count,
                temperature=0,  # our model draws; vLLM's sampler takes the largest logit
                logprob_token_ids=self.vocabulary.channels,
                # Log-probs come as lists. One object for each token and record would be slow.
                flat_logprobs=True,
                stop_token_ids=[] if request.forced else [self._eos],
                ignore_eos=True,
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
                extra_args=request.extra_args(),
            )
            self._engine.add_request(name, {"prompt_token_ids": prompt}, params)

    def _sampled(self, output: RequestOutput) -> Sampled:
        (completion,) = output.outputs
        ids = list(completion.token_ids)
        surprisal, entropy, guided_surprisal, guided_entropy, twin_surprisal = (
            self.vocabulary.records(completion.logprobs)
        )
        is_image = ids[0] >= self.vocabulary.num_text
        return Sampled(
            self.vocabulary.codes(ids) if is_image else np.asarray(ids, dtype=np.int32),
            -surprisal,
            entropy,
            -guided_surprisal,
            guided_entropy,
            -twin_surprisal,
        )

    def _drop_all(self) -> None:
        names = list(self._engine.output_processor.request_states)
        self._engine.abort_request(names, internal=True)


def _engine_arguments(config: RolloutConfig, dtype: torch.dtype) -> dict[str, Any]:
    on_gpu = config.device == "cuda"
    arguments: dict[str, Any] = {
        "dtype": str(dtype).removeprefix("torch."),
        "load_format": "dummy",
        "skip_tokenizer_init": True,
        "generation_config": "vllm",
        # -1: as many as the checkpoint's positions and the KV cache allow.
        "max_model_len": -1,
        "max_num_seqs": config.batch_size,
        "max_num_batched_tokens": max(config.vllm.prefill_tokens, config.batch_size),
        "enable_prefix_caching": True,
        "enforce_eager": not on_gpu,
        # One step at a time, as on a CPU: the tests of rollout/vllm/requests.py run it only so.
        "async_scheduling": False,
        "disable_log_stats": True,
        "seed": 0,
        # vLLM returns rows as our model makes them. A softmax would spoil them: they hold records,
        # not the logits of a distribution (see Vocabulary).
        "logprobs_mode": "processed_logits",
    }
    if on_gpu:
        arguments |= {
            "gpu_memory_utilization": config.vllm.memory_share,
            # An allocator that can be put to sleep holds weights and cache then. Where nobody
            # sleeps, torch's own does.
            "enable_sleep_mode": config.sleep_while_learning,
            # Our model cannot be compiled by torch. Whole decode steps are captured instead.
            "compilation_config": {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"},
        }
    return arguments

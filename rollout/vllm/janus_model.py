"""Janus's language model for vLLM, with classifier-free guidance inside one request.

A row carries S streams: the conditional one and, with guidance (S = 2), the unconditional one.
Linear layers and norms see the streams as S rows. Attention sees them as S times as many heads. One
request and one entry of the KV cache therefore hold both streams, which always advance together.
The unconditional stream reads padding in place of every text token but the first. It reads image
tokens and the alias of ``<begin_of_image>`` as they are.

The weights are plain parameters under the checkpoint's names; parts of fused ones are views.
``policy.weights.load_into`` writes them as it writes any policy's. There is no tensor parallelism.

Shape legend: T = tokens of the batch, S = streams, D = hidden size, H = heads, R = rows to sample,
V = merged vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor, nn
from transformers.activations import ACT2FN
from vllm import _custom_ops as kernels
from vllm.config import CacheConfig, VllmConfig
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.rotary_embedding import get_rope

from policy.distribution import Softmax, guide, head_logits, temper
from rollout.drawing import Phase, draw_tokens
from rollout.vllm.requests import RowTask, RunningBatch, by_phase
from rollout.vllm.vocabulary import NUM_CHANNELS, Vocabulary


class JanusForVllm(nn.Module):
    """The model that ``rollout.vllm.server.written_config`` describes. Weights are loaded later."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        janus = config.eg_grpo
        self.streams: int = janus["streams"]
        self.pad: int = janus["pad"]
        self.begin_of_image: int = janus["begin_of_image"]
        self.vocabulary = Vocabulary(janus["num_text"], janus["num_codes"])
        hidden = config.hidden_size
        self.embed_tokens = nn.Embedding(janus["num_text"], hidden)
        # The frozen path from image id to embedding, computed once for each id.
        self.image_embeddings = nn.Embedding(janus["num_codes"], hidden)
        self.layers = nn.ModuleList(
            _Layer(config, self.streams, vllm_config.cache_config, f"model.layers.{index}")
            for index in range(config.num_hidden_layers)
        )
        self.norm = _Norm(hidden, eps=config.rms_norm_eps)
        self.lm_head = nn.Linear(hidden, janus["num_text"], bias=False)
        self.proj_out = nn.Linear(hidden, janus["head_hidden"])
        self.head_activation = ACT2FN[janus["head_activation"]]
        self.vision_head = nn.Linear(janus["head_hidden"], janus["num_codes"])
        self.running_batch: RunningBatch | None = None  # set when the model runner is known

    # Weights

    def trained_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Tensors of the trained part under the checkpoint's names; loading writes to them."""
        yield "lm_head.weight", self.lm_head.weight
        prefix = "model.language_model."
        yield prefix + "embed_tokens.weight", self.embed_tokens.weight
        yield prefix + "norm.weight", self.norm.weight
        for index, layer in enumerate(self.layers):
            assert isinstance(layer, _Layer)
            for name, tensor in layer.checkpoint_tensors():
                yield f"{prefix}layers.{index}.{name}", tensor

    def frozen_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """The image head, under the checkpoint's names, and the table of image embeddings."""
        head = "model.generation_head."
        for name in ("proj_out", "vision_head"):
            linear = getattr(self, name)
            yield f"{head}{name}.weight", linear.weight
            yield f"{head}{name}.bias", linear.bias
        yield "image_embeddings", self.image_embeddings.weight

    # What vLLM calls

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        return self._embed(input_ids, torch.ones_like(input_ids))[:, 0]

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
        **unused: Any,
    ) -> Tensor:
        """Final hidden states of every stream and one more column, T (S D + 1).

        The column is 1 where the next token is an image token, and 0 elsewhere.
        """
        hidden = self._embed(input_ids, positions).flatten(0, 1)
        residual: Tensor | None = None
        for layer in self.layers:
            hidden, residual = layer(positions, hidden, residual)
        hidden, _ = self.norm(hidden, residual)
        predicts_image = (input_ids >= self.vocabulary.num_text).to(hidden.dtype).unsqueeze(1)
        return torch.cat([hidden.view(len(input_ids), -1), predicts_image], dim=1)

    def compute_logits(self, hidden_states: Tensor) -> Tensor:
        """The rows that vLLM samples from and returns columns of, float32, R V.

        When tokens are drawn, a row holds the drawn token and its records (``Vocabulary.rows``).
        When the batch only reads, a row holds the log-probs of all tokens.
        """
        flag_R = hidden_states[:, -1] > 0
        hidden_RSD = hidden_states[:, :-1].unflatten(1, (self.streams, -1))
        tasks = None if self.running_batch is None else self.running_batch.tasks()
        if tasks is None:
            return self._conditional_logprobs(hidden_RSD[:, 0], flag_R)
        return self._drawn(hidden_RSD, tasks)

    # Inside

    def _embed(self, ids_T: Tensor, position_T: Tensor) -> Tensor:
        """Embeddings of every stream, T S D."""
        first_code, alias = self.vocabulary.num_text, self.vocabulary.begin_of_image
        is_image_T = (ids_T >= first_code) & (ids_T < alias)
        text_T = ids_T.masked_fill(is_image_T, self.pad)
        text_T = text_T.masked_fill(ids_T == alias, self.begin_of_image)
        text_T = text_T.clamp(max=first_code - 1)  # a dummy run may hold any id
        code_T = (ids_T - first_code).clamp(0, self.vocabulary.num_codes - 1)
        image_TD = self.image_embeddings(code_T)
        own_TD = torch.where(is_image_T.unsqueeze(1), image_TD, self.embed_tokens(text_T))
        if self.streams == 1:
            return own_TD.unsqueeze(1)
        keeps_T = (position_T == 0) | (ids_T >= first_code)
        pad_D = self.embed_tokens.weight[self.pad]
        twin_TD = torch.where(keeps_T.unsqueeze(1), own_TD, pad_D)
        return torch.stack([own_TD, twin_TD], dim=1)

    def _features(self, hidden: Tensor) -> Tensor:
        return self.head_activation(self.proj_out(hidden))

    def _conditional_logprobs(self, hidden_RD: Tensor, is_image_R: Tensor) -> Tensor:
        """Log-probs of the ids of each row's phase; minus infinity for ids of the other phase."""
        shape = len(hidden_RD), self.vocabulary.size
        logprob_RV = torch.full(shape, -torch.inf, dtype=torch.float32, device=hidden_RD.device)
        num_text = self.vocabulary.num_text
        text_R, image_R = ((is_image_R == kind).nonzero().squeeze(1) for kind in (False, True))
        logprob_RV[text_R, :num_text] = head_logits(hidden_RD[text_R], self.lm_head).log_softmax(-1)
        logprob_RV[image_R, num_text : self.vocabulary.begin_of_image] = head_logits(
            self._features(hidden_RD[image_R]), self.vision_head
        ).log_softmax(-1)
        return logprob_RV

    def _drawn(self, hidden_RSD: Tensor, tasks: list[RowTask]) -> Tensor:
        device = hidden_RSD.device
        token_R = torch.empty(len(tasks), dtype=torch.long, device=device)
        record_RK = torch.empty(len(tasks), NUM_CHANNELS, device=device)
        for phase, rows in by_phase(tasks).items():
            row_R = torch.tensor(rows, device=device)
            chosen = [tasks[row] for row in rows]
            token_R[row_R], record_RK[row_R] = self._draw(phase, hidden_RSD[row_R], chosen)
        return self.vocabulary.rows(token_R, record_RK)

    def _draw(
        self, phase: Phase, hidden_RSD: Tensor, tasks: list[RowTask]
    ) -> tuple[Tensor, Tensor]:
        """Merged ids, R, and records, R K, of rows of one phase."""
        device = hidden_RSD.device
        asked = [task.request.sampling for task in tasks]
        temperature_R11 = torch.tensor([[[s.temperature]] for s in asked], device=device)
        noise_R = torch.tensor([t.noise for t in tasks], dtype=torch.float64, device=device)
        scale_R1 = torch.tensor([[s.guidance_scale] for s in asked], device=device)
        # From here on the second stream, if there is one, holds the guided distribution.
        twin = None
        if phase is Phase.IMAGE:
            first = self.vocabulary.num_text
            # One product for both streams: the head's weights are read once.
            logits_RSV = head_logits(self._features(hidden_RSD), self.vision_head)
            if self.streams == 2:
                twin = Softmax.of(temper(logits_RSV[:, 1], temperature_R11[:, 0]))
                logits_RSV[:, 1] = guide(logits_RSV[:, 0], logits_RSV[:, 1], scale_R1)
        else:
            first = 0
            logits_RSV = head_logits(hidden_RSD[:, :1], self.lm_head)
        if any(s.temperature != 1 for s in asked):
            logits_RSV = temper(logits_RSV, temperature_R11)
        softmax = Softmax.of(logits_RSV)
        drawn_R = draw_tokens(softmax.weight_NV[:, -1], noise_R)
        forced = [(row, t.forced) for row, t in enumerate(tasks) if t.forced is not None]
        for row, token in forced:
            drawn_R[row] = token - first
        logprob_RS = softmax.logprob(drawn_R.unsqueeze(1).expand(logits_RSV.shape[:2]))
        twin_R = logprob_RS[:, 0]
        if twin is not None:
            twin_R = torch.where(scale_R1[:, 0] == 1.0, twin_R, twin.logprob(drawn_R))
        record_RSK = torch.stack([-logprob_RS, softmax.entropy()], dim=2)
        record_RK = torch.cat([record_RSK[:, 0], record_RSK[:, -1], -twin_R[:, None]], dim=1)
        return drawn_R + first, record_RK


class _Norm(RMSNorm):
    """vLLM's norm, which on a CPU would take many small steps; here it calls vLLM's own kernel.

    It does so only in float32. With 16 bits the kernel rounds further away from transformers: on
    the shapes model the probe differs by 0.055 nats instead of 0.009 (``benchmarks.vllm_gaps``).
    """

    def forward_cpu(
        self, x: Tensor, residual: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """With a residual it overwrites its arguments, as the kernels of vLLM do."""
        if x.dtype != torch.float32:
            return self.forward_native(x, residual)
        weight = self.weight.data
        if residual is None:
            normed = torch.empty_like(x)
            kernels.rms_norm(normed, x, weight, self.variance_epsilon)
            return normed
        kernels.fused_add_rms_norm(x, residual, weight, self.variance_epsilon)
        return x, residual


class _Layer(nn.Module):
    """One Llama layer over S streams."""

    def __init__(
        self, config: Any, streams: int, cache_config: CacheConfig | None, prefix: str
    ) -> None:
        super().__init__()
        # The configuration counts the heads of all streams, as attention and the KV cache do.
        self.heads = config.num_attention_heads // streams
        self.kv_heads = config.num_key_value_heads // streams
        self.head_dim: int = config.head_dim
        self.streams = streams
        hidden, bias = config.hidden_size, config.attention_bias
        self.sizes = [self.heads * self.head_dim] + [self.kv_heads * self.head_dim] * 2
        self.qkv = nn.Linear(hidden, sum(self.sizes), bias=bias)
        self.o_proj = nn.Linear(self.sizes[0], hidden, bias=bias)
        self.gate_up = nn.Linear(hidden, 2 * config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, hidden, bias=config.mlp_bias)
        self.input_layernorm = _Norm(hidden, eps=config.rms_norm_eps)
        self.post_attention_layernorm = _Norm(hidden, eps=config.rms_norm_eps)
        self.rotary = get_rope(
            self.head_dim,
            max_position=config.max_position_embeddings,
            rope_parameters=config.rope_parameters,
        )
        self.attention = Attention(
            streams * self.heads,
            self.head_dim,
            self.head_dim**-0.5,
            num_kv_heads=streams * self.kv_heads,
            cache_config=cache_config,
            prefix=f"{prefix}.self_attn.attn",
        )

    def checkpoint_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The parameters under the checkpoint's names; parts of fused ones are views."""
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"{name}.weight", getattr(self, name).weight
        for module, parts, sizes in (
            ("self_attn", ("q_proj", "k_proj", "v_proj"), self.sizes),
            ("mlp", ("gate_proj", "up_proj"), [self.down_proj.in_features] * 2),
        ):
            fused = self.qkv if module == "self_attn" else self.gate_up
            for kind, parameter in fused.named_parameters():
                for part, view in zip(parts, parameter.split(sizes), strict=True):
                    yield f"{module}.{part}.{kind}", view
        for name, linear in (("self_attn.o_proj", self.o_proj), ("mlp.down_proj", self.down_proj)):
            for kind, parameter in linear.named_parameters():
                yield f"{name}.{kind}", parameter

    def forward(
        self, position_T: Tensor, hidden: Tensor, residual: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Hidden states and residual, (T S) D, in and out; vLLM's fused norm wants them apart."""
        if residual is None:
            residual = hidden
            hidden = self.input_layernorm(hidden)
        else:
            hidden, residual = self.input_layernorm(hidden, residual)
        parts = self.qkv(hidden).split(self.sizes, dim=-1)
        query, key, value = (part.reshape(len(position_T), -1) for part in parts)
        query, key = self.rotary(position_T, query, key)
        attended = self.attention(query, key, value)
        hidden = self.o_proj(attended.reshape(-1, self.sizes[0]))
        hidden, residual = self.post_attention_layernorm(hidden, residual)
        gate, up = self.gate_up(hidden).chunk(2, dim=-1)
        return self.down_proj(functional.silu(gate) * up), residual

"""The sizes of a Janus model, from which the memory plan and the object store are computed."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the driver reads sizes that another process has measured, without torch
    from transformers import JanusConfig

    from learner.algorithm.methods.token_method import Need

WEIGHT_BYTES = {"float32": 4, "bfloat16": 2}  # of one weight, by its type


@dataclass(frozen=True)
class ModelSize:
    """The sizes of a Janus model."""

    trained: int  # parameters of the language model with its head
    frozen: int  # all others
    hidden: int
    inner: int
    layers: int
    head_size: int
    kv_heads: int
    heads: int
    text_vocab: int
    head_inner: int  # input width of the image head's last layer
    image_tokens: int
    codes: int  # different image tokens
    code_size: int  # numbers of an image token in the codebook
    image_size: int  # pixels
    decoder_channels: int  # channels of the image decoder at full resolution

    @classmethod
    def of(cls, config: JanusConfig) -> ModelSize:
        """The sizes of the model of a configuration. No weights are needed.

        Raises ``UserError`` when no model can be built from the configuration.
        """
        from policy.checkpoint.transformers_config import built_on_meta
        from policy.janus import TRAINED_PREFIXES

        model: Any = built_on_meta(config, "model.path: config.json")
        trained = frozen = 0
        for name, parameter in model.named_parameters():
            if name.startswith(TRAINED_PREFIXES):
                trained += parameter.numel()
            else:
                frozen += parameter.numel()
        text: Any = config.text_config
        vision: Any = config.vision_config
        coder: Any = config.vq_config
        rows, columns = model.model.vqmodel.quantize.quant_state_dims
        return cls(
            trained=trained,
            frozen=frozen,
            hidden=text.hidden_size,
            inner=text.intermediate_size,
            layers=text.num_hidden_layers,
            head_size=text.head_dim,
            kv_heads=text.num_key_value_heads,
            heads=text.num_attention_heads,
            text_vocab=text.vocab_size,
            head_inner=model.model.generation_head.vision_head.in_features,
            image_tokens=int(rows) * int(columns),
            codes=coder.num_embeddings,
            code_size=coder.embed_dim,
            image_size=vision.image_size,
            decoder_channels=coder.base_channels * coder.channel_multiplier[0],
        )

    def lora(self, rank: int, targets: tuple[str, ...]) -> int:
        """Parameters of an adapter: rank x (inputs + outputs) of each adapted layer."""
        ends = self._ends()
        return self.layers * rank * sum(sum(ends[target]) for target in targets)

    def adapted(self, targets: tuple[str, ...]) -> int:
        """Parameters of the layers that an adapter is added to."""
        ends = self._ends()
        return self.layers * sum(math.prod(ends[target]) for target in targets)

    def token_vectors(self, needs: Collection[Need]) -> int:
        """Bytes of the table of image tokens that a token method keeps, in float32; see
        ``learner.group_weights.token_vectors``."""
        if "codebook" in needs:
            return 4 * self.codes * self.code_size
        return 4 * self.codes * self.hidden if "aligned_embedding" in needs else 0

    def _ends(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of the linear layers of a decoder layer."""
        queries, keys = self.heads * self.head_size, self.kv_heads * self.head_size
        return {
            "q_proj": (self.hidden, queries),
            "k_proj": (self.hidden, keys),
            "v_proj": (self.hidden, keys),
            "o_proj": (queries, self.hidden),
            "gate_proj": (self.hidden, self.inner),
            "up_proj": (self.hidden, self.inner),
            "down_proj": (self.inner, self.hidden),
        }

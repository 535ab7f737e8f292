"""The Janus policy. Rollout and learner use this one class, so both compute the same numbers.

It wraps transformers' ``JanusForConditionalGeneration`` and offers the five operations that the
system needs: embed, hidden states, text logits, image logits and decode.

Shape legend: B = rows, L = positions, N = image tokens, D = hidden size, V = vocabulary.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import JanusForConditionalGeneration

from policy.distribution import head_logits

# RL trains the language model and its text head (paper section 6.1 and the authors' code).
TRAINED_PREFIXES = ("model.language_model.", "lm_head.")


class JanusPolicy(nn.Module):
    """A Janus model whose language model and text head are trained; all other parts are frozen.

    Raises ``ValueError`` when the text head shares its weights with the text embeddings ("tied").
    Janus-Pro is untied, so a tied model would silently train something else.
    """

    def __init__(self, model: JanusForConditionalGeneration) -> None:
        super().__init__()
        if model.lm_head.weight is model.model.language_model.embed_tokens.weight:
            raise ValueError("lm_head is tied to embed_tokens; set tie_word_embeddings to false")
        self.model = model
        embeddings: Any = model.get_input_embeddings()
        # If the configuration names a padding token, torch gives the embedding of that token no
        # gradient. Guidance reads this embedding, and the original code trains it.
        embeddings.padding_idx = None
        self.eval()  # no dropout, so that rollout and learner agree
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name.startswith(TRAINED_PREFIXES))

    # Sizes

    @property
    def text_vocab_size(self) -> int:
        """V of CoT tokens."""
        return int(self.model.lm_head.out_features)

    @property
    def num_codes(self) -> int:
        """V of image tokens: the size of the image codebook."""
        return int(self.model.model.generation_head.vision_head.out_features)

    @property
    def image_grid(self) -> tuple[int, int]:
        """Rows and columns of image tokens."""
        rows, columns = self.model.model.vqmodel.quantize.quant_state_dims
        return int(rows), int(columns)

    @property
    def num_image_tokens(self) -> int:
        """N, the number of image tokens of one image. It is fixed for a model."""
        rows, columns = self.image_grid
        return rows * columns

    @property
    def device(self) -> torch.device:
        return self.model.lm_head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.lm_head.weight.dtype

    # The five operations

    def embed(self, ids_BL: Tensor, is_image_BL: Tensor) -> Tensor:
        """Input embeddings B L D. An id is an image token where ``is_image_BL``, else text."""
        text_BLD = self.embed_text(ids_BL.masked_fill(is_image_BL, 0))
        image_BLD = self.embed_image(ids_BL.masked_fill(~is_image_BL, 0))
        return torch.where(is_image_BL.unsqueeze(-1), image_BLD, text_BLD)

    def embed_text(self, ids_BL: Tensor) -> Tensor:
        """Text embeddings, B L D."""
        return self.model.model.language_model.embed_tokens(ids_BL)

    def embed_image(self, ids_BL: Tensor) -> Tensor:
        """Image-token embeddings through the generation aligner, B L D."""
        return self.model.prepare_embeddings_for_image_generation(ids_BL)

    def hidden_states(
        self,
        embeddings_BLD: Tensor,
        attention_mask: Tensor | None = None,
        position_ids_BL: Tensor | None = None,
        cache: Any = None,
    ) -> Tensor:
        """Final hidden states, B L D.

        ``attention_mask`` is B x (cached + L) with 1 at real tokens, or an additive mask of shape
        B x 1 x L x (cached + L). ``None`` is correct when all padding lies behind the real tokens,
        because causal attention never looks there.
        """
        output = self.model.model.language_model(
            inputs_embeds=embeddings_BLD,
            attention_mask=attention_mask,
            position_ids=position_ids_BL,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return output.last_hidden_state

    def text_logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits over the text vocabulary, float32."""
        return head_logits(hidden, self.model.lm_head)

    def image_features(self, hidden: Tensor) -> Tensor:
        """The input of the image head's last linear layer; the layers before are not linear."""
        head = self.model.model.generation_head
        return head.activation_fn(head.proj_out(hidden))

    def image_logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits over the image codebook, float32."""
        return head_logits(
            self.image_features(hidden), self.model.model.generation_head.vision_head
        )

    @torch.no_grad()
    def decode(self, image_ids_BN: Tensor) -> NDArray[np.uint8]:
        """Pixels of the image tokens: uint8 RGB, B H W 3. Janus truncates, so this does too."""
        pixels = self.model.decode_image_tokens(image_ids_BN)
        scaled = ((pixels.float() + 1.0) * 127.5).clamp(0, 255)
        return scaled.to(torch.uint8).cpu().numpy()

    # Parts by name

    def trained_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names (as in the checkpoint) and tensors of the trained weights, in a fixed order."""
        for name, parameter in self.model.named_parameters():
            if name.startswith(TRAINED_PREFIXES):
                yield name, parameter

    def frozen_reference(self, whole: bool = False) -> JanusPolicy:
        """A policy with a frozen copy of the trained weights. It shares the frozen weights, or,
        if ``whole``, has a copy of these too.

        The text embeddings are part of the copy. The KL therefore also shows how far training
        moves the embeddings.

        The reference takes over the memory of the weights, and this policy gets the copy. That
        memory may be a checkpoint's file, mapped, which all processes of a machine share until
        somebody writes. Training writes, and the reference never does.
        """
        shared = {id(p): p for _, p in self.model.named_parameters() if not p.requires_grad}
        reference = copy.deepcopy(self, memo={} if whole else dict(shared))
        for own, its in zip(self.parameters(), reference.parameters(), strict=True):
            own.data, its.data = its.data, own.data
        return reference.requires_grad_(False)

"""CLIP as open_clip writes and computes it: its parameter names, and its forward pass in short."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import CLIPConfig


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, inner), gelu=nn.GELU(), c_proj=nn.Linear(inner, width)
            )
        )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class _Transformer(nn.Module):
    def __init__(self, width: int, layers: int, heads: int, inner: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(_Block(width, heads, inner) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for block in self.resblocks:
            x = block(x, mask)
        return x


class _Visual(nn.Module):
    def __init__(self, width: int, layers: int, heads: int, inner: int, size: int, patch: int,
                 projected: int) -> None:  # fmt: skip
        super().__init__()
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn((size // patch) ** 2 + 1, width))
        self.proj = nn.Parameter(torch.randn(width, projected))
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = _Transformer(width, layers, heads, inner)
        self.ln_post = nn.LayerNorm(width)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat((self.class_embedding.expand(len(x), 1, -1), x), dim=1)
        x = self.transformer(self.ln_pre(x + self.positional_embedding))
        return self.ln_post(x[:, 0]) @ self.proj


class OpenClip(nn.Module):
    """The model that ``HPS_v2.1_compressed.pt`` holds, at the sizes of ``config``."""

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        vision, text = config.vision_config, config.text_config
        self.positional_embedding = nn.Parameter(
            torch.randn(text.max_position_embeddings, text.hidden_size)
        )
        self.text_projection = nn.Parameter(torch.randn(text.hidden_size, config.projection_dim))
        self.logit_scale = nn.Parameter(torch.tensor(4.6))
        self.visual = _Visual(
            vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads,
            vision.intermediate_size, vision.image_size, vision.patch_size, config.projection_dim,
        )  # fmt: skip
        self.token_embedding = nn.Embedding(text.vocab_size, text.hidden_size)
        self.transformer = _Transformer(
            text.hidden_size, text.num_hidden_layers, text.num_attention_heads,
            text.intermediate_size,
        )  # fmt: skip
        self.ln_final = nn.LayerNorm(text.hidden_size)

    @torch.no_grad()
    def cosine(self, pixels: Tensor, ids: Tensor) -> Tensor:
        """Of images B 3 H W and texts B T, which end with the highest id."""
        length = ids.shape[1]
        mask = torch.full((length, length), float("-inf")).triu(1)
        x = self.transformer(self.token_embedding(ids) + self.positional_embedding[:length], mask)
        x = self.ln_final(x)[torch.arange(len(ids)), ids.argmax(1)] @ self.text_projection
        return (normalize(self.visual(pixels), dim=-1) * normalize(x, dim=-1)).sum(-1)

"""The token step: equal to transformers' own forward pass, for every shape of Llama attention.

The steps of fixed shape run here as they are written. On a GPU they are recorded as graphs, which
``benchmarks.gpu_check`` compares.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from rollout import graphed_steps
from rollout.decode_step import decode_step
from rollout.kv_cache import PreallocatedCache

ROWS, PREFIX, STEPS = 3, 4, 5
ROPE = dict(
    rope_type="llama3",
    rope_theta=10_000.0,
    factor=4.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=8,
)


@pytest.mark.parametrize(
    "kind",
    [
        dict(num_key_value_heads=4),
        dict(num_key_value_heads=2, attention_bias=True, mlp_bias=True),
        dict(num_key_value_heads=1, head_dim=6),
        dict(num_key_value_heads=4, rope_parameters=ROPE),
    ],
    ids=["plain", "grouped with biases", "one key head of odd size", "scaled rotation"],
)
@torch.no_grad()
def test_steps_equal_one_forward_pass_over_the_whole_rows(
    kind: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prefill and then one token at a time, with a row that is padded in front.

    So do steps of fixed shape, whose slots hold NaN before they are filled, with more graphs than
    one.
    """
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        vocab_size=8, max_position_embeddings=64, **kind,
    )  # fmt: skip
    model: Any = LlamaModel(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            parameter.normal_(std=0.3)
    length = PREFIX + STEPS
    embedding_RLD = torch.randn(ROWS, length, 32)
    padding_R = torch.tensor([0, 2, 0])
    slot_L = torch.arange(length)
    position_RL = (slot_L - padding_R.unsqueeze(1)).clamp(min=0)
    unseen_RLL = (slot_L > slot_L.unsqueeze(1)) | (slot_L < padding_R.view(-1, 1, 1))
    unseen_RLL = unseen_RLL & ~torch.eye(length, dtype=torch.bool)
    mask_R1LL = torch.zeros(unseen_RLL.shape).masked_fill(unseen_RLL, -torch.inf).unsqueeze(1)

    def forward(until: int, cache: PreallocatedCache | None = None) -> torch.Tensor:
        return model(
            inputs_embeds=embedding_RLD[:, :until],
            attention_mask=mask_R1LL[:, :, :until, :until],
            position_ids=position_RL[:, :until],
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state

    expected_RLD = forward(length)
    cache = PreallocatedCache(num_layers=2, capacity=length)
    forward(PREFIX, cache)
    for place in range(PREFIX, length):
        hidden_RD = decode_step(
            model,
            embedding_RLD[:, place],
            mask_R1LL[:, :, place : place + 1, : place + 1],
            position_RL[:, place : place + 1],
            cache.rows,
        )
        torch.testing.assert_close(hidden_RD, expected_RLD[:, place], rtol=1e-5, atol=1e-5)

    monkeypatch.setattr(graphed_steps, "SLOTS_PER_GRAPH", 2)
    monkeypatch.setattr(graphed_steps, "recorded", lambda step: step)
    cache = PreallocatedCache(num_layers=2, capacity=length)
    forward(PREFIX, cache)
    for layer in cache.rows:
        layer.keys[:, :, PREFIX:] = layer.values[:, :, PREFIX:] = torch.nan
    mask_R11L = torch.zeros(ROWS, length).masked_fill(slot_L < padding_R.unsqueeze(1), -torch.inf)
    steps = graphed_steps.GraphedSteps(model, cache, mask_R11L[:, None, None], padding_R)
    for place in range(PREFIX, length):
        hidden_RD = steps.step(embedding_RLD[:, place])
        torch.testing.assert_close(hidden_RD, expected_RLD[:, place], rtol=1e-5, atol=1e-5)
    assert cache.filled == length

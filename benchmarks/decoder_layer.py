"""Processor time of one decoder layer at Janus-Pro-1B's sizes, in float32 and in bfloat16.

    python -m benchmarks.decoder_layer

It has one thread, and its weights are frozen, as an adapter's base is. A figure is the best of
three calls. A processor without instructions for bfloat16 may take longer for it than for float32.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch
from torch import nn
from transformers import LlamaConfig, LlamaModel

from policy.checkpoint.public_models import public_original_config
from policy.runtime import tune_process

SHAPES = ((4, 1, False), (2, 300, False), (2, 300, True))  # rows, tokens of each, and backward


def main(arguments: list[str] | None = None) -> int:
    what, command, how = (part.strip() for part in __doc__.split("\n\n"))
    argparse.ArgumentParser(
        "python -m benchmarks.decoder_layer",
        description=what,
        epilog=f"example:\n    {command}\n\n{how}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args(arguments)
    tune_process(threads=1)
    print("| tokens | float32, ms | bfloat16, ms |\n|---|---|---|")
    layers = [_layer(dtype) for dtype in (torch.float32, torch.bfloat16)]
    for rows, length, backward in SHAPES:
        taken = [_seconds(layer, rows, length, backward) * 1e3 for layer in layers]
        ways = "forward and backward" if backward else "forward"
        print(f"| {rows} rows of {length}, {ways} | {taken[0]:,.0f} | {taken[1]:,.0f} |")
    return 0


def _layer(dtype: torch.dtype) -> LlamaModel:
    sizes = public_original_config("Janus-Pro-1B")["language_config"]
    config = LlamaConfig(
        hidden_size=sizes["hidden_size"],
        intermediate_size=sizes["intermediate_size"],
        num_attention_heads=sizes["num_attention_heads"],
        num_hidden_layers=1,
        vocab_size=4,
    )
    layer = LlamaModel(config).requires_grad_(False)
    nn.Module.to(layer, dtype)
    return layer


def _seconds(layer: LlamaModel, rows: int, length: int, backward: bool) -> float:
    best = float("inf")
    for _ in range(3):
        inputs = torch.randn(
            rows, length, layer.config.hidden_size, dtype=layer.dtype, requires_grad=backward
        )
        start = time.process_time()
        with torch.set_grad_enabled(backward):
            output = layer(inputs_embeds=inputs, use_cache=False).last_hidden_state
            if backward:
                output.float().sum().backward()
        best = min(best, time.process_time() - start)
    return best


if __name__ == "__main__":
    sys.exit(main())

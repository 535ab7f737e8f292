"""Trains the VQ decoder to turn codes into the patches that they stand for.

Only the codebook and the decoder are trained. The encoder is not needed, because
``shapes.build.codes.tokenise`` finds the codes of an image exactly.

Shape legend: B = images, N = image tokens, H W = pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from torch import nn
from transformers.models.janus.modeling_janus import JanusVQVAE

from shapes.build.codes import GRID, add_grain, draw, looks_of
from shapes.scenes import sample_request, sample_scene
from shapes.world import HELD_OUT_KINDS, PATCH, SEEN_KINDS

BATCH, LEARNING_RATE, FOREGROUND_WEIGHT = 32, 4e-3, 3.0


def train_decoder(
    vq: JanusVQVAE, steps: int, seed: int, report: Callable[[int, str], None], scenes: int = 3000
) -> float:
    """Train the decoder of ``vq`` in place. Returns its mean squared error in grey levels².

    The error is a running average over the last steps. The decoder sees all kinds, held-out ones
    too: the image tokenizer of a real model has also seen more images than its policy has.
    """
    rng = np.random.default_rng(seed)
    pairs = (*SEEN_KINDS, *HELD_OUT_KINDS)
    looks = np.stack(
        [looks_of(sample_scene(sample_request(rng, pairs), rng)) for _ in range(scenes)]
    )
    codebook = vq.quantize.embedding.weight
    trained = [codebook.requires_grad_(True)]
    trained += [*vq.post_quant_conv.parameters(), *vq.decoder.parameters()]
    optimizer = torch.optim.Adam(trained, lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    smooth_error = 0.0
    for step in range(steps):
        looks_BN = looks[rng.integers(scenes, size=BATCH)]
        codes_BN = add_grain(looks_BN, rng, band=None)
        target_BHW3 = torch.from_numpy(draw(codes_BN)).float() / 127.5 - 1
        objects_BHW = np.kron((looks_BN != 0).reshape(-1, GRID, GRID), np.ones((PATCH, PATCH)))
        weight_BHW1 = 1 + (FOREGROUND_WEIGHT - 1) * torch.from_numpy(objects_BHW).float()[..., None]
        ids_BN = cast(torch.LongTensor, torch.from_numpy(codes_BN))
        pixels_BHW3 = vq.decode(ids_BN).permute(0, 2, 3, 1)
        error_BHW3 = (pixels_BHW3 - target_BHW3) ** 2
        loss = (error_BHW3 * weight_BHW1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        error = float(error_BHW3.detach().mean()) * 127.5**2
        smooth_error = error if step == 0 else 0.98 * smooth_error + 0.02 * error
        report(step + 1, f"decoder error {smooth_error:.1f} grey levels²")
    codebook.requires_grad_(False).copy_(nn.functional.normalize(codebook, dim=-1))
    return smooth_error

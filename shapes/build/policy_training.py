"""Pretrains the policy by supervised learning of the CoT tokens and the image tokens.

Shape legend: R = image rows of a batch, B = rows, L = positions, N = image tokens, D = hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from policy.encoding import PromptEncoder, unconditional_twin
from policy.janus import JanusPolicy
from shapes.build.codes import add_grain
from shapes.build.examples import Rows, make_example, padded_rows

NOISE = 0.4  # share of scenes with one error
IMAGE_ROWS, TEXT_ROWS = 32, 16  # rows of a batch that learn image tokens and CoT tokens
TEXT_WEIGHT = 0.3  # weight of the CoT loss; that of the image loss is 1
WARM_UP, DECAY_FROM = 30, 0.4  # linear decay over the last 60 %
_FROZEN = ("vqmodel", "vision_model", "aligner", "generation_embeddings", "vision_head")


@dataclass(frozen=True)
class Recipe:
    """What differs between the training of the two shipped checkpoints."""

    learning_rate: float  # the peak
    prompt_dropout: float  # share of image rows without their prompt; guidance needs such training
    # Share of image rows that show the picture of another scene. The policy then learns a mixture
    # of what the prompt asks for and of any picture, and guidance takes the second part away.
    wrong_pictures: float = 0.0


PRETRAINING = Recipe(learning_rate=3e-3, prompt_dropout=0.1)


def train_policy(
    policy: JanusPolicy,
    encoder: PromptEncoder,
    steps: int,
    seed: int,
    report: Callable[[int, str], None],
    scenes: int = 16_000,
    recipe: Recipe = PRETRAINING,
) -> None:
    """Train the policy in place. The parts in ``_FROZEN`` stay as they are."""
    rng = np.random.default_rng(seed)
    examples = [make_example(encoder, NOISE, rng) for _ in range(scenes)]
    trained = []
    for name, parameter in policy.model.named_parameters():
        parameter.requires_grad_(not any(part in name.split(".") for part in _FROZEN))
        trained += [parameter] if parameter.requires_grad else []
    optimizer = torch.optim.AdamW(
        trained, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    image_loss_mean = 0.0
    for step in range(steps):
        chosen = [examples[i] for i in rng.integers(scenes, size=IMAGE_ROWS + TEXT_ROWS)]
        prompts = [
            unconditional_twin(example.image_prompt_ids, encoder.special)
            if rng.random() < recipe.prompt_dropout
            else example.image_prompt_ids
            for example in chosen[:IMAGE_ROWS]
        ]
        looks_RN = np.stack([example.looks for example in chosen[:IMAGE_ROWS]])
        if recipe.wrong_pictures:
            wrong_R = rng.random(IMAGE_ROWS) < recipe.wrong_pictures
            others = rng.integers(scenes, size=int(wrong_R.sum()))
            looks_RN[wrong_R] = [examples[i].looks for i in others]
        codes = add_grain(looks_RN, rng)
        image_rows = padded_rows(prompts, list(codes), encoder.special.pad, tokens_are_image=True)
        text_rows = padded_rows(
            [example.cot_prompt_ids for example in chosen[IMAGE_ROWS:]],
            [example.cot_ids for example in chosen[IMAGE_ROWS:]],
            encoder.special.pad,
            tokens_are_image=False,
        )
        image_loss = _cross_entropy(policy, image_rows, policy.image_logits)
        text_loss = _cross_entropy(policy, text_rows, policy.text_logits)
        optimizer.zero_grad()
        (image_loss + TEXT_WEIGHT * text_loss).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        loss = image_loss.item()
        image_loss_mean = loss if step == 0 else 0.98 * image_loss_mean + 0.02 * loss
        report(step + 1, f"image loss {image_loss_mean:.3f}, text loss {text_loss.item():.3f}")


def _cross_entropy(policy: JanusPolicy, rows: Rows, head: Callable[[Tensor], Tensor]) -> Tensor:
    hidden_BLD = policy.hidden_states(policy.embed(rows.ids_BL, rows.is_image_BL)[:, :-1])
    predicted_BL = rows.predicted_BL[:, 1:]
    return nn.functional.cross_entropy(
        head(hidden_BLD[predicted_BL]), rows.ids_BL[:, 1:][predicted_BL]
    )


def _rate(step: int, steps: int) -> float:
    left = (steps - step) / (steps * (1 - DECAY_FROM))
    return min(1.0, (step + 1) / WARM_UP, left)

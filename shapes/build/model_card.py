"""The model cards of the shapes checkpoints."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Sequence
from typing import Any

import torch
import transformers

from shapes.build.measure import column_name
from shapes.build.policy_training import NOISE, Recipe

_TEXT = """\
# A tiny Janus that draws coloured shapes

The pretrained policy of the embedded default: transformers' `JanusForConditionalGeneration` with
{parameters:,} parameters, 8 x 8 image tokens of a codebook of 512, 32 x 32 pixels. {noise:.0%} of
the scenes it learned from have one error, so it draws fairly well, but not quite what it is asked
for: that is what RL is to improve.

- Built by `python -m shapes.build.pretrain --seed {seed}` in {minutes:.0f} minutes of training on a
  {machine}.
- Prompt template `shapes`. Guidance 1 for RL.
- Licence: that of this project. The training data are drawn by the code.

## Held-out pairs
The policy was pretrained without six colour-shape pairs (`shapes.world.HELD_OUT_KINDS`): they are
in none of its prompts, CoTs or images, but every colour and every shape is. The VQ decoder is the
image tokenizer and has seen all pairs. The rows of the codes in the image head and in the image
embeddings are sums of colour, pattern and grain (`shapes.build.tiny_janus`), so that training
does not make the codes of held-out pairs impossible.

## Figures
From `python -m shapes.build.measure`: 96 prompts x 4 samples a column, one seed. The standard error
takes prompts as units. Entropies are conditional, divided by log V. The reward is
0.4 attributes + 0.4 structure + 0.2 cleanliness; strict asks for everything at once.

{table}

800 ground-truth scenes of all pairs, coded and decoded: reward {decoder[reward]:.3f}, strict
{decoder[strict]:.3f}.
"""

_MIXED_TEXT = """\
# The shapes world in which guidance matters

The checkpoint of `shapes/checkpoint`, fine-tuned so that it needs guidance, as large models do.
{wrong:.0%} of the images it was fine-tuned on belong to another scene than their prompt. Without
guidance it draws a mixture of what it is asked for and of any picture; guidance takes the second
part away, and too much guidance harms. Everything else (tokenizer, template, image tokenizer,
held-out pairs, licence) is as the card of `shapes/checkpoint` says.

- Built by `python -m shapes.build.mixed --seed {seed}` in {minutes:.1f} minutes of training on a
  {machine}.
- {steps} steps as in pretraining, with new scenes, the learning rate {rate:g} and the prompt
  dropout {dropout:g}. The CoT rows are as in pretraining.
- `eg-grpo train configs/shapes.yaml model.path=shapes/mixed_checkpoint` trains it.

## Figures
From `python -m shapes.build.measure shapes/mixed_checkpoint --guidance {scales}`: 96 prompts x
4 samples a row and a set, one seed; reward ± standard error with prompts as units. Strict asks for
everything at once. The image entropy is conditional, divided by log V.

{table}
"""


def mixed_card(
    figures: dict[str, dict[str, Any]],
    guidance_scales: Sequence[float],
    recipe: Recipe,
    steps: int,
    seed: int,
    minutes: float,
) -> str:
    """The card of the second checkpoint. ``figures`` is the result of ``shapes.build.measure``."""
    header = ["guidance"]
    for stem in ("seen", "held-out"):
        header += [f"{stem}: reward", "strict", "image entropy"]
    rows = [header, ["---"] * len(header)]
    for scale in guidance_scales:
        row = [f"{scale:g}"]
        for stem in ("seen", "held_out"):
            found = figures[column_name(stem, scale)]
            reward = f"{found['reward']:.3f} ± {found['reward standard error']:.3f}"
            row += [reward, _cell(found["strict"]), _cell(found["image entropy"])]
        rows.append(row)
    return _MIXED_TEXT.format(
        wrong=recipe.wrong_pictures,
        rate=recipe.learning_rate,
        dropout=recipe.prompt_dropout,
        steps=steps,
        seed=seed,
        minutes=minutes,
        machine=_machine(),
        scales=" ".join(f"{scale:g}" for scale in guidance_scales),
        table="\n".join(f"| {' | '.join(row)} |" for row in rows),
    )


def model_card(
    figures: dict[str, dict[str, Any]], parameters: int, seed: int, minutes: float
) -> str:
    """The card as Markdown. ``figures`` is the result of ``shapes.build.measure``."""
    return _TEXT.format(
        parameters=parameters,
        noise=NOISE,
        seed=seed,
        minutes=minutes,
        machine=_machine(),
        table=_table({name: part for name, part in figures.items() if name != "decoder"}),
        decoder=figures["decoder"],
    )


def _machine() -> str:
    """The machine, the date and the versions of a training."""
    return (
        f"machine with {os.cpu_count()} cores ({platform.machine()}), one thread per process, on"
        f" {datetime.date.today().isoformat()}; torch\n  {torch.__version__}, transformers"
        f" {transformers.__version__}"
    )


def _table(columns: dict[str, dict[str, Any]]) -> str:
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for row in next(iter(columns.values())):
        cells = [_cell(column[row]) for column in columns.values()]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(value: float | list[float]) -> str:
    if isinstance(value, list):
        return " / ".join(f"{part:.2f}" for part in value)
    return f"{value:.3f}"

"""The model card of a shapes checkpoint."""

from __future__ import annotations

import datetime
import os
import platform
from typing import Any

import torch
import transformers

from shapes.build.policy_training import NOISE

_TEXT = """\
# A tiny Janus that draws coloured shapes

The pretrained policy of the embedded default: transformers' `JanusForConditionalGeneration` with
{parameters:,} parameters, 8 x 8 image tokens of a codebook of 512, 32 x 32 pixels. {noise:.0%} of
the scenes it learned from have one error, so it draws fairly well, but not quite what it is asked
for: that is what RL is to improve.

- Built by `python -m shapes.build.pretrain --seed {seed}` in {minutes:.0f} minutes of training on a
  machine with {cores} cores ({machine}), one thread per process, on {date}; torch {torch},
  transformers {transformers}.
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


def model_card(
    figures: dict[str, dict[str, Any]], parameters: int, seed: int, minutes: float
) -> str:
    """The card as Markdown. ``figures`` is the result of ``shapes.build.measure``."""
    return _TEXT.format(
        parameters=parameters,
        noise=NOISE,
        seed=seed,
        minutes=minutes,
        cores=os.cpu_count(),
        machine=platform.machine(),
        date=datetime.date.today().isoformat(),
        torch=torch.__version__,
        transformers=transformers.__version__,
        table=_table({name: part for name, part in figures.items() if name != "decoder"}),
        decoder=figures["decoder"],
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

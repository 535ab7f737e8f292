"""What a run costs in forward passes of the language model, which no machine changes.

A backward pass counts as two. With them the preregistration says what *equal time* is.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.experiments import distil
from benchmarks.experiments.arms import Arm
from orchestrator.settings.run_config import RunConfig

# An image of the distillation: drawn with guidance (2), the teacher with guidance (2), trained (3).
DISTILLED_IMAGE = 7


def passes_per_image(config: RunConfig, step: int) -> int:
    """To draw, for the reference and to train, of an image of a training step counted from 0.

    Guidance needs the unconditional twin too, and so does a guided distribution that is trained.
    """
    guided = config.training_sampling(step).guidance_scale != 1
    twin = 2 if guided and config.algorithm.trained_distribution == "guided" else 1
    draw, reference, train = (2 if guided else 1), twin, 3 * twin
    return draw + reference + train


def passes(arm: Arm) -> int:
    """Of a whole run, with its distillation but without evaluations."""
    config = arm.cell(0).config(Path())
    images = config.prompts_per_step * config.rollout.group_size
    trained = sum(images * passes_per_image(config, step) for step in range(arm.steps))
    distilled = distil.STEPS * distil.PROMPTS * distil.SAMPLES if arm.distilled else 0
    return trained + DISTILLED_IMAGE * distilled

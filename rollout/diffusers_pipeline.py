"""Draws with a text-to-image pipeline of diffusers, to measure other models beside ours.

diffusers is optional: the extra ``diffusers`` installs it. Any pipeline that diffusers builds from
a folder or a Hub id can be used, such as SD-1.5, PixArt-α or FLUX.1-dev.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from policy.errors import RunFailed, UserError
from policy.extras import install_command


@dataclass(frozen=True)
class PipelineSettings:
    """How a pipeline draws. None leaves a value to the pipeline."""

    model: str  # folder, or id on the Hugging Face Hub
    steps: int | None
    guidance_scale: float | None
    dtype: str = "float32"
    device: str = "cpu"
    filtered: bool = True  # with the filter that some pipelines bring, such as SD-1.5


class DiffusersPipeline:
    """A pipeline that is loaded. Each image has a seed of its own."""

    def __init__(self, settings: PipelineSettings) -> None:
        """Raises ``UserError`` when diffusers is not installed or cannot load the model."""
        try:
            from diffusers import AutoPipelineForText2Image
        except ImportError:
            raise UserError(
                "--diffusers needs diffusers, which is not installed:"
                f" {install_command('diffusers')}"
            ) from None
        try:
            pipeline = AutoPipelineForText2Image.from_pretrained(
                settings.model, dtype=getattr(torch, settings.dtype)
            )
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"--diffusers: {settings.model} cannot be loaded: {reason}") from None
        self._pipeline: Any = pipeline.to(settings.device)
        if not settings.filtered:
            self._pipeline.safety_checker = None
        self._pipeline.set_progress_bar_config(disable=True)
        asked = {
            "num_inference_steps": settings.steps,
            "guidance_scale": settings.guidance_scale,
        }
        self._arguments = {name: value for name, value in asked.items() if value is not None}

    def draw(self, prompt: str, seeds: Sequence[int]) -> list[NDArray[np.uint8]]:
        """One image (uint8 H W 3) for each seed, drawn together.

        Raises ``RunFailed`` when the pipeline's own filter has blackened an image: its score would
        be that of a black square.
        """
        # Noise is drawn on the CPU, so that another device draws from the same.
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        drawn = self._pipeline(
            prompt,
            num_images_per_prompt=len(seeds),
            generator=generators,
            output_type="np",
            **self._arguments,
        )
        if any(getattr(drawn, "nsfw_content_detected", None) or ()):
            raise RunFailed(
                f"the pipeline's filter has removed an image of {prompt!r}; --no-filter draws"
                " without it"
            )
        return [np.asarray((image * 255).round(), dtype=np.uint8) for image in drawn.images]

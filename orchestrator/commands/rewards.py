"""``eg-grpo rewards test``: scores one image with a configuration's rewards, without a cluster."""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from orchestrator.settings.run_config import RunConfig, load_config
from policy.errors import RunFailed, UserError
from policy.prompts import load_prompts
from policy.types import Prompt, RewardFailure, RewardResult
from rewards.in_process import scorer_in_process
from rewards.totals import weighted_totals

if TYPE_CHECKING:
    from numpy.typing import NDArray


def run(parsed: argparse.Namespace) -> None:
    """Print each reward's score with its parts, then the total.

    Each reward is built in this process, one after another, with its ``env_vars``; packages of its
    ``runtime_env.pip`` must be installed here. Raises ``UserError`` when the image cannot be read
    or a reward cannot be built, and ``RunFailed`` when one gives no score.
    """
    config = load_config(parsed.config, parsed.overrides)
    image = _image(parsed.image)
    prompt = _prompt(config, parsed.prompt)
    print(f"prompt {prompt.id}{f' ({prompt.task_type})' if prompt.task_type else ''}")
    results: dict[str, tuple[RewardResult, ...]] = {}
    for reward in config.rewards:
        with scorer_in_process(reward) as scorer:
            (result,) = scorer.score([image], [prompt])
        results[reward.name] = (result,)
        print(f"{reward.name}: {_text(result)}, weight {reward.weight:g}", flush=True)
    (total,) = weighted_totals(results, {reward.name: reward.weight for reward in config.rewards})
    if total is None:
        failed = [name for name, (of,) in results.items() if isinstance(of, RewardFailure)]
        raise RunFailed(f"no score from {', '.join(failed)}")
    print(f"total: {total:.4f}")


def _image(path: Path) -> NDArray[np.uint8]:
    """The pixels of an image file (H W 3)."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise UserError(f"--image: {path} does not exist") from None
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise UserError(f"--image: {path} cannot be read as an image: {error}") from None


def _prompt(config: RunConfig, text: str) -> Prompt:
    """The prompt of this text in the configuration's files, with the objects that it asks for.

    Some rewards need those. A text that is in no file becomes a prompt without them.
    """
    for file in (config.data.train, *config.data.evaluation.values()):
        with suppress(UserError):  # a reward can be tested before the prompts are downloaded
            for prompt in load_prompts(file):
                if prompt.text == text:
                    return prompt
    return Prompt(id="of no prompt file: its objects are unknown", text=text, task_type="")


def _text(result: RewardResult) -> str:
    if isinstance(result, RewardFailure):
        return f"failed: {result.reason}"
    parts = "".join(f", {part} {value:.4f}" for part, value in (result.detail or {}).items())
    return f"{result.value:.4f}{'' if result.applicable else ' (does not apply)'}{parts}"

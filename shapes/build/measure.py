"""Measures the figures of a model card: ``python -m shapes.build.measure``.

``python -m shapes.build.measure shapes/mixed_checkpoint --guidance 1 1.5 2 3 4`` measures those of
the second checkpoint.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import JanusForConditionalGeneration, PreTrainedTokenizerFast

from policy.encoding import PromptEncoder
from policy.janus import JanusPolicy
from policy.prompts import load_prompts
from policy.runtime import tune_process
from policy.templates import template_named
from policy.types import Prompt
from shapes.build.codes import add_grain, looks_of
from shapes.build.prompt_files import DATA
from shapes.build.samples import sample
from shapes.rewards import Judgement, judge
from shapes.scenes import Scene, sample_request, sample_scene
from shapes.world import HELD_OUT_KINDS, SEEN_KINDS

CHECKPOINT = Path(__file__).parents[1] / "checkpoint"
GUIDANCE_SCALES = (1.0, 2.0)
_PERCENTILES = (5, 25, 50, 75, 95)
_ROWS_AT_ONCE = 96


def load_checkpoint(folder: Path) -> tuple[JanusPolicy, PromptEncoder]:
    """The policy in float32 and the prompt encoder of a shapes checkpoint."""
    model = JanusForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    return JanusPolicy(model), PromptEncoder(tokenizer, template_named("shapes"))


def measure_samples(
    policy: JanusPolicy,
    encoder: PromptEncoder,
    prompts: Sequence[Prompt],
    samples: int,
    guidance_scale: float,
    seed: int,
) -> dict[str, Any]:
    """Rewards and normalised entropies of ``samples`` images for each prompt.

    Images of one prompt are not independent. The standard error is therefore that of the prompts'
    means.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = [prompt for prompt in prompts for _ in range(samples)]
    judgements: list[Judgement] = []
    image_entropies: list[NDArray[np.float32]] = []
    cot_entropies: list[NDArray[np.float32]] = []
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = rows[start : start + _ROWS_AT_ONCE]
        drawn = sample(policy, encoder, part, guidance_scale, generator)
        judgements += _judge_all(drawn.images, part)
        image_entropies.append(drawn.image_entropies_BN / math.log(policy.num_codes))
        cot_entropies += [row / math.log(policy.text_vocab_size) for row in drawn.cot_entropies]
    reward = np.array([j.total for j in judgements]).reshape(len(prompts), samples)
    image_entropy = np.concatenate(image_entropies)
    cot_entropy = np.concatenate(cot_entropies)
    return {
        "reward": float(reward.mean()),
        "reward standard error": float(reward.mean(1).std(ddof=1) / math.sqrt(len(prompts))),
        "reward std within prompts": float(reward.std(axis=1, ddof=1).mean()),
        "strict": float(np.mean([j.strict for j in judgements])),
        "attributes": float(np.mean([j.attributes for j in judgements])),
        "structure": float(np.mean([j.structure for j in judgements])),
        "cleanliness": float(np.mean([j.cleanliness for j in judgements])),
        "image entropy": float(image_entropy.mean()),
        "image entropy std": float(image_entropy.std()),
        f"image entropy percentiles {_PERCENTILES}": _percentiles(image_entropy),
        "CoT entropy": float(cot_entropy.mean()),
        "CoT entropy std": float(cot_entropy.std()),
        f"CoT entropy percentiles {_PERCENTILES}": _percentiles(cot_entropy),
    }


def measure_decoder(policy: JanusPolicy, count: int, seed: int) -> dict[str, float]:
    """Rewards of random scenes of all kinds, turned into codes and decoded by the policy."""
    rng = np.random.default_rng(seed)
    scenes: list[Scene] = [
        sample_scene(sample_request(rng, (*SEEN_KINDS, *HELD_OUT_KINDS)), rng) for _ in range(count)
    ]
    codes = torch.from_numpy(np.stack([add_grain(looks_of(scene), rng) for scene in scenes]))
    images = np.concatenate([policy.decode(part) for part in codes.split(_ROWS_AT_ONCE)])
    judgements = _judge_all(images, [scene.request.prompt() for scene in scenes])
    return {
        "strict": float(np.mean([j.strict for j in judgements])),
        "reward": float(np.mean([j.total for j in judgements])),
    }


def _judge_all(images: NDArray[np.uint8], prompts: Sequence[Prompt]) -> list[Judgement]:
    results = [judge(image, prompt) for image, prompt in zip(images, prompts, strict=True)]
    judgements = [result for result in results if isinstance(result, Judgement)]
    if len(judgements) < len(results):
        raise ValueError("a prompt file asks for what the shapes world cannot draw")
    return judgements


def _percentiles(values: NDArray[np.float32]) -> list[float]:
    return [round(float(value), 3) for value in np.percentile(values, _PERCENTILES)]


def measure_checkpoint(
    folder: Path, guidance_scales: Sequence[float] = GUIDANCE_SCALES
) -> dict[str, dict[str, Any]]:
    """All figures of a model card: of the decoder, and of each prompt file and guidance."""
    policy, encoder = load_checkpoint(folder)
    figures: dict[str, dict[str, Any]] = {"decoder": measure_decoder(policy, 800, seed=1)}
    for guidance in guidance_scales:
        for stem in ("seen", "held_out"):
            start = time.monotonic()
            prompts = load_prompts(DATA / f"{stem}.jsonl")
            name = column_name(stem, guidance)
            figures[name] = measure_samples(policy, encoder, prompts, 4, guidance, seed=123)
            print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr)
    return figures


def column_name(stem: str, guidance: float) -> str:
    """The name of the figures of one prompt file at one guidance scale."""
    return f"{stem}, guidance {guidance:g}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m shapes.build.measure", description=__doc__.splitlines()[0]
    )
    parser.add_argument("checkpoint", type=Path, nargs="?", default=CHECKPOINT)
    parser.add_argument("--guidance", type=float, nargs="+", default=GUIDANCE_SCALES)
    arguments = parser.parse_args()
    tune_process()
    print(json.dumps(measure_checkpoint(arguments.checkpoint, arguments.guidance), indent=2))


if __name__ == "__main__":
    main()

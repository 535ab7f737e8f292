"""Make the second checkpoint, whose policy needs guidance: ``python -m shapes.build.mixed``.

The shipped checkpoint draws almost as well without guidance as with it. To learn something about
guidance, this command fine-tunes it on images of which a share belongs to another scene than their
prompt (``shapes.build.policy_training.Recipe``). Then it measures the result and writes its card.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from policy.checkpoint.generation_defaults import GenerationDefaults, save_defaults
from policy.runtime import tune_process
from policy.sampling import Sampling
from shapes.build.measure import CHECKPOINT, load_checkpoint, measure_checkpoint
from shapes.build.model_card import mixed_card
from shapes.build.policy_training import Recipe, train_policy
from shapes.build.progress import progress
from shapes.build.samples import MAX_COT
from shapes.build.tiny_janus import build_tokenizer

MIXED_CHECKPOINT = CHECKPOINT.with_name("mixed_checkpoint")
GUIDANCE_SCALES = (1.0, 1.5, 2.0, 3.0, 4.0)  # of the card
FINE_TUNING = Recipe(learning_rate=1.5e-3, prompt_dropout=0.15, wrong_pictures=0.4)
STEPS, SCENES = 300, 8_000
SAMPLING = GenerationDefaults.of("shapes", None, Sampling(2.0, 1.0, MAX_COT))


def fine_tune(
    output: Path, seed: int, steps: int, report: Callable[[int, str], None], scenes: int = SCENES
) -> None:
    """Fine-tune the shipped checkpoint and save the result as a checkpoint."""
    policy, encoder = load_checkpoint(CHECKPOINT)
    train_policy(policy, encoder, steps, seed, report, scenes, FINE_TUNING)
    output.mkdir(parents=True, exist_ok=True)
    policy.model.save_pretrained(output)
    build_tokenizer().save_pretrained(output)
    save_defaults(output, SAMPLING)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m shapes.build.mixed", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--output", type=Path, default=MIXED_CHECKPOINT, help="checkpoint folder")
    parser.add_argument("--seed", type=int, default=20, help="pretraining had 0 (default: 20)")
    arguments = parser.parse_args()
    tune_process()
    start = time.monotonic()
    fine_tune(arguments.output, arguments.seed, STEPS, progress("policy", STEPS))
    minutes = (time.monotonic() - start) / 60
    print(f"trained in {minutes:.1f} min; measuring", flush=True)
    figures = measure_checkpoint(arguments.output, GUIDANCE_SCALES)
    card = mixed_card(figures, GUIDANCE_SCALES, FINE_TUNING, STEPS, arguments.seed, minutes)
    (arguments.output / "README.md").write_text(card, encoding="utf-8")
    print(f"checkpoint and model card: {arguments.output}")


if __name__ == "__main__":
    main()

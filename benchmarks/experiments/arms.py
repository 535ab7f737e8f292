"""The arms of the experiments: ways to train, each run with several seeds.

All arms of one seed share prompts, noise and fixed evaluations, so that they are compared in pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.cells import Cell

# Guidance hardly helps the checkpoint of the first world; that of the second one needs it.
WORLDS = {"plain": "shapes/checkpoint", "mixed": "shapes/mixed_checkpoint"}
METHODS = {
    "GRPO": ("algorithm.modalities=none",),
    "EG-GRPO as-code": ("base=configs/presets/as-code.yaml",),
    "EG-GRPO as-paper": ("base=configs/presets/as-paper.yaml",),
    "low mask alone": ("algorithm.bonus=none",),
}
SCALES = (1.0, 1.5, 2.0, 3.0)  # guidance scales of evaluation
STEPS = 40  # of an arm that says nothing else
ONE_TASK = "one-task.jsonl"  # training prompts of one task, in the root of the runs
TRAINED_TASK = "color"
# The checkpoints that ``distil`` makes, in the root of the runs: one for each seed.
DISTILLED = "distilled-s{seed}"


@dataclass(frozen=True)
class Arm:
    """A way to train; the cells of an arm differ by their seed alone."""

    name: str
    label: str  # in tables
    steps: int
    settings: tuple[str, ...]

    def cell(self, seed: int) -> Cell:
        return Cell(
            f"{self.name}-s{seed}",
            self.steps,
            (
                f"seed={seed}",
                "rollout.workers=1",
                "evaluation.every=1000",
                "evaluation.prompts=64",
                f"evaluation.guidance_scales={list(SCALES)}",
                *(setting.replace("{seed}", str(seed)) for setting in self.settings),
            ),
        )


def arm(
    world: str, guidance: float, trained: str, method: str, steps: int = STEPS, label: str = ""
) -> Arm:
    """Training in a world, sampled at a guidance scale, with a trained distribution and a method.

    At guidance 1 both trained distributions are the same, and ``trained`` is "conditional".
    """
    short = method.lower().replace(" ", "-")
    length = "" if steps == STEPS else f"-{steps}"
    return Arm(
        f"{world}-w{guidance:g}-{trained}-{short}{length}",
        label or method,
        steps,
        (
            f"model.path={WORLDS[world]}",
            f"rollout.guidance_scale={guidance}",
            f"algorithm.trained_distribution={trained}",
            *METHODS[method],
        ),
    )


def annealed_arm() -> Arm:
    """GRPO in the mixed world, whose guidance falls from 2 to 1 during the run."""
    base = arm("mixed", 2.0, "conditional", "GRPO")
    return Arm(
        "mixed-annealed-grpo",
        "GRPO, guidance from 2 down to 1, 40 steps",
        base.steps,
        (*base.settings, "rollout.final_guidance_scale=1"),
    )


def distilled_arm() -> Arm:
    """GRPO without guidance, from a checkpoint into which guidance was distilled with its seed."""
    base = arm("mixed", 1.0, "conditional", "GRPO")
    return Arm(
        "mixed-distilled-w1-grpo",
        "distillation, then GRPO without guidance, 40 steps",
        base.steps,
        (*base.settings, f"model.path={{root}}/{DISTILLED}"),
    )


def one_task_arm(method: str, learning_rate: float) -> Arm:
    """Long training on the prompts of one task, at guidance 1, in the plain world."""
    base = arm("plain", 1.0, "conditional", method, steps=120)
    return Arm(
        f"one-task-lr{learning_rate:g}-{base.name}",
        f"{method}, learning rate {learning_rate:g}",
        base.steps,
        (
            *base.settings,
            f"learner.learning_rate={learning_rate}",
            f"data.train={{root}}/{ONE_TASK}",
        ),
    )

"""The arms of the experiments: ways to train, each run with several seeds.

All arms of one seed share prompts, noise and fixed evaluations, so that they are compared in pairs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.cells import ROOT, Cell
from policy.disk import write_whole

# Guidance hardly helps the checkpoint of the first world; that of the second one needs it.
WORLDS = {"plain": "shapes/checkpoint", "mixed": "shapes/mixed_checkpoint"}
METHODS = {
    "GRPO": ("algorithm.modalities=none",),
    "EG-GRPO as-code": ("base=configs/presets/as-code.yaml",),
    "EG-GRPO as-paper": ("base=configs/presets/as-paper.yaml",),
    "low mask alone": ("algorithm.bonus=none",),
}
# Token methods of other papers (docs/methods.md).
TOKEN_METHODS = {
    name: (f"base=configs/methods/{name}.yaml",)
    for name in ("top-entropy", "similarity", "contrast", "critical")
}
SCALES = (1.0, 1.5, 2.0, 3.0)  # guidance scales of evaluation
STEPS = 40  # of an arm that says nothing else
DISTILLATION_WEIGHT = 0.1  # of the arms that distil while they train
TRAINING_PROMPTS = ROOT / "shapes" / "data" / "train.jsonl"
ONE_TASK = "one-task.jsonl"  # training prompts of one task, in the root of the runs
TRAINED_TASK = "color"
# The checkpoint that ``distil`` makes, in the root of the runs: one for each seed.
DISTILLED = "distilled-s{seed}"


@dataclass(frozen=True)
class Arm:
    """A way to train; the cells of an arm differ by their seed alone."""

    name: str
    label: str  # in tables
    world: str
    steps: int  # 0: the checkpoint itself is evaluated
    settings: tuple[str, ...]
    distilled: bool = False  # whether guidance is distilled into the checkpoint before
    every: int = 1000  # steps between evaluations; more than ``steps``: the end alone

    def cell(self, seed: int) -> Cell:
        return Cell(
            f"{self.name}-s{seed}",
            max(self.steps, 1),
            (
                f"seed={seed}",
                "rollout.workers=1",
                "learner.threads=1",  # two gave the same bits, and take the core of another run
                f"evaluation.every={self.every}",
                "evaluation.prompts=64",
                f"evaluation.guidance_scales={list(SCALES)}",
                *(setting.replace("{seed}", str(seed)) for setting in self.settings),
            ),
        )

    def evaluated_after(self) -> tuple[int, ...]:
        """The steps after which a run is evaluated; 0 is before training.

        A run that is evaluated at its end alone leaves 0 to ``before_arm``.
        """
        during = range(0, self.steps, self.every) if self.every <= self.steps else ()
        return (*during, self.steps)


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
        world,
        steps,
        (
            f"model.path={WORLDS[world]}",
            f"rollout.guidance_scale={guidance}",
            f"algorithm.trained_distribution={trained}",
            *(METHODS | TOKEN_METHODS)[method],
        ),
    )


def before_arm(world: str) -> Arm:
    """The checkpoint of a world before training, which is the same for all arms and seeds."""
    base = arm(world, 1.0, "conditional", "GRPO")
    return Arm(f"{world}-before", "before", world, 0, base.settings)


def annealed_arm() -> Arm:
    """GRPO in the mixed world, whose guidance falls from 2 to 1 during the run."""
    base = arm("mixed", 2.0, "conditional", "GRPO")
    return Arm(
        "mixed-annealed-grpo",
        "GRPO, guidance from 2 down to 1, 40 steps",
        base.world,
        base.steps,
        (*base.settings, "rollout.final_guidance_scale=1"),
    )


def weighted_arm(falling: bool) -> Arm:
    """GRPO in the mixed world with an explicit weight of distillation.

    Guidance stays at 2, or it is ``falling`` to 1 as in ``annealed_arm``.
    """
    base = annealed_arm() if falling else arm("mixed", 2.0, "conditional", "GRPO")
    return Arm(
        f"{base.name}-distilling",
        f"GRPO, guidance {'from 2 down to 1' if falling else '2'}, distillation weight"
        f" {DISTILLATION_WEIGHT}, 40 steps",
        base.world,
        base.steps,
        (*base.settings, f"algorithm.distillation_weight={DISTILLATION_WEIGHT}"),
    )


def distilled_arm() -> Arm:
    """GRPO without guidance, from a checkpoint into which guidance was distilled with its seed."""
    base = arm("mixed", 1.0, "conditional", "GRPO")
    return Arm(
        "mixed-distilled-w1-grpo",
        "distillation, then GRPO without guidance, 40 steps",
        base.world,
        base.steps,
        (*base.settings, f"model.path={{root}}/{DISTILLED}"),
        distilled=True,
    )


def forgetting_arm(method: str) -> Arm:
    """Training on the prompts of one task at a rate at which the others are forgotten."""
    base = one_task_arm(method, 2.4e-3, STEPS)
    return replace(base, settings=(*base.settings, "evaluation.guidance_scales=[1.0]"))


def one_task_arm(method: str, learning_rate: float, steps: int = 120) -> Arm:
    """Training on the prompts of one task, at guidance 1, in the plain world."""
    base = arm("plain", 1.0, "conditional", method, steps)
    return Arm(
        f"one-task-lr{learning_rate:g}-{base.name}",
        f"{method}, learning rate {learning_rate:g}",
        base.world,
        base.steps,
        (
            *base.settings,
            f"learner.learning_rate={learning_rate}",
            f"data.train={{root}}/{ONE_TASK}",
        ),
    )


def watched_arm(world: str, guidance: float, method: str) -> Arm:
    """The paper's arrangement, evaluated every ten steps at the guidance of sampling."""
    base = arm(world, guidance, "conditional", method)
    return replace(
        base,
        name=f"{base.name}-watched",
        settings=(*base.settings, f"evaluation.guidance_scales=[{guidance}]"),
        every=10,
    )


# The arms whose final weights are kept, for the analyses of entropies and diversity: GRPO and
# EG-GRPO where the bonus is a baseline, and where it is not.
WEIGHTS_KEPT = tuple(
    arm(world, guidance, "conditional", method)
    for world, guidance in (("plain", 1.0), ("mixed", 2.0))
    for method in ("GRPO", "EG-GRPO as-code")
)


def write_one_task(root: Path) -> None:
    """Write the training prompts of one task, for the study of what training on them forgets."""
    lines = TRAINING_PROMPTS.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if json.loads(line)["task_type"] == TRAINED_TASK]
    text, file = "".join(f"{line}\n" for line in kept), root / ONE_TASK
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        root.mkdir(parents=True, exist_ok=True)
        write_whole(file, text)

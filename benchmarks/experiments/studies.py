"""The registered studies: their arms, seeds and hypotheses, in the order in which they are run.

``docs/experiments/preregistration.md`` gives the reasons. A hypothesis is judged on the mean
difference of two arms over the seeds, paired by seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.experiments.arms import (
    METHODS,
    SCALES,
    STEPS,
    TOKEN_METHODS,
    TRAINED_TASK,
    Arm,
    annealed_arm,
    arm,
    before_arm,
    distilled_arm,
    forgetting_arm,
    one_task_arm,
    watched_arm,
    weighted_arm,
)

SEEDS = (11, 12, 13, 14, 15)  # no run before the registration used them
SCREENING_SEEDS = (21, 22, 23)  # of the token methods; what they choose is judged with others
CONFIRMATION_SEEDS = tuple(range(31, 39))
FORGETTING_SEEDS = tuple(range(51, 59))
AGAIN_SEEDS = (61, 62, 63, 64, 65)  # of the comparison that is made again
WATCHED_SEEDS = (41, 42, 43, 44, 45)  # of the runs that are evaluated during training
# The two methods that ``choose`` names after the screening. Nothing else changes with them.
CONFIRMED: tuple[str, ...] = ("contrast", "critical")
MARGIN = 0.03  # rewards that differ by less count as equal
UNTRAINED_TASKS = ("object", "spatial", "numeracy")

Expected = Literal["greater", "less", "equal", "not less"]


@dataclass(frozen=True)
class Outcome:
    """The reward of the set at an evaluation guidance, after a step of training.

    Of some tasks alone if they are named.
    """

    set: str
    scale: float
    tasks: tuple[str, ...] = ()
    step: int | None = None  # None: at the end

    def __str__(self) -> str:
        tasks = f", tasks {', '.join(self.tasks)}" if self.tasks else ""
        step = "" if self.step is None else f", step {self.step}"
        return f"{self.set.replace('_', '-')}, w = {self.scale:g}{tasks}{step}"


_ENDS = tuple(Outcome(name, scale) for name in ("seen", "held_out") for scale in SCALES)


@dataclass(frozen=True)
class Hypothesis:
    """``arm`` compared with ``base``: how its outcome minus that of the base is expected to be."""

    name: str
    arm: Arm
    base: Arm
    outcome: Outcome
    expected: Expected
    base_outcome: Outcome | None = None  # None: the same outcome


@dataclass(frozen=True)
class Study:
    """Arms that are run together, seed by seed."""

    name: str
    title: str
    arms: tuple[Arm, ...]
    hypotheses: tuple[Hypothesis, ...]
    seeds: tuple[int, ...] = SEEDS
    shown: tuple[Outcome, ...] = _ENDS  # the columns of its table

    def runs(self) -> list[tuple[Arm, int]]:
        """Arms and seeds, seed by seed, so that a stopped study has whole comparisons."""
        return [(arm, seed) for seed in self.seeds for arm in self.arms]

    @property
    def before(self) -> tuple[Arm, int]:
        """The evaluation of the world's checkpoint, which no seed changes: all studies share it."""
        return before_arm(self.arms[0].world), SEEDS[0]


def _grid(world: str, guidance: float, trained: str) -> dict[str, Arm]:
    return {method: arm(world, guidance, trained, method) for method in METHODS}


def _grid_study(
    world: str, guidance: float, trained: str, hypotheses: tuple[Hypothesis, ...]
) -> Study:
    trains = f", trained distribution {trained}" if guidance != 1 else ""
    return Study(
        f"{world}-w{guidance:g}-{trained}",
        f"World {world}, sampled at w = {guidance:g}{trains}",
        tuple(_grid(world, guidance, trained).values()),
        hypotheses,
    )


def _against_grpo(
    number: str, world: str, guidance: float, trained: str, method: str, scale: float,
    expected: Expected,
) -> Hypothesis:  # fmt: skip
    arms = _grid(world, guidance, trained)
    return Hypothesis(number, arms[method], arms["GRPO"], Outcome("seen", scale), expected)


def _distilled(number: str, world: str, guidance: float) -> tuple[Hypothesis, ...]:
    """The bonus puts guidance into the policy; guidance on top of it is then too much."""
    return tuple(
        _against_grpo(f"{number}{letter}", world, guidance, "conditional", method, scale, expected)
        for letter, method, scale, expected in (
            ("a", "EG-GRPO as-code", 1.0, "greater"),
            ("b", "EG-GRPO as-code", guidance, "less"),
            ("c", "EG-GRPO as-paper", 1.0, "greater"),
            ("d", "EG-GRPO as-paper", guidance, "less"),
            ("e", "low mask alone", 1.0, "equal"),
            ("f", "low mask alone", guidance, "equal"),
        )
    )


def _baseline(number: str, world: str, guidance: float, trained: str) -> tuple[Hypothesis, ...]:
    """Where the sampled distribution is trained, the bonus is a baseline and changes nothing."""
    return tuple(
        _against_grpo(f"{number}{letter}", world, guidance, trained, method, guidance, "equal")
        for letter, method in zip("abc", list(METHODS)[1:], strict=True)
    )


_GUIDED = arm("mixed", 2.0, "guided", "GRPO", label="GRPO with guidance 2, 40 steps")
_PAPER = arm("mixed", 2.0, "conditional", "GRPO", label="GRPO, the paper's arrangement, 40 steps")
_UNGUIDED = arm("mixed", 1.0, "conditional", "GRPO", label="GRPO without guidance, 40 steps")
_LONGER = arm("mixed", 1.0, "conditional", "GRPO", 80, "GRPO without guidance, 80 steps")
_ANNEALED, _DISTILLED = annealed_arm(), distilled_arm()
_WEIGHTED, _WEIGHTED_ANNEALED = weighted_arm(falling=False), weighted_arm(falling=True)
_PROTECTING = ("GRPO", "low mask alone", "EG-GRPO as-code")
_ONE_TASK = {
    (method, rate): one_task_arm(method, rate) for rate in (1.5e-4, 6e-4) for method in _PROTECTING
}
_FORGETTING = tuple(forgetting_arm(method) for method in _PROTECTING)
_OF_ONE_TASK = (
    Outcome("seen", 1.0, (TRAINED_TASK,)),
    Outcome("seen", 1.0, UNTRAINED_TASKS),
    Outcome("held_out", 1.0),
)


def _protection(number: str, method: str) -> tuple[Hypothesis, ...]:
    """The paper's claim that low masks protect: what was not trained on keeps its reward."""
    return tuple(
        Hypothesis(
            f"{number}{letter}",
            _ONE_TASK[method, rate],
            _ONE_TASK["GRPO", rate],
            Outcome(name, 1.0, tasks),
            "greater",
        )
        for letter, rate, name, tasks in (
            ("a", 1.5e-4, "seen", UNTRAINED_TASKS),
            ("b", 6e-4, "seen", UNTRAINED_TASKS),
            ("c", 6e-4, "held_out", ()),
        )
    )


def _again(number: str, world: str, guidance: float, trained: str, method: str) -> Study:
    """Whether a method that was seen above GRPO in a grid is so again, with other seeds."""
    arms = _grid(world, guidance, trained)
    outcome = Outcome("seen", guidance)
    return Study(
        f"again-{world}-w{guidance:g}-{trained}",
        f"World {world}, sampled at w = {guidance:g}, trained distribution {trained}: {method}"
        " again, with other seeds",
        (arms["GRPO"], arms[method]),
        (Hypothesis(number, arms[method], arms["GRPO"], outcome, "greater"),),
        AGAIN_SEEDS,
    )


def _watched(number: str, world: str, guidance: float) -> Study:
    """The paper's claim that EG-GRPO has a higher reward earlier (appendix D.2, Table 6)."""
    base, arm = (watched_arm(world, guidance, method) for method in ("GRPO", "EG-GRPO as-code"))
    steps = range(base.every, STEPS + 1, base.every)
    hypotheses = (
        Hypothesis(f"{number}{letter}", arm, base, Outcome("seen", guidance, (), step), "greater")
        for letter, step in zip("ab", steps[:2], strict=True)
    )
    return Study(
        f"watched-{world}-w{guidance:g}",
        f"World {world}, sampled and evaluated at w = {guidance:g}: reward and diversity during"
        " training",
        (base, arm),
        tuple(hypotheses),
        WATCHED_SEEDS,
        tuple(Outcome(name, guidance, (), step) for name in ("seen", "held_out") for step in steps),
    )


def confirmation(names: Sequence[str]) -> tuple[Study, ...]:
    """The study of the two methods that the screening has chosen; none before it has.

    Raises ``ValueError`` for anything but two token methods.
    """
    if not names:
        return ()
    if len(set(names)) != 2 or not set(names) <= set(TOKEN_METHODS):
        raise ValueError(f"expected two of {', '.join(TOKEN_METHODS)}, got {', '.join(names)}")
    base, *methods = (arm("mixed", 2.0, "guided", method) for method in ("GRPO", *names))
    hypotheses = (
        Hypothesis(f"H{number}{letter}", method, base, Outcome(name, 2.0), "greater")
        for number, method in zip((15, 16), methods, strict=True)
        for letter, name in (("a", "seen"), ("b", "held_out"))
    )
    return (
        Study(
            "confirmation",
            "World mixed, sampled at w = 2, trained distribution guided: the two methods chosen",
            (base, *methods),
            tuple(hypotheses),
            CONFIRMATION_SEEDS,
        ),
    )


SCREENING = Study(
    "token-methods",
    "World mixed, sampled at w = 2, trained distribution guided: screening of token methods",
    tuple(arm("mixed", 2.0, "guided", method) for method in ("GRPO", *TOKEN_METHODS)),
    (),
    SCREENING_SEEDS,
)
# Those that answer most with the fewest runs come first. Studies share arms: a run is made once.
STUDIES = (
    _grid_study("mixed", 2.0, "conditional", _distilled("H1", "mixed", 2.0)),
    Study(
        "unguided",
        "World mixed: does RL without guidance reach RL with it?",
        (_GUIDED, _PAPER, _UNGUIDED, _LONGER),
        (
            Hypothesis("H4a", _UNGUIDED, _GUIDED, Outcome("seen", 1.0), "not less",
                       Outcome("seen", 2.0)),
            Hypothesis("H4b", _LONGER, _GUIDED, Outcome("seen", 1.0), "not less",
                       Outcome("seen", 2.0)),
            Hypothesis("H4c", _UNGUIDED, _PAPER, Outcome("seen", 1.0), "greater"),
            Hypothesis("H4d", _LONGER, _GUIDED, Outcome("held_out", 1.0), "not less",
                       Outcome("held_out", 2.0)),
        ),
    ),
    Study(
        "recipes",
        "World mixed: recipes for a policy that needs no guidance",
        (_UNGUIDED, _LONGER, _ANNEALED, _DISTILLED),
        (
            Hypothesis("H5a", _ANNEALED, _UNGUIDED, Outcome("seen", 1.0), "greater"),
            Hypothesis("H5b", _DISTILLED, _UNGUIDED, Outcome("seen", 1.0), "greater"),
            Hypothesis("H5c", _DISTILLED, _LONGER, Outcome("seen", 1.0), "greater"),
            Hypothesis("H5d", _DISTILLED, _UNGUIDED, Outcome("held_out", 1.0), "greater"),
        ),
    ),
    Study(
        "distillation-weight",
        "World mixed: an explicit weight of distillation",
        (_PAPER, _WEIGHTED, _UNGUIDED, _ANNEALED, _DISTILLED, _WEIGHTED_ANNEALED),
        (
            Hypothesis("H17a", _WEIGHTED, _PAPER, Outcome("seen", 1.0), "greater"),
            Hypothesis("H17b", _WEIGHTED, _PAPER, Outcome("seen", 2.0), "less"),
            Hypothesis("H17c", _WEIGHTED_ANNEALED, _UNGUIDED, Outcome("seen", 1.0), "greater"),
            Hypothesis("H17d", _WEIGHTED_ANNEALED, _ANNEALED, Outcome("seen", 1.0), "greater"),
            Hypothesis("H17e", _WEIGHTED_ANNEALED, _DISTILLED, Outcome("seen", 1.0), "not less"),
        ),
    ),
    _grid_study("mixed", 1.0, "conditional", _baseline("H2", "mixed", 1.0, "conditional")),
    _grid_study("mixed", 2.0, "guided", _baseline("H3", "mixed", 2.0, "guided")),
    SCREENING,
    *confirmation(CONFIRMED),
    _grid_study("plain", 2.0, "conditional", _distilled("H9", "plain", 2.0)),
    _grid_study("mixed", 3.0, "conditional", _distilled("H6", "mixed", 3.0)),
    _grid_study("mixed", 3.0, "guided", _baseline("H7", "mixed", 3.0, "guided")),
    _grid_study("plain", 1.0, "conditional", _baseline("H8", "plain", 1.0, "conditional")),
    Study(
        "one-task",
        "World plain: longer training on the prompts of one task, w = 1, 120 steps",
        tuple(_ONE_TASK.values()),
        (*_protection("H13", "low mask alone"), *_protection("H14", "EG-GRPO as-code")),
        shown=_OF_ONE_TASK,
    ),
    _grid_study("plain", 2.0, "guided", _baseline("H10", "plain", 2.0, "guided")),
    _grid_study("plain", 3.0, "conditional", _distilled("H11", "plain", 3.0)),
    _grid_study("plain", 3.0, "guided", _baseline("H12", "plain", 3.0, "guided")),
    Study(
        "forgetting",
        "World plain: training on the prompts of one task at a rate at which others are forgotten,"
        " w = 1, 40 steps",
        _FORGETTING,
        tuple(
            Hypothesis(f"H20{letter}", arm, _FORGETTING[0], _OF_ONE_TASK[1], "greater")
            for letter, arm in zip("ab", _FORGETTING[1:], strict=True)
        ),
        FORGETTING_SEEDS,
        _OF_ONE_TASK,
    ),
    _again("H21", "plain", 3.0, "guided", "EG-GRPO as-code"),
    _watched("H18", "plain", 1.0),
    _watched("H19", "mixed", 2.0),
)  # fmt: skip

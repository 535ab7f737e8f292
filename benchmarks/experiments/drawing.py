"""What an image costs to draw with and without guidance, and what reward that buys.

Both are drawn in turns by one thread of one process, so that what else the machine does falls on
both. A round draws the same images at each guidance scale, after one round that is not counted.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from statistics import mean

from benchmarks.cells import half_width, interval
from benchmarks.experiments.arms import Arm, before_arm
from benchmarks.experiments.records import Records
from benchmarks.experiments.results import markdown, unreported, value
from benchmarks.experiments.studies import STUDIES, Outcome
from orchestrator.pipeline.order import evaluation_requests
from orchestrator.settings.input_checks import check_inputs
from policy.errors import UserError
from policy.runtime import tune_process
from policy.sampling import Sampling

SCALES = (1.0, 2.0)
PROMPTS, SAMPLES = 32, 4
_STUDIES = ("unguided", "recipes")  # about what a user should do
_HEADER = """\
# What an image costs to draw

`{command}` writes this page. Measured on {machine}, with `shapes/mixed_checkpoint`, {prompts}
prompts x {samples} images a round, CoTs included, {rounds} rounds at each scale in turns. CPU
seconds are those of one process with one thread; ± is the half-width of the 95 % interval over
rounds (Student's t). Rewards are those of [results.md](results.md), seen prompts, means over seeds.
The ± of a reward in a CPU second is of both: the half-widths of reward and seconds, relative to
their means, add up as squares. The seconds are the same for all rows of a w, so that rows of one w
differ by less than their ± say.
"""


def page(records: Records, root: Path, rounds: int, command: str) -> Iterator[str]:
    """The lines of the page."""
    seconds = seconds_per_image(root, rounds)
    machine = f"{platform.machine()}, CPU only, {date.today()}"
    yield _HEADER.format(
        command=command, machine=machine, prompts=PROMPTS, samples=SAMPLES, rounds=rounds
    )
    one, two = (seconds[scale] for scale in SCALES)
    ratios = [b / a for a, b in zip(one, two, strict=True)]
    heads = ["drawn at w", "CPU ms an image", "times w = 1"]
    costs = [
        ["1", interval([1000 * s for s in one], 1), "1"],
        ["2", interval([1000 * s for s in two], 1), interval(ratios, 2)],
    ]
    yield from markdown([heads, *costs])
    yield "\n## Reward for the time of drawing\n"
    heads = ["training", "drawn at w", "reward", "reward in a CPU second of drawing"]
    yield from markdown([heads, *_bought(records, seconds)])


def seconds_per_image(root: Path, rounds: int) -> dict[float, list[float]]:
    """CPU seconds of an image in each round, by guidance scale."""
    tune_process()
    from rollout.transformers_engine import load_transformers_engine

    config = _arms()[0].cell(0).config(root)
    inputs = check_inputs(config)
    engine = load_transformers_engine(
        config.rollout, inputs.model_path, config.model.template, inputs.instruction
    )
    requests = evaluation_requests("seen", inputs.evaluation_sets["seen"][:PROMPTS], SAMPLES)
    samplings = {s.guidance_scale: s for s in config.evaluation_samplings}

    def drawn(sampling: Sampling) -> float:
        return _cpu_seconds(lambda: engine.generate(requests, sampling)) / (PROMPTS * SAMPLES)

    counted = [{w: drawn(samplings[w]) for w in SCALES} for _ in range(rounds + 1)][1:]
    return {scale: [row[scale] for row in counted] for scale in SCALES}


def _cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _arms() -> list[Arm]:
    """The arms of the studies, each once, after the checkpoint before training."""
    arms = [arm for study in STUDIES if study.name in _STUDIES for arm in study.arms]
    return [before_arm(arms[0].world), *{arm.name: arm for arm in arms}.values()]


def _bought(records: Records, seconds: dict[float, list[float]]) -> Iterator[list[str]]:
    """A row for each arm and scale. Raises ``UserError`` when a study is not finished."""
    studies = [study for study in STUDIES if study.name in _STUDIES]
    for study in studies:
        if (reason := unreported(study, records)) is not None:
            raise UserError(f"study {study.name}: {reason}")
    seeds = {arm.name: study.seeds for study in studies for arm in study.arms}
    before, of_before = studies[0].before
    for arm in _arms():
        of_arm = seeds.get(arm.name, (of_before,))
        for scale in SCALES:
            rewards = [value(arm, seed, Outcome("seen", scale), records) for seed in of_arm]
            label = "none" if arm.name == before.name else arm.label
            yield [label, f"{scale:g}", interval(rewards), per_second(rewards, seconds[scale])]


def per_second(rewards: Sequence[float], seconds: Sequence[float]) -> str:
    """The mean reward over the mean seconds, with the half-width of its 95 % interval.

    That of a ratio of two independent means, to first order. A single reward has no interval.
    """
    ratio = mean(rewards) / mean(seconds)
    relative = [
        half_width(values) / mean(values) for values in (rewards, seconds) if len(values) > 1
    ]
    return f"{ratio:.1f}" + (f" ± {ratio * math.hypot(*relative):.1f}" if relative else "")

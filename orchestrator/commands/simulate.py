"""``eg-grpo simulate``: runs the schedule of a configuration in virtual time."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, cast

from orchestrator.pipeline.simulation import Chance, Role, Scenario, Seconds, Simulation
from orchestrator.pipeline.simulation_text import bottleneck, table
from orchestrator.record.progress import RECENT
from orchestrator.record.run_folder import read_rows
from policy.errors import UserError

if TYPE_CHECKING:
    from orchestrator.settings.run_config import RunConfig

MAX_STALENESS = range(5)  # the values that are compared
_WORK = ("rollout", "reward", "learn", "sync", "start", "fetch")
_NEEDED = ("rollout", "learn")
_ROLES = ("rollout", "reward", "learner")


def run(parsed: argparse.Namespace) -> None:
    """Print the table. Raises ``UserError`` when it is not known how long the work takes."""
    given = numbers(parsed.seconds, "--seconds", _WORK)
    losses = numbers(parsed.losses, "--losses", _ROLES)
    workers = None if parsed.rollout is None else _counts(parsed.rollout)
    if not 0 <= parsed.spread < math.inf:
        raise UserError(f"--spread: {parsed.spread} is not 0 or more")
    if parsed.hosts < 1:
        raise UserError(f"--hosts: {parsed.hosts} is not 1 or more")
    if parsed.reward is not None and parsed.reward < 1:
        raise UserError(f"--reward: {parsed.reward} is not 1 or more")
    if 0.0 in losses.values():
        raise UserError("--losses: the seconds between two losses must be more than 0")
    if losses and "start" not in given:
        raise UserError("--losses needs --seconds start=S: how long a new worker takes to start")
    # This imports torch, which takes seconds. A mistake on the command line is said first.
    from orchestrator.settings.run_config import load_config, load_saved

    config = load_config(parsed.config, parsed.overrides)
    scenario = replace(scenario_of(config), hosts=parsed.hosts)
    if parsed.reward is not None:
        scenario = replace(scenario, reward_workers=parsed.reward)
    measured: dict[str, float] = {}
    if parsed.measured is not None:
        rows = read_rows(parsed.measured / "metrics.jsonl")
        measured = measured_seconds(
            parsed.measured, scenario_of(load_saved(parsed.measured / "config.yaml")), rows
        )
    if missing := [name for name in _NEEDED if name not in measured | given]:
        raise UserError(
            f"--seconds: {missing[0]} is missing; give --seconds rollout=S,learn=S or --from RUN"
        )
    seconds = Seconds(**dict.fromkeys(_WORK, 0.0) | measured | given)
    print(
        "seconds  "
        + ", ".join(
            f"{name} {getattr(seconds, name):.4g}"
            f" ({'given' if name in given else 'measured' if name in measured else 'default'})"
            for name in _WORK
        )
    )
    chance = Chance(parsed.seed, parsed.spread, {cast(Role, r): s for r, s in losses.items()})
    scenarios = [
        replace(scenario, rollout_workers=count, max_staleness=staleness)
        for count in workers or [scenario.rollout_workers]
        for staleness in MAX_STALENESS
    ]
    print(table([(each, Simulation(each, seconds, chance).run()) for each in scenarios]))
    for count in workers or [scenario.rollout_workers]:
        of_count = replace(scenario, rollout_workers=count)
        images, ranks = config.trajectories_per_step, config.learner.ranks
        print(f"\n{bottleneck(of_count, seconds, chance, images, ranks)}")
    if parsed.against is not None:
        measured_s, simulated_s = step_times(parsed.against, seconds)
        print(
            f"\nagainst   {parsed.against}: measured {measured_s:.2f} s a step without evaluation"
            f" and saving, simulated {simulated_s:.2f} s ({simulated_s / measured_s - 1:+.0%})"
        )


def step_times(folder: Path, seconds: Seconds) -> tuple[float, float]:
    """Seconds of a step of a real run, and those that its settings have with these seconds.

    Both are means over the steps after the first ones, in which the stages fill. Evaluations and
    waiting for checkpoints are not counted. Raises ``UserError`` for a run without such a step.
    """
    from orchestrator.settings.run_config import load_saved

    scenario = scenario_of(load_saved(folder / "config.yaml"))
    rows = read_rows(folder / "metrics.jsonl")[scenario.first_steps :][-RECENT:]
    if not rows:
        raise UserError(
            f"--against: {folder} has no row in metrics.jsonl yet after its first"
            f" {scenario.first_steps}"
        )
    left_out = ("seconds/evaluate", "seconds/save")  # by the simulation
    measured = fmean(
        row["seconds/step"] - sum(row.get(name, 0.0) for name in left_out) for row in rows
    )
    return measured, Simulation(scenario, seconds).run().step_s


def scenario_of(config: RunConfig) -> Scenario:
    """What of a configuration decides about its schedule."""
    from orchestrator.pipeline.stages import groups_per_batch  # imports torch

    return Scenario(
        steps=config.steps,
        groups_per_step=config.prompts_per_step,
        groups_per_batch=groups_per_batch(config, config.rollout.group_size),
        rollout_workers=config.rollout.workers,
        max_rollout_workers=config.rollout.max_workers,
        reward_workers=min(reward.workers for reward in config.rewards),
        max_staleness=config.max_staleness,
        checkpoint_every=config.checkpoint.every,
        attempts=config.rollout.attempts,
    )


def measured_seconds(
    folder: Path, scenario: Scenario, rows: Sequence[dict[str, float]]
) -> dict[str, float]:
    """How long the work of a run takes, from its last rows.

    At staleness 0 the learner waits for one stage after the other. Its wait for rollout is that for
    the batches that one worker samples in turn. Its wait for rewards is that for the last batches.
    Raises ``UserError`` for any other run, and for one without a row.
    """
    if scenario.max_staleness:
        raise UserError(
            f"--from: {folder} has max_staleness {scenario.max_staleness}: its stages overlap, so"
            " its rows do not say how long each one takes"
        )
    if not rows:
        raise UserError(f"--from: {folder} has no row in metrics.jsonl yet")
    mean = {
        name: fmean(row[f"seconds/{name}"] for row in rows[-RECENT:])
        for name in ("rollout", "reward", "learn", "sync")
    }
    batches = scenario.batches_per_step
    in_turn = math.ceil(batches / scenario.rollout_workers)
    last = batches - (in_turn - 1) * scenario.rollout_workers
    return mean | {
        "rollout": mean["rollout"] / in_turn,
        "reward": mean["reward"] / math.ceil(last / scenario.reward_workers),
    }


def numbers(text: str, flag: str, known: Sequence[str]) -> dict[str, float]:
    """The values in ``name=number,name=number``. Raises ``UserError`` for anything else."""
    found: dict[str, float] = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if name not in known:
            raise UserError(f"{flag}: unknown name {name!r}; there are {', '.join(known)}")
        try:
            found[name] = float(value)
        except ValueError:
            found[name] = math.nan
        if not 0 <= found[name] < math.inf:
            raise UserError(f"{flag}: {part}: not a number of seconds")
    return found


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1:
        raise UserError(f"--rollout: {text!r} is no list of numbers of workers, such as 1,2,4")
    return counts

"""Prints what simulated runs show: a table to compare settings, and where the time of one goes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from orchestrator.pipeline.simulation import Chance, Outcome, Scenario, Seconds, Simulation
from orchestrator.record.progress import duration


def table(outcomes: Sequence[tuple[Scenario, Outcome]]) -> str:
    """One line for each simulated run."""
    rows = [
        (
            *("rollout.workers", "max_staleness", "s a step", "whole run", "learner idles"),
            *("rollout idles", "staleness mean", "max", "steps repeated"),
        )
    ]
    for scenario, outcome in outcomes:
        rows.append(
            (
                str(scenario.rollout_workers),
                str(scenario.max_staleness),
                f"{outcome.step_s:.2f}",
                duration(outcome.run_s),
                f"{outcome.learner_idle:.0%}",
                f"{outcome.rollout_idle:.0%}",
                f"{outcome.staleness_mean:.2f}",
                str(outcome.staleness_max),
                str(outcome.repeated_steps),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )


def bottleneck(
    scenario: Scenario, seconds: Seconds, chance: Chance, images_per_step: int, ranks: int
) -> str:
    """Lines about one scenario: throughput, utilisation, and what one more of each role is worth.

    One more learner rank is taken to share the update evenly. The CPU time is that of this process
    while it runs the schedule and the stand-ins of its workers.
    """
    began_s = time.thread_time()
    outcome = Simulation(scenario, seconds, chance).run()
    spent_s = (time.thread_time() - began_s) / (scenario.steps + outcome.repeated_steps)
    used = {
        "rollout": 1 - outcome.rollout_idle,
        "reward": 1 - outcome.reward_idle,
        "learner": 1 - outcome.learner_idle,
    }
    more = {
        "rollout": (replace(scenario, rollout_workers=scenario.rollout_workers + 1), seconds),
        "reward": (replace(scenario, reward_workers=scenario.reward_workers + 1), seconds),
        "learner": (scenario, replace(seconds, learn=seconds.learn * ranks / (ranks + 1))),
    }
    gains = {
        role: outcome.step_s / Simulation(*changed, chance).run().step_s - 1
        for role, changed in more.items()
    }
    busiest = max(used, key=lambda role: used[role])
    return "\n".join(
        [
            f"at        max_staleness {scenario.max_staleness}, {scenario.rollout_workers} rollout"
            f" and {scenario.reward_workers} reward workers, {ranks} learner ranks,"
            f" {scenario.hosts} hosts",
            f"images    {images_per_step / outcome.step_s:.4g} a second,"
            f" {images_per_step} in a step of {outcome.step_s:.2f} s",
            f"busy      {', '.join(f'{role} {share:.0%}' for role, share in used.items())};"
            f" the busiest is {busiest}",
            "one more  "
            + ", ".join(f"{role} {gain:+.1%}" for role, gain in gains.items())
            + " images a second",
            f"schedule  {1000 * spent_s:.2f} ms of one CPU a step,"
            f" {spent_s / outcome.step_s:.3%} of the step",
        ]
    )

"""``eg-grpo replay``: the short way to a run with ``stages: learner``."""

from __future__ import annotations

import argparse
import json

from orchestrator.commands.learner_alone import train_alone
from orchestrator.pipeline.interrupt import graceful_interrupt
from orchestrator.record.run_folder import LONGEST_NEW
from orchestrator.settings.run_config import RunConfig, load_config
from policy.errors import UserError


def run(parsed: argparse.Namespace) -> None:
    """Train a run, ``NAME-replay``, on the kept steps of the run NAME; write its report.

    The run that is replayed is only read. With ``--resume`` the replay goes on from its own last
    checkpoint, and begins if there is none. Otherwise it is a new run.
    """
    with graceful_interrupt() as interrupt:
        train_alone(interrupt, _config(parsed), parsed.resume, not parsed.resume, parsed.start)


def _config(parsed: argparse.Namespace) -> RunConfig:
    """The settings of the replay: those of the run, without what only rollout workers can do."""
    folder = parsed.folder.absolute()
    of_replay = [
        f"name={folder.resolve().name}-replay",
        "stages=learner",
        f"trajectories.replay={json.dumps(str(folder))}",
    ]
    config = load_config(parsed.folder / "config.yaml", [*of_replay, *parsed.overrides])
    if len(config.name) > LONGEST_NEW:
        raise UserError(f"name: a replay may add a number to it: at most {LONGEST_NEW} characters")
    return config

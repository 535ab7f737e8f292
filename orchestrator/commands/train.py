"""``eg-grpo train``: trains a policy as a configuration file describes, and writes a report."""

from __future__ import annotations

import argparse
import sys

from orchestrator.pipeline.interrupt import Interrupt, graceful_interrupt
from orchestrator.record.own_checkpoints import OwnCheckpoints
from orchestrator.record.run_folder import LONGEST_NEW, RunFolder
from orchestrator.settings.cluster_address import cluster_address
from orchestrator.settings.run_config import RunConfig, dump_config, load_config
from orchestrator.workers.cluster import private_environment
from policy.errors import RunFailed, Stopped, UserError


def run(parsed: argparse.Namespace) -> None:
    """Train and write the report.

    Raises ``RunFailed`` or ``Stopped`` with a message that says how to continue the run.
    """
    with graceful_interrupt() as interrupt:
        _train(interrupt, parsed)


def _train(interrupt: Interrupt, parsed: argparse.Namespace) -> None:
    config = load_config(parsed.config, parsed.overrides)
    # These import torch and transformers, which takes seconds. A mistake in the file is said first.
    from orchestrator.settings.inputs import check_inputs
    from orchestrator.settings.machine import check_machine

    inputs = check_inputs(config)
    check_machine(config, inputs.model_path)
    if parsed.dry_run:
        print(dump_config(config), end="")
        return

    if cluster_address(config.cluster.address) is None:
        private_environment()
    # These modules import Ray, which reads the environment only once.
    from orchestrator.pipeline.ledger import Superseded
    from orchestrator.pipeline.opening import open_run
    from orchestrator.pipeline.training import train
    from orchestrator.report.page import headlines, write_report

    config, folder = _folder(config, parsed)
    try:
        with open_run(config, inputs, folder, interrupt) as opened:
            train(opened)
        report = write_report(config.folder)
    except Superseded:
        raise  # the newer driver goes on with the run
    except RunFailed as error:
        raise RunFailed(f"{error} ({_way_on(config)})") from error
    except KeyboardInterrupt:
        raise Stopped(f"stopped at once ({_way_on(config)})") from None
    for line in headlines(config.folder):
        print(line)
    if config.stages == "rollout":
        print(f"trajectories: {folder.trajectories.folder}\nreport: {report}")
    else:
        print(f"checkpoint: {opened.books.last_saved}\nreport: {report}")
    if interrupt.requested and not opened.books.finished:
        raise Stopped(f"stopped ({_way_on(config)})")


def _folder(config: RunConfig, parsed: argparse.Namespace) -> tuple[RunConfig, RunFolder]:
    """Make or open the run folder. The configuration that is returned has the folder's name."""
    if not parsed.new:
        folder = RunFolder(config.folder, parsed.resume)
        if parsed.resume and not folder.goes_on:
            print(f"{folder.path} has no run yet: it begins", file=sys.stderr)
        return config, folder
    if len(config.name) > LONGEST_NEW:
        raise UserError(f"name: --new may add a number to it: at most {LONGEST_NEW} characters")
    folder = RunFolder.fresh(config.root, config.name)
    return config.model_copy(update={"name": folder.path.name}), folder


def _way_on(config: RunConfig) -> str:
    """The last checkpoint of a run that stopped early, and the command that continues the run."""
    folder = config.folder
    last = OwnCheckpoints(folder).last()
    command = f"eg-grpo train {folder / 'config.yaml'} --resume"
    if config.stages == "rollout":
        return f"go on with: {command}"
    if last is None:
        return f"{folder} has no checkpoint yet; begin again with: {command}"
    return f"the last checkpoint is {last}; go on with: {command}"

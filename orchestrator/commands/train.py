"""``eg-grpo train``: trains a policy as a configuration file describes, and writes a report."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.commands.learner_alone import train_alone
from orchestrator.pipeline.interrupt import Interrupt, graceful_interrupt
from orchestrator.record.live_view import shown_progress
from orchestrator.record.own_checkpoints import OwnCheckpoints
from orchestrator.record.progress import Progress
from orchestrator.record.run_folder import LONGEST_NEW, RunFolder, has_run
from orchestrator.settings.check_process import CHECKING, checked_elsewhere, checked_here
from orchestrator.settings.cluster_address import cluster_address
from orchestrator.settings.machine import logical_cpus
from orchestrator.settings.run_config import RunConfig, dump_config, load_config
from orchestrator.workers.cluster import private_environment
from policy.errors import RunFailed, Stopped, UserError

if TYPE_CHECKING:
    from orchestrator.pipeline.run import Run


def run(parsed: argparse.Namespace) -> None:
    """Train and write the report.

    Raises ``RunFailed`` or ``Stopped`` with a message that says how to continue the run.
    """
    with graceful_interrupt() as interrupt:
        _train(interrupt, parsed)


def _train(interrupt: Interrupt, parsed: argparse.Namespace) -> None:
    config = load_config(parsed.config, parsed.overrides)
    if parsed.new and len(config.name) > LONGEST_NEW:
        raise UserError(f"name: --new may add a number to it: at most {LONGEST_NEW} characters")
    if config.stages == "learner":
        train_alone(interrupt, config, parsed.resume, parsed.new, dry_run=parsed.dry_run)
        return
    if parsed.dry_run:
        checked_here(config)
        print(dump_config(config), end="")
        return
    with shown_progress(config.steps) as progress:
        config, opened, report = _run(config, parsed, interrupt, progress)
    from orchestrator.report.page import headlines

    for line in headlines(config.folder):
        print(line)
    if config.stages == "rollout":
        print(f"trajectories: {opened.folder.trajectories.folder}\nreport: {report}")
    else:
        print(f"checkpoint: {opened.books.last_saved}\nreport: {report}")
    if interrupt.requested and not opened.books.finished:
        raise Stopped(f"stopped ({_way_on(config)})")


def _run(
    config: RunConfig, parsed: argparse.Namespace, interrupt: Interrupt, progress: Progress
) -> tuple[RunConfig, Run, Path]:
    """Train and write the report: the configuration with the folder's name, the run, the report.

    The inputs are checked in another process. Meanwhile this one imports Ray and starts it. A run
    that is new waits for the result before it makes its folder, and every run does before it
    starts an actor.
    """
    private = cluster_address(config.cluster.address) is None
    with checked_elsewhere(config) as checked, ExitStack() as opened:
        with progress.waiting("reading files and loading libraries"):
            if private:
                private_environment()
            # These modules import Ray, which reads the environment only once.
            from orchestrator.pipeline.ledger import Superseded
            from orchestrator.pipeline.opening import open_run
            from orchestrator.pipeline.opening_cluster import open_cluster
            from orchestrator.pipeline.training import train
            from orchestrator.report.page import write_report

        if parsed.new or not (parsed.resume and has_run(config.folder)):
            if private:
                open_cluster(opened, config.cluster, logical_cpus(config), progress)
            with progress.waiting(CHECKING):
                checked()
        config, folder = _folder(config, parsed, progress)
        try:
            with open_run(config, checked, folder, interrupt, progress) as run:
                train(run)
            with progress.waiting("writing the report"):
                report = write_report(config.folder)
        except Superseded:
            raise  # the newer driver goes on with the run
        except RunFailed as error:
            raise RunFailed(f"{error} ({_way_on(config)})") from error
        except KeyboardInterrupt:
            raise Stopped(f"stopped at once ({_way_on(config)})") from None
    return config, run, report


def _folder(
    config: RunConfig, parsed: argparse.Namespace, progress: Progress
) -> tuple[RunConfig, RunFolder]:
    """Make or open the run folder. The configuration that is returned has the folder's name."""
    if not parsed.new:
        folder = RunFolder(config.folder, parsed.resume)
        if parsed.resume and not folder.goes_on:
            progress.note(f"{folder.path} has no run yet: it begins")
        return config, folder
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

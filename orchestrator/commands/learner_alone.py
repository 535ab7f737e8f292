"""Trains on the trajectories that another run kept, with learner ranks alone: ``stages: learner``.

``eg-grpo train`` and ``eg-grpo replay`` both end up here.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from orchestrator.pipeline.interrupt import Interrupt
from orchestrator.record.kept_trajectories import KeptTrajectories
from orchestrator.record.live_view import shown_progress
from orchestrator.record.own_checkpoints import OwnCheckpoints, checkpoint_step
from orchestrator.record.run_folder import RunFolder
from orchestrator.settings.cluster_address import cluster_address
from orchestrator.settings.model_size import ModelSize
from orchestrator.settings.run_config import RunConfig, dump_config
from orchestrator.workers.cluster import private_environment
from policy.errors import Stopped, UserError


def train_alone(
    interrupt: Interrupt,
    config: RunConfig,
    resume: bool,
    new: bool,
    start: str | None = None,
    dry_run: bool = False,
) -> None:
    """Train on the kept steps of the run ``trajectories.replay``, and write the report.

    ``resume`` goes on from the last checkpoint of this run's folder, ``new`` takes a folder that
    does not exist. ``start`` names the checkpoint of the other run to begin with. ``dry_run`` only
    checks the inputs and prints the settings.
    """
    try:
        _train_alone(interrupt, config, resume, new, start, dry_run)
    except KeyboardInterrupt:
        raise Stopped("stopped at once") from None


def _train_alone(
    interrupt: Interrupt,
    config: RunConfig,
    resume: bool,
    new: bool,
    start: str | None,
    dry_run: bool,
) -> None:
    source = config.trajectories.replay
    assert source is not None  # the settings are refused otherwise
    if source.resolve() == config.folder.resolve():
        raise UserError(f"name: {config.folder} is the run that is replayed; give another name")
    own = OwnCheckpoints(config.folder).last() if resume else None
    checkpoint, steps = _beginning(source, start, config.steps, own)
    if not steps:
        print(f"{config.folder} has replayed all kept steps; its last checkpoint is {own}")
        return
    # These import torch and transformers, which takes seconds. A mistake is said first.
    from learner.step_checkpoint import verified_manifest
    from orchestrator.settings.input_checks import learner_inputs

    if checkpoint is not None:
        verified_manifest(checkpoint)
    inputs = learner_inputs(config)
    _check_learners_machine(config, inputs.size)
    if dry_run:
        print(dump_config(config), end="")
        return

    if cluster_address(config.cluster.address) is None:
        private_environment()
    # These modules import Ray, which reads the environment only once.
    from orchestrator.pipeline.opening_replay import open_replay
    from orchestrator.pipeline.replay import replay
    from orchestrator.report.page import write_report

    if new:
        folder = RunFolder.fresh(config.root, config.name)
        config = config.model_copy(update={"name": folder.path.name})
    else:
        folder = RunFolder(config.folder, resume)
    with shown_progress(steps[-1]) as progress:
        with open_replay(
            config, inputs, source, steps, checkpoint, folder, interrupt, progress
        ) as opened:
            replay(opened)
        with progress.waiting("writing the report"):
            report = write_report(config.folder)
    print(f"checkpoint: {opened.last_saved}\nreport: {report}")
    if interrupt.requested:
        raise Stopped(f"stopped (the command goes on with name={config.name} --resume)")


def _check_learners_machine(config: RunConfig, size: ModelSize) -> None:
    """Check what this machine must have for the learner; see ``check_machine``."""
    from orchestrator.settings.machine import check_machine

    none = {"workers": 0, "max_workers": None, "gpus_per_worker": 0, "device": "cpu"}
    no_rollout = config.rollout.model_copy(update=none)
    check_machine(config.model_copy(update={"rollout": no_rollout, "rewards": ()}), size)


def _beginning(
    source: Path, start: str | None, last: int, own: Path | None = None
) -> tuple[Path | None, range]:
    """The checkpoint to begin with, and the steps to train on, up to ``last``.

    ``own`` is the checkpoint of a replay that goes on, and comes before all others. No steps are
    left if that replay is done. ``start`` names the checkpoint. By default it is None, the run's
    first model, if the kept steps begin with step 1, and else the first checkpoint from which on
    every step is kept. Raises ``UserError`` when there is none, and for a step that is missing.
    """
    kept, checkpoints = KeptTrajectories(source).steps(), OwnCheckpoints(source)
    if not kept:
        raise UserError(f"{source} has kept no trajectories (trajectories.keep_steps)")
    whole = {path.name: path for path in checkpoints.whole()}
    if start is not None and start not in whole:
        raise UserError(f"--from: {source} has no checkpoint {start}, only {_listed(whole)}")
    checkpoint = own or (checkpoints.before_kept() if start is None else whole[start])
    if checkpoint is None and kept[0] > 1:
        raise UserError(
            f"{source} keeps steps {kept[0]} to {kept[-1]}, but no checkpoint to begin with: it"
            f" has {_listed(whole)}"
        )
    begin = 0 if checkpoint is None else checkpoint_step(checkpoint)
    steps = range(begin + 1, min(kept[-1], last) + 1)
    if not steps and own is None:
        raise UserError(f"{source} keeps no trajectories of a step from {begin + 1} to {last}")
    for step in steps:
        if step not in kept:
            raise UserError(f"{source} keeps no trajectories of step {step}")
    return checkpoint, steps


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"

"""Opening a replay: its cluster, its learner group, and the checkpoint that it begins with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from orchestrator.pipeline.interrupt import Interrupt
from orchestrator.pipeline.off_policy import OffPolicy
from orchestrator.pipeline.opening_cluster import open_cluster
from orchestrator.pipeline.opening_learners import Learners
from orchestrator.pipeline.replay import Replay
from orchestrator.pipeline.telemetry import open_telemetry
from orchestrator.record.kept_trajectories import KeptTrajectories
from orchestrator.record.progress import Progress
from orchestrator.record.run_folder import RunFolder
from orchestrator.record.run_log import logged_to
from orchestrator.settings.inputs import Inputs
from orchestrator.settings.machine import logical_cpus
from orchestrator.settings.resources import roles
from orchestrator.settings.run_config import RunConfig, dump_config
from orchestrator.settings.unchanged import check_unchanged
from orchestrator.workers.group_files import GroupFiles
from orchestrator.workers.placement import reserved
from orchestrator.workers.stopped_workers import watch_for_stopped_workers
from policy.disk import write_whole


@contextmanager
def open_replay(
    config: RunConfig,
    inputs: Inputs,
    source: Path,
    steps: range,
    checkpoint: Path | None,
    folder: RunFolder,
    interrupt: Interrupt,
    progress: Progress,
) -> Iterator[Replay]:
    """Start the learner group, and end it again whatever happens; the folder is closed then.

    ``source`` is the run folder whose ``steps`` are trained on, and ``checkpoint`` the one to begin
    with: None begins with the model of the configuration. Rows and checkpoints of later steps are
    deleted from the folder. Raises ``UserError`` when the replay goes on and its settings have
    changed, and ``WorkerFailed`` when a learner rank does not come up.
    """
    with closing(folder):
        if folder.goes_on:
            check_unchanged(config, folder.path)
        folder.fall_back(steps[0] - 1)
        progress.begin(steps[0] - 1)
        write_whole(folder.path / "config.yaml", dump_config(config))
        begin = "the model that it began with" if checkpoint is None else f"checkpoint {checkpoint}"
        progress.note(f"run folder {folder.path}")
        progress.note(f"replaying steps {steps[0]} to {steps[-1]} of {source}, from {begin}")
        off_policy = OffPolicy.of(config, source, steps, checkpoint)
        if off_policy is not None:
            progress.note(str(off_policy))
        with (
            logged_to(folder.path / "run.log"),
            open_telemetry(config, folder, 1, None, steps[-1]) as telemetry,
            ExitStack() as opened,
        ):
            open_cluster(opened, config.cluster, logical_cpus(config), progress)
            telemetry.announce(progress.note)
            ranks = [role for role in roles(config) if role.key == "learner"]
            with progress.waiting("finding places for the learner ranks"):
                places = opened.enter_context(reserved(config, ranks))
            stopped = opened.enter_context(watch_for_stopped_workers())
            learners = Learners(config, inputs, places, stopped, progress.note)
            opened.callback(learners.close)
            learners.start()
            with progress.waiting("loading the model on the learner ranks"):
                learner = learners.formed(checkpoint)
            telemetry.exporter.begin(folder.rows("metrics.jsonl"))
            yield Replay(
                config=config,
                steps=steps,
                off_policy_from=None if off_policy is None else off_policy.first_step,
                trajectories=KeptTrajectories(source),
                store=GroupFiles(config.rollout.timeout_s),
                learner=learner,
                folder=folder,
                progress=progress,
                interrupt=interrupt,
                telemetry=telemetry,
            )

"""A run as one object: its actors, its folder, and what is done when a step is over."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from learner.step_checkpoint import verified_manifest
from orchestrator.pipeline.alarms import Alarms
from orchestrator.pipeline.fixed_evaluation import FixedEvaluation
from orchestrator.pipeline.interrupt import Interrupt
from orchestrator.pipeline.step_row import Clock, without_nan
from orchestrator.record.own_checkpoints import checkpoint_step
from orchestrator.record.progress import Progress
from orchestrator.record.run_folder import RunFolder
from orchestrator.record.run_log import logged_to
from orchestrator.settings.inputs import Inputs
from orchestrator.settings.machine import logical_cpus
from orchestrator.settings.run_config import RunConfig
from orchestrator.settings.unchanged import check_unchanged, save_settings
from orchestrator.workers.cluster import ray_cluster
from orchestrator.workers.learner_group import LearnerGroup
from orchestrator.workers.publisher import WeightPublisher
from orchestrator.workers.reward_pools import RewardPools
from orchestrator.workers.rollout_pool import RolloutPool
from policy.types import JsonDict, Prompt

log = logging.getLogger("eg_grpo")


@dataclass
class Run:
    """What the pipeline works with."""

    config: RunConfig
    folder: RunFolder
    start_step: int
    prompts: list[Prompt]
    rollout: RolloutPool
    rewards: RewardPools
    learner: LearnerGroup
    publisher: WeightPublisher
    evaluation: FixedEvaluation
    progress: Progress
    alarms: Alarms
    interrupt: Interrupt
    last_saved: Path | None = None

    @property
    def finished(self) -> bool:
        """Whether the last step is in a checkpoint."""
        return self.last_saved == self.folder.checkpoints.path(self.config.steps)

    def evaluate(self, step: int) -> dict[str, float]:
        """Evaluate every fixed set, as at the start and the end of a run."""
        rewards = self.evaluation.run(step)
        for name, reward in rewards.items():
            self.progress.note(f"step {step}: reward on {name} prompts {reward:.4f}")
        return rewards

    def commit(self, row: JsonDict, clock: Clock) -> None:
        """Evaluate, record and save what is due after a step; the row is on disk before it."""
        step, config = row["step"], self.config
        last, during = step == config.steps, config.evaluation.during
        with clock.stage("evaluate"):
            if last:
                row[f"evaluation/{during}"] = self.evaluate(step).get(during)
            elif step % config.evaluation.every == 0 and config.data.evaluation:
                row[f"evaluation/{during}"] = self.evaluation.run(step, [during]).get(during)
        row |= clock.row()
        self.folder.append("metrics.jsonl", without_nan(row))
        for alarm in row["alarms"]:
            log.warning("step %d: %s", step, alarm)
            self.progress.note(f"step {step}: ALARM: {alarm}")
        self.progress.step(row)
        reward = row.get(f"evaluation/{during}")
        checkpoints = self.folder.checkpoints
        if last or step % config.checkpoint.every == 0 or checkpoints.is_better(during, reward):
            self.save(step)
            checkpoints.note_best(during, step, reward)

    def save(self, step: int) -> None:
        """Write the checkpoint of ``step``, if it is not there; of others only the best stays."""
        checkpoints = self.folder.checkpoints
        if checkpoints.path(step) != self.last_saved:
            path = checkpoints.begin(step)
            self.learner.save(path)
            self.last_saved = path
            checkpoints.keep_only({step})


@contextmanager
def open_run(
    config: RunConfig, inputs: Inputs, folder: RunFolder, interrupt: Interrupt
) -> Iterator[Run]:
    """Start the actors, and take them down again whatever happens; the folder is closed then.

    A folder that holds a checkpoint of the run is gone on with.
    """
    with closing(folder):
        checkpoint = _checkpoint_of(folder, config)
        start_step = 0 if checkpoint is None else checkpoint_step(checkpoint)
        save_settings(config, folder.path)
        progress, cluster = Progress(config.steps), config.cluster
        with (
            logged_to(folder.path / "run.log"),
            ray_cluster(
                cluster.address,
                logical_cpus(config),
                cluster.object_store_mb,
                cluster.start_timeout_s,
            ),
            ExitStack() as actors,  # not left to the cluster, which may outlive the run
        ):
            _announce(progress, config, inputs)
            rollout = RolloutPool(config, inputs)
            actors.callback(rollout.close)
            rollout.wait_ready()
            # Only now: on a GPU that they share, vLLM measures what is free while it starts.
            rewards = RewardPools(config)
            actors.callback(rewards.close)
            rewards.wait_ready()
            learner = LearnerGroup(config, inputs)
            actors.callback(learner.close)
            learner.wait_ready()
            if checkpoint is not None:
                learner.load(checkpoint)
                folder.resume_from(checkpoint)
            yield Run(
                config=config,
                folder=folder,
                start_step=start_step,
                prompts=inputs.prompts,
                rollout=rollout,
                rewards=rewards,
                learner=learner,
                publisher=WeightPublisher(learner, rollout, config.probe_tolerance),
                evaluation=FixedEvaluation(
                    config, inputs.evaluation_sets, rollout, rewards, folder
                ),
                progress=progress,
                alarms=Alarms(),
                interrupt=interrupt,
                last_saved=checkpoint,
            )


def _checkpoint_of(folder: RunFolder, config: RunConfig) -> Path | None:
    """The checkpoint to go on from, found whole; raises ``UserError`` for a run of other settings
    or with other input files."""
    checkpoint = folder.checkpoints.last()
    if checkpoint is not None:
        verified_manifest(checkpoint)
        check_unchanged(config, folder.path)
    return checkpoint


def _announce(progress: Progress, config: RunConfig, inputs: Inputs) -> None:
    progress.note(f"run folder {config.folder}")
    if inputs.leaks:
        progress.note(
            f"{len(inputs.leaks)} validation prompts are in the training file;"
            f" data.leaks: {config.data.leaks}"
        )

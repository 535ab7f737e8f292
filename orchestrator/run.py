"""A run as one object: its actors, its folder, and what is done when a step is over."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from learner.checkpoint import verified_manifest
from learner.group import LearnerGroup
from learner.settings import LearnerSettings
from orchestrator.alarms import Alarms
from orchestrator.cluster import ray_cluster
from orchestrator.config import RunConfig, dump_config
from orchestrator.evaluator import FixedEvaluation
from orchestrator.interrupt import Interrupt, graceful_interrupt
from orchestrator.metrics import Clock
from orchestrator.pools import RewardPools, RolloutPool, describe
from orchestrator.preflight import check_inputs, check_machine, logical_cpus
from orchestrator.progress import Progress
from orchestrator.publisher import WeightPublisher
from orchestrator.resume import check_unchanged
from orchestrator.run_folder import RunFolder, checkpoint_step
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

    def evaluate(self, step: int) -> None:
        """Evaluate every fixed set, as at the start and the end of a run."""
        for name, reward in self.evaluation.run(step).items():
            self.progress.note(f"step {step}: reward on {name} prompts {reward:.4f}")

    def commit(self, row: JsonDict, clock: Clock) -> None:
        """Evaluate, record and save what is due after a step; the row is on disk before it."""
        step, config = row["step"], self.config
        last = step == config.steps
        improved = False
        with clock.stage("evaluate"):
            if last:
                self.evaluate(step)
            elif step % config.evaluation.every == 0 and config.data.evaluation:
                during = config.evaluation.during
                rewards = self.evaluation.run(step, [during])
                row[f"evaluation/{during}"] = rewards.get(during)
                improved = self._is_best(step, rewards.get(during))
        row |= clock.row()
        self.folder.append("metrics.jsonl", row)
        for alarm in row["alarms"]:
            log.warning("step %d: %s", step, alarm)
            self.progress.note(f"step {step}: ALARM: {alarm}")
        self.progress.step(row)
        if last or improved or step % config.checkpoint.every == 0:
            self.save(step)

    def save(self, step: int) -> None:
        """Write the checkpoint of ``step``, if it is not there; of others only the best stays."""
        path = self.folder.checkpoint(step)
        if path == self.last_saved:
            return
        self.learner.save(path)
        self.last_saved = path
        self.folder.keep_only({step} | ({best["step"]} if (best := self._best()) else set()))

    def _is_best(self, step: int, reward: float | None) -> bool:
        best = self._best()
        if reward is None or (best is not None and reward <= best["reward/mean"]):
            return False
        row = {"step": step, "set": self.config.evaluation.during, "reward/mean": reward}
        (self.folder.path / "checkpoints" / "best.json").write_text(json.dumps(row) + "\n")
        return True

    def _best(self) -> JsonDict | None:
        file = self.folder.path / "checkpoints" / "best.json"
        best = json.loads(file.read_text()) if file.is_file() else None
        # A best step that the resumed history has not reached does not exist.
        return best if best is not None and self.folder.checkpoint(best["step"]).is_dir() else None


@contextmanager
def open_run(config: RunConfig, resume: bool = False) -> Iterator[Run]:
    """Check everything, start the actors, and take them down again whatever happens."""
    inputs = check_inputs(config)
    check_machine(config, inputs.model_path)
    folder = RunFolder(config.folder, resume)
    try:
        checkpoint = folder.last_checkpoint() if resume else None
        if checkpoint is not None:
            verified_manifest(checkpoint)
            check_unchanged(config, folder.path / "config.yaml")
            folder.forget_after(checkpoint_step(checkpoint))
        (folder.path / "config.yaml").write_text(dump_config(config))
        _log_to(folder.path / "run.log")
        progress = Progress(config)
        with (
            graceful_interrupt() as interrupt,
            ray_cluster(
                config.cluster.address, logical_cpus(config), config.cluster.object_store_mb
            ),
        ):
            progress.note(f"run folder {folder.path}")
            rollout = RolloutPool(config, inputs)
            rewards = RewardPools(config.rewards)
            learner = LearnerGroup(
                LearnerSettings(
                    learner=config.learner,
                    algorithm=config.algorithm,
                    checkpoint=inputs.model_path,
                    total_steps=config.steps,
                    guidance_scale=config.rollout.guidance_scale,
                    temperature=config.rollout.temperature,
                    generation_defaults=inputs.generation_defaults,
                )
            )
            try:
                for identity in rollout.wait_ready(config.cluster.start_timeout_s):
                    log.info("rollout engine: %s", describe(identity))
                rewards.wait_ready(config.cluster.start_timeout_s)
                learner.start()
                if checkpoint is not None:
                    learner.load(checkpoint)
                yield Run(
                    config=config,
                    folder=folder,
                    start_step=0 if checkpoint is None else checkpoint_step(checkpoint),
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
            finally:
                learner.shutdown()
    finally:
        folder.close()


def _log_to(file: Path) -> None:
    handler = logging.FileHandler(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)

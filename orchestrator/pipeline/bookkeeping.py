"""What a run leaves behind: evaluations, rows of metrics and checkpoints.

At the end of each step it does what is due, and it stops a run that no longer learns.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from orchestrator.pipeline.alarms import Alarms
from orchestrator.pipeline.clock import Clock
from orchestrator.pipeline.fixed_evaluation import FixedEvaluation
from orchestrator.pipeline.roles import Learner
from orchestrator.pipeline.skipped import record_skipped, skipped_in_a_row, updates_skipped
from orchestrator.pipeline.step_row import spreads, without_nan
from orchestrator.record.progress import Progress
from orchestrator.record.run_folder import RunFolder
from orchestrator.settings.run_config import RunConfig
from policy.types import JsonDict
from rewards.scored_group import ScoredGroup, values_by_reward

log = logging.getLogger("eg_grpo")


class Bookkeeper:
    """Owns what a run leaves behind: rows, pictures of evaluations, checkpoints."""

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        progress: Progress,
        evaluation: FixedEvaluation | None,
        learner: Learner,
        last_saved: Path | None,
    ) -> None:
        """``last_saved`` is the checkpoint that the run goes on from; None in a new run.

        ``evaluation`` is None in a replay, which has no rollout workers to evaluate with.
        """
        self.last_saved = last_saved
        self._config = config
        self._folder = folder
        self._progress = progress
        self._evaluation = evaluation
        self._learner = learner
        self._alarms = Alarms()

    @property
    def finished(self) -> bool:
        """Whether the last step of the run is in a checkpoint."""
        return self.last_saved == self._folder.checkpoints.path(self._config.steps)

    def evaluate(self, step: int) -> dict[str, float]:
        """Evaluate every fixed set, as a run does before its first and after its last step."""
        rewards = self._evaluation.run(step) if self._evaluation else {}
        for name, reward in rewards.items():
            self._progress.note(f"step {step}: reward on {name} prompts {reward:.4f}")
        return rewards

    def end_step(self, row: JsonDict, scored: Sequence[ScoredGroup], clock: Clock) -> None:
        """Evaluate if it is due, write the step's row, then save if that is due.

        The row is on disk before the checkpoint: a run that goes on from the checkpoint has it.
        Raises ``UpdatesSkipped`` when too many updates in a row were skipped.
        """
        step, during = row["step"], self._config.evaluation.during
        row["alarms"] = self._alarms.check(row, spreads(values_by_reward(scored)))
        record_skipped(self._folder, row, scored)
        with clock.stage("evaluate"):
            self._evaluate_if_due(row)
        row |= clock.row()
        self._folder.append("metrics.jsonl", without_nan(row))
        for alarm in row["alarms"]:
            log.warning("step %d: %s", step, alarm)
            self._progress.note(f"step {step}: ALARM: {alarm}")
        self._progress.step(row)

        reward = row.get(f"evaluation/{during}")
        checkpoints, every = self._folder.checkpoints, self._config.checkpoint.every
        due = step == self._config.steps or step % every == 0
        if due or checkpoints.is_better(during, reward):
            self.save(step)
            checkpoints.note_best(during, step, reward)
        if row.get("updates/skipped"):
            self._stop_if_stuck(step)

    def save(self, step: int) -> None:
        """Write the checkpoint of ``step`` unless it was just written.

        Older checkpoints are deleted then, but for the best one.
        """
        checkpoints = self._folder.checkpoints
        if checkpoints.path(step) == self.last_saved:
            return
        path = checkpoints.begin(step)
        self._learner.save(path)
        self.last_saved = path
        checkpoints.keep_only({step})

    def _stop_if_stuck(self, step: int) -> None:
        if skipped_in_a_row(self._folder) < self._config.learner.max_skipped_updates:
            return
        self.save(step)  # a resumed run then goes on with the next batch
        raise updates_skipped(self._folder)

    def _evaluate_if_due(self, row: JsonDict) -> None:
        """Put the mean reward of the set ``evaluation.during`` into the row, if it is evaluated."""
        if self._evaluation is None:
            return
        step, config = row["step"], self._config
        during = config.evaluation.during
        if step == config.steps:
            row[f"evaluation/{during}"] = self.evaluate(step).get(during)
        elif step % config.evaluation.every == 0 and config.data.evaluation:
            row[f"evaluation/{during}"] = self._evaluation.run(step, [during]).get(during)

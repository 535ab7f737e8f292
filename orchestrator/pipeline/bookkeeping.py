"""What a run leaves behind: evaluations, rows of metrics and checkpoints.

At the end of each step it does what is due, and it stops a run that no longer learns. A checkpoint
is written while the next step is sampled: it is begun at the end of a step, and it is waited for
before the weights change again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.pipeline.alarms import Alarms
from orchestrator.pipeline.background import Background
from orchestrator.pipeline.clock import Clock
from orchestrator.pipeline.fixed_evaluation import FixedEvaluation
from orchestrator.pipeline.learner_calls import learner_call
from orchestrator.pipeline.ledger import Ledger
from orchestrator.pipeline.roles import Learner
from orchestrator.pipeline.skipped import record_skipped, skipped_in_a_row, updates_skipped
from orchestrator.pipeline.step_row import spreads, without_nan
from orchestrator.record.progress import Progress
from orchestrator.record.run_folder import RunFolder
from orchestrator.settings.run_config import RunConfig
from policy.types import JsonDict
from rewards.scored_group import ScoredGroup, values_by_reward

if TYPE_CHECKING:
    from orchestrator.pipeline.stages import Stages

log = logging.getLogger("eg_grpo")


@dataclass(frozen=True)
class _Saving:
    """A checkpoint that is being written."""

    step: int
    folder: Path  # that it is written to
    reward: float | None  # of the fixed set that decides which checkpoint is the best
    writing: Background[None]


class Bookkeeper:
    """Owns what a run leaves behind: rows, pictures of evaluations, checkpoints."""

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        progress: Progress,
        evaluation: FixedEvaluation,
        stages: Stages,
        ledger: Ledger,
        told: Callable[[JsonDict], None],
        last_saved: Path | None,
    ) -> None:
        """``told`` gets each row that is written. ``last_saved`` is the checkpoint that the run
        goes on from; None in a new run."""
        self.last_saved = last_saved
        self._config = config
        self._folder = folder
        self._progress = progress
        self._evaluation = evaluation
        self._stages = stages
        self._ledger, self._told = ledger, told
        self._alarms = Alarms()
        self._saving: _Saving | None = None

    @property
    def finished(self) -> bool:
        """Whether the last step of the run is in a checkpoint."""
        return self.last_saved == self._folder.checkpoints.path(self._config.steps)

    def note(self, text: str) -> None:
        """Say something on the terminal that is no error."""
        self._progress.note(text)

    def evaluate(self, step: int) -> dict[str, float]:
        """Evaluate every fixed set, as a run does before its first and after its last step."""
        with self._progress.waiting("evaluating the fixed prompts"):
            rewards = self._evaluation.run(step)
        for name, reward in rewards.items():
            self._progress.note(f"step {step}: reward on {name} prompts {reward:.4f}")
        return rewards

    def evaluates(self, step: int) -> bool:
        """Whether the weights that ``step`` steps have made are evaluated."""
        config = self._config
        due = step % config.evaluation.every == 0 and bool(config.data.evaluation)
        return due or step == config.steps

    def end_step(
        self, row: JsonDict, scored: Sequence[ScoredGroup], clock: Clock, learner: Learner
    ) -> None:
        """Evaluate if it is due, write the step's row, then begin to save if that is due.

        The row is on disk before the checkpoint: a run that goes on from the checkpoint has it.
        Raises ``UpdatesSkipped`` when too many updates in a row were skipped.
        """
        step, during = row["step"], self._config.evaluation.during
        row["alarms"] = self._alarms.check(row, spreads(values_by_reward(scored)))
        record_skipped(self._folder, row, scored)
        with clock.stage("evaluate"):
            self._evaluate_if_due(row)
        row |= clock.row()
        self._ledger.check()
        written = without_nan(row)
        self._folder.append("metrics.jsonl", written)
        self._told(written)
        for alarm in row["alarms"]:
            log.warning("step %d: %s", step, alarm)
            self._progress.note(f"step {step}: ALARM: {alarm}")
        self._progress.step(written)

        reward = row.get(f"evaluation/{during}")
        checkpoints, every = self._folder.checkpoints, self._config.checkpoint.every
        due = step == self._config.steps or step % every == 0
        if due or checkpoints.is_better(during, reward):
            self.save(step, learner, reward)
        if row.get("updates/skipped"):
            self._stop_if_stuck(step, learner)

    def save(self, step: int, learner: Learner, reward: float | None = None) -> None:
        """Begin to write the checkpoint of ``step``, unless it is written or being written."""
        written = self.last_saved == self._folder.checkpoints.path(step)
        if written or (self._saving is not None and self._saving.step == step):
            return
        self.finish_saving()
        self._ledger.check()
        folder = self._folder.checkpoints.begin(step)
        writing = learner_call(partial(learner.save, folder), "saving")
        self._stages.workers.watch(writing)
        self._saving = _Saving(step, folder, reward, writing)

    def finish_saving(self) -> None:
        """Wait for the checkpoint that is being written, if there is one.

        Older checkpoints are deleted then, but for the best one. Raises what the learner raises.
        """
        if self._saving is None:
            return
        saving, self._saving = self._saving, None
        self._stages.wait_for(saving.writing)
        saving.writing.result()
        # Learner ranks do not ask the ledger. Their work counts only if this driver has the run.
        self._ledger.check()
        checkpoints = self._folder.checkpoints
        if self._config.stages == "rollout":  # no rank has written anything
            self.last_saved = checkpoints.path(saving.step)
        else:
            self.last_saved = checkpoints.finish(saving.step, saving.folder)
        self._ledger.checkpointed(saving.step)
        checkpoints.keep_only({saving.step})
        checkpoints.note_best(self._config.evaluation.during, saving.step, saving.reward)

    def rewind(self, step: int) -> None:
        """Go on after ``step``: rows and checkpoints of later steps are deleted."""
        self._saving = None
        self._alarms = Alarms()
        self._folder.fall_back(step)
        self.last_saved = self._folder.checkpoints.last()

    def _stop_if_stuck(self, step: int, learner: Learner) -> None:
        if skipped_in_a_row(self._folder) < self._config.learner.max_skipped_updates:
            return
        self.save(step, learner)  # a resumed run then goes on with the next batch
        self.finish_saving()
        raise updates_skipped(self._folder)

    def _evaluate_if_due(self, row: JsonDict) -> None:
        """Put the mean reward of the set ``evaluation.during`` into the row, if it is evaluated."""
        step, config = row["step"], self._config
        during = config.evaluation.during
        if step == config.steps:
            row[f"evaluation/{during}"] = self.evaluate(step).get(during)
        elif self.evaluates(step):
            with self._progress.waiting(f"evaluating the {during} prompts"):
                row[f"evaluation/{during}"] = self._evaluation.run(step, [during]).get(during)

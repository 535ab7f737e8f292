"""Trains one run in this process: what ``eg-grpo train`` computes, and nothing else.

Engine, rewards and learner rank are those of a run with one rollout worker and one learner rank.
There are no actors, no ledger, no checkpoints, no reports and no pictures, which cost more than
the numbers themselves. A slow test holds that evaluations, metrics and weights are those of
``eg-grpo train``, to the bit.

Failure policy: a reward that fails ends the run. Nothing is kept of a run that does not finish.
"""

from __future__ import annotations

import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.published import published_weights
from evaluation.summary import summarise
from learner.algorithm.advantages import default_minimum_survivors, group_advantages
from learner.rank import LearnerRank
from learner.rank_settings import Place
from learner.shares import TrainingGroup, split_over_ranks
from learner.step_checkpoint import MODEL
from orchestrator.pipeline.order import evaluation_requests, step_prompts, training_request
from orchestrator.pipeline.step_row import reward_metrics, without_nan
from orchestrator.settings.input_checks import check_inputs
from orchestrator.settings.run_config import RunConfig
from orchestrator.settings.worker_settings import learner_settings
from policy.errors import RunFailed
from policy.types import Group, JsonDict
from rewards.factory import build_reward
from rewards.scored_group import ScoredGroup, failure_reasons
from rewards.scoring import RewardScorer
from rewards.totals import training_totals, weighted_totals
from rollout.transformers_engine import load_transformers_engine

_LOOPBACK = "127.0.0.1"


class Training:
    """A run whose model is loaded. ``cpu_seconds`` counts the time of this process by stage."""

    def __init__(self, config: RunConfig) -> None:
        """Load the model; raises ``UserError`` for input that ``eg-grpo train`` refuses."""
        self.config = config
        self.cpu_seconds: dict[str, float] = defaultdict(float)
        with self._stage("start"):
            inputs = self._inputs = check_inputs(config)
            self._engine = load_transformers_engine(
                config.rollout,
                inputs.model_path,
                config.model.template,
                inputs.instruction,
                config.model.dtype,
            )
            self._scorers = {
                reward.name: RewardScorer(build_reward(reward), reward.batch_size)
                for reward in config.rewards
            }
            self._rank = LearnerRank(
                learner_settings(config, inputs), Place(0, 1, _LOOPBACK, _free_port())
            )
        # Digest of the weights that the engine serves.
        self.weights = self._push()

    def train(self, steps: int, report: Callable[[int], None]) -> list[JsonDict]:
        """So many steps; returns the metrics of each, without its times. ``report`` is told each
        step, from 1 on."""
        rows = []
        for step in range(steps):
            rows.append(self._step(step))
            report(step + 1)
        return rows

    def evaluate(self) -> list[tuple[JsonDict, list[Group]]]:
        """Every fixed set at every guidance scale: the row of ``evaluations.jsonl`` but for the
        step, and what was drawn."""
        config, found = self.config, []
        with self._stage("evaluate"):
            for name, prompts in self._inputs.evaluation_sets.items():
                requests = evaluation_requests(
                    name,
                    prompts[: config.evaluation.prompts],
                    config.evaluation.samples_per_prompt,
                )
                samplings = config.evaluation_samplings
                drawn = self._engine.generate_at_scales(requests, samplings)
                for sampling, groups in zip(samplings, drawn, strict=True):
                    where = {"set": name, "guidance_scale": sampling.guidance_scale}
                    found.append((where | summarise(self._scored(groups)), groups))
        return found

    def save(self, folder: Path) -> None:
        """Write the weights as a checkpoint to ``folder``, whose name is ``MODEL``."""
        assert folder.name == MODEL
        self._rank.write_model(folder.parent)

    def close(self) -> None:
        """Release DeepSpeed's global state."""
        self._rank.close()

    def _step(self, step: int) -> JsonDict:
        """One step of the algorithm, counted from 0; see ``orchestrator.pipeline.training``."""
        config = self.config
        prompts = step_prompts(self._inputs.prompts, config.prompts_per_step, config.seed, step)
        requests = [
            training_request(config, prompt, step, place, draw=0)
            for place, prompt in enumerate(prompts)
        ]
        with self._stage("rollout"):
            groups = self._engine.generate(requests, config.training_sampling(step))
        with self._stage("reward"):
            scored = self._scored(groups)
        with self._stage("learn"):
            batch, advantages = self._batch(groups, scored)
            learned = self._rank.update(split_over_ranks(batch, 1)[0])
        self.weights = self._push()
        return without_nan(reward_metrics(scored, advantages) | learned)

    def _batch(
        self, groups: Sequence[Group], scored: Sequence[ScoredGroup]
    ) -> tuple[list[TrainingGroup], list[list[float | None]]]:
        config = self.config
        minimum = config.algorithm.minimum_survivors or default_minimum_survivors(
            config.rollout.group_size
        )
        batch, advantages = [], []
        totals = training_totals(scored, config.rewards)
        for group, of_group in zip(groups, totals, strict=True):
            values = group_advantages(of_group.values, minimum, of_group.size)
            assert values is not None  # no reward has failed
            batch.append(TrainingGroup(group, tuple(values)))
            advantages.append(values)
        return batch, advantages

    def _scored(self, groups: Sequence[Group]) -> list[ScoredGroup]:
        """Raises ``RunFailed`` when a reward fails."""
        weights = {reward.name: reward.weight for reward in self.config.rewards}
        scored = []
        for group in groups:
            images = [trajectory.image for trajectory in group.trajectories]
            results = {
                name: tuple(scorer.score(images, [group.prompt] * len(images)))
                for name, scorer in self._scorers.items()
            }
            totals = tuple(weighted_totals(results, weights))
            scored.append(ScoredGroup(group.prompt, totals, results))
        for reason in failure_reasons(scored):
            raise RunFailed(f"reward {reason}")
        return scored

    def _push(self) -> str:
        """Have the engine serve the learner's weights; returns their digest."""
        with self._stage("sync"):
            sent, weights = published_weights(self._rank)
            arrived = self._engine.load_weights(weights, sent.weight_version)
        if arrived.checksum != sent.checksum:
            raise RunFailed(f"weight version {sent.weight_version} arrived with other bytes")
        return sent.checksum

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        started = time.process_time()
        try:
            yield
        finally:
            self.cpu_seconds[name] += time.process_time() - started


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        return int(probe.getsockname()[1])

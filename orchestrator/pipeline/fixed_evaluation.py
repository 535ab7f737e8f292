"""Evaluation on fixed prompts with fixed seeds, before, during and after training.

The prompts and the noise are the same at every step, so that two evaluations differ by the weights
alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.summary import summarise
from orchestrator.pipeline.order import evaluation_requests
from orchestrator.pipeline.roles import Rollout
from orchestrator.pipeline.sample_records import TokenMaps, sample_row
from orchestrator.pipeline.stages import Stages
from orchestrator.record.run_folder import RunFolder
from orchestrator.record.sheets import Tile, contact_sheet, save_png
from orchestrator.settings.run_config import RunConfig
from policy.sampling import Sampling
from policy.types import Group, JsonDict, Prompt, Trajectory
from rewards.scored_group import ScoredGroup

# The pictures that are kept of each set: of so many prompts, so many samples each.
SHOWN_PROMPTS, SHOWN_SAMPLES = 8, 2


class FixedEvaluation:
    """Evaluates the weights that the rollout workers serve at the moment."""

    def __init__(
        self,
        config: RunConfig,
        sets: dict[str, list[Prompt]],
        rollout: Rollout,
        stages: Stages,
        folder: RunFolder,
        tokens: TokenMaps,
    ) -> None:
        self.config = config
        self.sets = {name: prompts[: config.evaluation.prompts] for name, prompts in sets.items()}
        self.rollout = rollout
        self.stages = stages
        self.folder = folder
        self.tokens = tokens
        self.samplings = config.evaluation_samplings

    def run(self, step: int, names: Sequence[str] | None = None) -> dict[str, float]:
        """Evaluate the named sets, or all sets; writes their rows and pictures.

        Returns the mean reward of each set at the first guidance scale. A set is missing from it
        if no sample of the set could be scored.
        """
        rewards: dict[str, float] = {}
        for name in names if names is not None else self.sets:
            for sampling in self.samplings:
                reward = self._evaluate(step, name, sampling)
                if sampling is self.samplings[0] and reward is not None:
                    rewards[name] = reward
        return rewards

    def _evaluate(self, step: int, name: str, sampling: Sampling) -> float | None:
        """Evaluate one set at one guidance scale; returns its mean reward.

        No reference to the groups is left when it returns, so Ray frees the object store.
        """
        shown = SHOWN_PROMPTS if sampling is self.samplings[0] else 0
        requests = evaluation_requests(
            name, self.sets[name], self.config.evaluation.samples_per_prompt
        )
        fetched: list[Group] | None = None
        while fetched is None:  # groups that are lost with their machine are sampled again
            groups, scored = self.stages.evaluate(requests, sampling)
            fetched = self.rollout.fetch(groups[:shown])
        row: JsonDict = {
            "step": step,
            "set": name,
            "guidance_scale": sampling.guidance_scale,
        } | summarise(scored)
        self.folder.append("evaluations.jsonl", row)
        if shown:
            self._keep_samples(step, name, fetched, scored)
        mean: float | None = row["reward/mean"]
        return mean

    def _keep_samples(
        self, step: int, name: str, groups: Sequence[Group], scored: Sequence[ScoredGroup]
    ) -> None:
        tiles = []
        for place, (group, scores) in enumerate(zip(groups, scored, strict=False)):
            for trajectory in group.trajectories[:SHOWN_SAMPLES]:
                image = f"step-{step:06d}/{name}-{place}-{trajectory.index_in_group}.png"
                tile = _tile(trajectory, scores)
                save_png(tile.image, self.folder.path / "samples" / image)
                tiles.append(tile)
                row = sample_row(step, name, image, trajectory, scores, self.tokens)
                self.folder.append("samples/records.jsonl", row)
        sheet = contact_sheet(tiles, columns=2 * SHOWN_SAMPLES)
        save_png(sheet, self.folder.path / "samples" / f"step-{step:06d}-{name}.png")


def _tile(trajectory: Trajectory, scores: ScoredGroup) -> Tile:
    total = scores.totals[trajectory.index_in_group]
    reward = "failed" if total is None else f"{total:.2f}"
    return Tile(trajectory.image, (f"{reward}  {scores.prompt.text}", trajectory.cot_text))

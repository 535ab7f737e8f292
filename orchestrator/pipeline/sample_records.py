"""Records samples for the report: their pictures, scores, advantages and token entropies.

The entropies are those that the rollout workers recorded. Their sets are those of the learner's
partition. A learner whose arithmetic differs from the rollout's in the last digits may put a token
that is at a percentile into another set.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from learner.config import AlgorithmConfig
from orchestrator.pipeline.roles import Rollout
from orchestrator.pipeline.step_batch import StepBatch
from orchestrator.record.run_folder import TRAINING_SAMPLES, RunFolder
from orchestrator.record.sheets import save_png
from orchestrator.record.token_maps import packed_map
from orchestrator.settings.model_size import ModelSize
from orchestrator.settings.run_config import RunConfig
from policy.encoding import PromptEncoder
from policy.templates import template_named
from policy.types import FloatArray, JsonDict, Score, Trajectory
from rewards.scored_group import ScoredGroup

# Of the groups that a run trains on, so many are recorded: the first ones of evenly spaced steps.
RECORDED_STEPS, RECORDED_GROUPS = 24, 2


class TokenMaps:
    """The entropies of a sample's tokens, and which of them the learner counts as low and high."""

    def __init__(
        self,
        load_encoder: Callable[[], PromptEncoder],
        text_vocab_size: int,
        num_codes: int,
        config: AlgorithmConfig,
    ) -> None:
        """The encoder is loaded when the first sample is recorded, because that imports
        transformers."""
        self._load_encoder, self._config = load_encoder, config
        self._text_vocab_size, self._num_codes = text_vocab_size, num_codes

    @classmethod
    def of(cls, config: RunConfig, model_path: Path, size: ModelSize) -> TokenMaps:
        """Those of a run, whose checkpoint folder is ``model_path``."""

        def load_encoder() -> PromptEncoder:
            from policy.checkpoint.tokenizer import load_tokenizer

            return PromptEncoder(load_tokenizer(model_path), template_named(config.model.template))

        return cls(load_encoder, size.text_vocab, size.codes, config.algorithm)

    @cached_property
    def _encoder(self) -> PromptEncoder:
        return self._load_encoder()

    def of_sample(self, trajectory: Trajectory) -> JsonDict:
        """The ``tokens`` of a row; see ``orchestrator.record.token_maps``."""
        guided = self._config.trained_distribution == "guided"
        image_entropies = (
            trajectory.image_entropies_guided if guided else trajectory.image_entropies_conditional
        )
        cot = self._map("cot", trajectory.cot_entropies / math.log(self._text_vocab_size))
        image = self._map("image", image_entropies / math.log(self._num_codes))
        return {
            "cot": cot | {"pieces": self._encoder.cot_pieces(trajectory.cot_ids)},
            "image": image,
        }

    def _map(self, modality: str, entropy_T: FloatArray) -> JsonDict:
        config = self._config
        guided = config.method == "eg-grpo" and config.modalities in ("both", modality)
        low_T, high_T = partition(entropy_T, config.low_quantile, config.high_quantile)
        return packed_map(entropy_T, low_T & guided, high_T & guided)


def partition(
    entropy_T: FloatArray, low_quantile: float, high_quantile: float
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """``learner.algorithm.partition.entropy_partition`` of one row of valid tokens, to the bit.

    It is written again in NumPy, because the driver would need torch for this alone.
    """
    wide_T = entropy_T.astype(np.float64)
    if not len(wide_T):
        return wide_T < 0, wide_T > 0
    sorted_T = np.sort(wide_T)

    def percentile(quantile: float) -> np.float64:
        position = quantile * (len(sorted_T) - 1)
        below, above = sorted_T[math.floor(position)], sorted_T[math.ceil(position)]
        return below + (position - math.floor(position)) * (above - below)

    return wide_T < percentile(low_quantile), wide_T > percentile(high_quantile)


def sample_row(
    step: int, name: str, image: str, trajectory: Trajectory, scores: ScoredGroup, tokens: TokenMaps
) -> JsonDict:
    """The row of one sample of the set ``name``. ``image`` is its picture's path in samples/."""
    index = trajectory.index_in_group
    results = {reward: r[index] for reward, r in scores.results.items()}
    return {
        "step": step,
        "set": name,
        "prompt_id": scores.prompt.id,
        "prompt": scores.prompt.text,
        "task": scores.prompt.task_type,
        "index": index,
        "seed": trajectory.seed,
        "cot": trajectory.cot_text,
        "total": scores.totals[index],
        "rewards": {
            reward: r.value if isinstance(r, Score) else None for reward, r in results.items()
        },
        "not_applicable": [
            reward for reward, r in results.items() if isinstance(r, Score) and not r.applicable
        ],
        "failures": {reward: r.reason for reward, r in results.items() if not isinstance(r, Score)},
        "image": image,
        "tokens": tokens.of_sample(trajectory),
    }


class TrainingSamples:
    """Records some of the groups that a run trains on, whole: also the failed trajectories.

    These are the first two groups of at most 25 steps: of step 1, of every N-th step after it, and
    of the last one. N is the number of steps / 24, rounded up. What is recorded depends on nothing
    that was sampled, so that it is no choice of good or bad images.
    """

    def __init__(self, steps: int, folder: RunFolder, rollout: Rollout, tokens: TokenMaps) -> None:
        self._steps, self._every = steps, math.ceil(steps / RECORDED_STEPS)
        self._folder, self._rollout, self._tokens = folder, rollout, tokens

    def keep(self, step: int, batch: StepBatch) -> None:
        """Record groups of ``step``, counted from 1, if it is one of the steps above.

        Nothing is recorded if a group is lost with its machine. The learner then says so.
        """
        if (step - 1) % self._every and step != self._steps:
            return
        groups = self._rollout.fetch(batch.groups[:RECORDED_GROUPS])
        for place, group in enumerate(groups or ()):
            scores, advantages = batch.scored[place], batch.advantages[place]
            for trajectory in group.trajectories:
                index = trajectory.index_in_group
                image = f"training/step-{step:06d}-{place}-{index}.png"
                save_png(trajectory.image, self._folder.path / "samples" / image)
                row = sample_row(step, "training", image, trajectory, scores, self._tokens)
                row |= {"advantage": advantages[index], "group": place}
                self._folder.append(TRAINING_SAMPLES, row)

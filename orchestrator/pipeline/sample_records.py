"""Records samples for the report: their pictures, scores, advantages and token entropies.

The entropies are those that the rollout workers recorded. Their sets are those of the learner's
partition. A learner whose arithmetic differs from the rollout's in the last digits may put a token
that is at a percentile into another set.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from learner.algorithm.partition import partition_by_modality
from learner.config import AlgorithmConfig
from orchestrator.pipeline.roles import Rollout
from orchestrator.pipeline.step_batch import StepBatch
from orchestrator.record.run_folder import TRAINING_SAMPLES, RunFolder
from orchestrator.record.sheets import save_png
from orchestrator.record.token_maps import packed_map
from orchestrator.settings.run_config import RunConfig
from policy.checkpoint.loading import load_encoder, read_config
from policy.encoding import PromptEncoder
from policy.types import JsonDict, Score, Trajectory
from rewards.scored_group import ScoredGroup

# Of the groups that a run trains on, so many are recorded: the first ones of evenly spaced steps.
RECORDED_STEPS, RECORDED_GROUPS = 24, 2


class TokenMaps:
    """The entropies of a sample's tokens, and which of them the learner counts as low and high."""

    def __init__(
        self, encoder: PromptEncoder, text_vocab_size: int, num_codes: int, config: AlgorithmConfig
    ) -> None:
        self._encoder, self._config = encoder, config
        self._text_vocab_size, self._num_codes = text_vocab_size, num_codes

    @classmethod
    def of(cls, config: RunConfig, model_path: Path) -> TokenMaps:
        """Those of a run, whose checkpoint folder is ``model_path``."""
        model = read_config(model_path)
        encoder = load_encoder(model_path, config.model.template)
        text: Any = model.text_config
        coder: Any = model.vq_config
        return cls(encoder, text.vocab_size, coder.num_embeddings, config.algorithm)

    def of_sample(self, trajectory: Trajectory) -> JsonDict:
        """The ``tokens`` of a row; see ``orchestrator.record.token_maps``."""
        guided = self._config.trained_distribution == "guided"
        image_entropies = (
            trajectory.image_entropies_guided if guided else trajectory.image_entropies_conditional
        )
        cot_T = torch.from_numpy(trajectory.cot_entropies / math.log(self._text_vocab_size))
        image_T = torch.from_numpy(image_entropies / math.log(self._num_codes))
        entropy_1T = torch.cat([cot_T, image_T])[None]
        is_cot_1T = (torch.arange(entropy_1T.shape[1]) < len(cot_T))[None]
        sets = partition_by_modality(
            entropy_1T,
            is_cot_1T,
            ~is_cot_1T,
            self._config.modalities if self._config.method == "eg-grpo" else "none",
            self._config.low_quantile,
            self._config.high_quantile,
        )
        entropy_T, low_T, high_T = (value_1T[0].numpy() for value_1T in (entropy_1T, *sets))
        pieces = self._encoder.cot_pieces(trajectory.cot_ids)
        count = len(pieces)
        cot = packed_map(entropy_T[:count], low_T[:count], high_T[:count])
        image = packed_map(entropy_T[count:], low_T[count:], high_T[count:])
        return {"cot": cot | {"pieces": pieces}, "image": image}


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

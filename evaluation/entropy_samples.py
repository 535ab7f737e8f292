"""The sampled dataset of the entropy analyses (paper sections 4 and 6.5), as columns of numbers.

A setting is a model, drawn with or without a CoT. For each prompt a setting has several CoTs, and
for each CoT several images. All entropies are normalised: nats over the log of the vocabulary.

Shape legend: S = images, K = CoTs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from policy.types import Group, Trajectory

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

# The distribution whose entropies of image tokens are analysed. Images are drawn from the guided
# one, and the authors' sampler records its entropies. Training ranks tokens by the conditional one.
Entropies = Literal["guided", "conditional"]
# How the spread of an image entropy over the images of one CoT is measured.
Spread = Literal["std", "variance"]


@dataclass(frozen=True)
class SampledImage:
    """One image of the dataset. Means and standard deviations are over tokens."""

    setting: str
    prompt_id: str
    prompt: str
    task_type: str
    cot: int  # counts the CoTs of a prompt
    image: int  # counts the images of a CoT
    cot_tokens: int
    cot_entropy_mean: float  # NaN without a CoT, as the next
    cot_entropy_std: float
    image_entropy_mean_guided: float
    image_entropy_std_guided: float
    image_entropy_mean_conditional: float
    image_entropy_std_conditional: float
    reward: float | None  # the weighted sum; None where a reward gave no score
    of_rewards: Mapping[str, float | None]  # the value of each reward, by its name


@dataclass(frozen=True)
class Vocabulary:
    """The sizes whose logs normalise entropies: text tokens and image codes."""

    text: int
    codes: int

    def of_cot(self, trajectory: Trajectory) -> Array:
        """The normalised entropies of the CoT's tokens."""
        return trajectory.cot_entropies.astype(np.float64) / np.log(self.text)

    def of_image(self, trajectory: Trajectory, entropies: Entropies) -> Array:
        """The normalised entropies of the image tokens."""
        nats = {
            "guided": trajectory.image_entropies_guided,
            "conditional": trajectory.image_entropies_conditional,
        }[entropies]
        return nats.astype(np.float64) / np.log(self.codes)


def sampled_images(
    setting: str,
    group: Group,
    totals: Sequence[float | None],
    of_rewards: Mapping[str, Sequence[float | None]],
    images_per_cot: int,
    vocabulary: Vocabulary,
) -> list[SampledImage]:
    """The rows of one group, whose images of one CoT stand side by side.

    ``totals`` are the weighted sums of the rewards, and ``of_rewards`` the values of each.
    """
    rows = []
    for place, (trajectory, total) in enumerate(zip(group.trajectories, totals, strict=True)):
        cot = vocabulary.of_cot(trajectory)
        guided = vocabulary.of_image(trajectory, "guided")
        conditional = vocabulary.of_image(trajectory, "conditional")
        rows.append(
            SampledImage(
                setting=setting,
                prompt_id=group.prompt.id,
                prompt=group.prompt.text,
                task_type=group.prompt.task_type,
                cot=place // images_per_cot,
                image=place % images_per_cot,
                cot_tokens=len(cot),
                cot_entropy_mean=float(cot.mean()) if len(cot) else float("nan"),
                cot_entropy_std=float(cot.std()) if len(cot) else float("nan"),
                image_entropy_mean_guided=float(guided.mean()),
                image_entropy_std_guided=float(guided.std()),
                image_entropy_mean_conditional=float(conditional.mean()),
                image_entropy_std_conditional=float(conditional.std()),
                reward=total,
                of_rewards={name: values[place] for name, values in of_rewards.items()},
            )
        )
    return rows


@dataclass(frozen=True)
class ImageTable:
    """The images of one setting that all rewards scored, S."""

    setting: str
    prompt_S: Integers  # place of the prompt in the order of first appearance
    cot_S: Integers
    cot_entropy_S: Array
    image_entropy_S: Array
    reward_S: Array

    @property
    def with_cot(self) -> bool:
        return bool(np.isfinite(self.cot_entropy_S).any())


def image_tables(rows: Sequence[SampledImage], entropies: Entropies) -> list[ImageTable]:
    """One table for each setting, in the order of first appearance.

    A prompt has the same number in all of them.
    """
    prompts = dict.fromkeys(row.prompt_id for row in rows)
    places = {prompt: place for place, prompt in enumerate(prompts)}
    tables = []
    for setting in dict.fromkeys(row.setting for row in rows):
        scored = [row for row in rows if row.setting == setting and row.reward is not None]
        tables.append(
            ImageTable(
                setting=setting,
                prompt_S=np.array([places[row.prompt_id] for row in scored], np.int64),
                cot_S=np.array([row.cot for row in scored], np.int64),
                cot_entropy_S=np.array([row.cot_entropy_mean for row in scored], np.float64),
                image_entropy_S=np.array(
                    [getattr(row, f"image_entropy_mean_{entropies}") for row in scored], np.float64
                ),
                reward_S=np.array([row.reward for row in scored], np.float64),
            )
        )
    return tables


@dataclass(frozen=True)
class CotTable:
    """The CoTs of one setting with at least two scored images, K; means are over these images."""

    setting: str
    prompt_K: Integers
    cot_K: Integers
    cot_entropy_K: Array
    entropy_K: Array  # mean of the images' entropies
    std_K: Array  # standard deviation of the images' entropies, unbiased
    reward_K: Array

    def spread_K(self, spread: Spread) -> Array:
        return self.std_K if spread == "std" else self.std_K**2

    def take(self, rows: Integers | NDArray[np.bool_]) -> CotTable:
        """The table of these CoTs alone."""
        return CotTable(
            setting=self.setting,
            prompt_K=self.prompt_K[rows],
            cot_K=self.cot_K[rows],
            cot_entropy_K=self.cot_entropy_K[rows],
            entropy_K=self.entropy_K[rows],
            std_K=self.std_K[rows],
            reward_K=self.reward_K[rows],
        )


def cot_table(images: ImageTable) -> CotTable:
    """The means and spreads over the images of each CoT of a setting."""
    pairs, place_S, count_K = np.unique(
        np.stack([images.prompt_S, images.cot_S]), axis=1, return_inverse=True, return_counts=True
    )
    place_S = place_S.reshape(-1)

    def mean_K(values_S: Array) -> Array:
        return np.bincount(place_S, weights=values_S, minlength=len(count_K)) / count_K

    entropy_K = mean_K(images.image_entropy_S)
    squares_K = mean_K((images.image_entropy_S - entropy_K[place_S]) ** 2)
    several = count_K > 1
    std_K = np.sqrt(squares_K[several] * count_K[several] / (count_K[several] - 1))
    return CotTable(
        setting=images.setting,
        prompt_K=pairs[0][several],
        cot_K=pairs[1][several],
        cot_entropy_K=mean_K(images.cot_entropy_S)[several],
        entropy_K=entropy_K[several],
        std_K=std_K,
        reward_K=mean_K(images.reward_S)[several],
    )

"""What a suite is: prompts, the number of images of each, and columns of a table.

Every column is built in two steps, so that all suites can be compared in the same way. First each
prompt gets one value in one or more strata. A stratum is a set of prompts whose values are
averaged, such as the 300 prompts of ``color_val.txt``. A column is a weighted sum of the means of
strata.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from policy.moments import mean
from policy.types import JsonDict, Prompt, Score


@dataclass(frozen=True)
class Item:
    """One prompt of a suite."""

    prompt: Prompt  # with what its scorers need to know, in ``evaluation``
    stratum: str
    scorers: tuple[str, ...]  # names of the rewards that judge its images
    # The number under which the programs of the suite's authors know the prompt.
    number: int = 0
    also: tuple[str, ...] = ()  # other strata that the prompt's value belongs to


@dataclass(frozen=True)
class Column:
    """A number of the suite's table: ``scale`` times the weighted sum of the strata's means."""

    name: str
    weights: Mapping[str, float]  # by stratum
    scale: float = 100.0
    # Decimals to which the original rounds each mean before the sum; None does not round.
    decimals: int | None = None
    not_comparable: str = ""  # why published figures of this name cannot be compared

    def value(self, means: Mapping[str, float | None]) -> float | None:
        """The column from the means of the strata; None if one of them is missing."""
        total = 0.0
        for stratum, weight in self.weights.items():
            found = means.get(stratum)
            if found is None:
                return None
            total += weight * (found if self.decimals is None else round(found, self.decimals))
        return self.scale * total


# The scores of one prompt: by the name of the scorer, one for each image in order.
Scores = Mapping[str, Sequence[Score]]


@dataclass(frozen=True)
class Suite:
    """Prompts, protocol and table of a suite."""

    name: str
    about: str  # one sentence for the help of the command
    images_per_prompt: int
    load: Callable[[Path], list[Item]]  # from the folder of the public files
    columns: tuple[Column, ...]
    measure: Callable[[Item, Scores], dict[str, float]]  # the prompt's value in each stratum
    # The name under which the original programs look for an image: of its item, its index from 0
    # on, and the number of images of each prompt.
    official_name: Callable[[Item, int, int], str] | None = None
    lists: Mapping[str, str] = field(default_factory=dict)  # prompt file -> which version it is
    # What a table needs to know of the single images of a prompt, for ``per_image`` of a result.
    per_image: Callable[[Item, Scores], JsonDict] | None = None
    # Versions of the programs that have analysed the prompts, from the folder of the public files.
    analysed_by: Callable[[Path], Mapping[str, str]] | None = None


def image_means(item: Item, scores: Scores) -> dict[str, float]:
    """The mean over the prompt's images of the mean over its scorers, in the item's strata."""
    by_image = zip(*scores.values(), strict=True)
    value = mean([mean([score.value for score in of_image]) for of_image in by_image])
    return dict.fromkeys((item.stratum, *item.also), value)


def stratum_means(values: Mapping[str, Mapping[str, float]]) -> dict[str, float | None]:
    """The mean of each stratum over its prompts, from ``values[stratum][prompt id]``."""
    return {
        stratum: mean(list(of_prompts.values())) if of_prompts else None
        for stratum, of_prompts in values.items()
    }


def columns_of(
    columns: Sequence[Column], values: Mapping[str, Mapping[str, float]]
) -> dict[str, float | None]:
    """The value of every column. A value that is not finite becomes None."""
    means = stratum_means(values)
    found = {column.name: column.value(means) for column in columns}
    return {
        name: value if value is not None and math.isfinite(value) else None
        for name, value in found.items()
    }

"""The three rewards of the shapes world. They judge the decoded pixels and nothing else.

A configuration names them as ``factory: shapes.rewards:Attributes`` (``Structure``,
``Cleanliness``). Their weights in the embedded default are 0.4, 0.4 and 0.2.

Failure policy: an image of another size or type, and a prompt that this world cannot draw, give a
``RewardFailure`` with the reason. They never give a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from policy.types import Prompt, RewardFailure, RewardResult, Score
from shapes.detector import DetectedObject, Detection, detect
from shapes.request import Request, holds, parse_request
from shapes.world import Kind

WEIGHTS = {"attributes": 0.4, "structure": 0.4, "cleanliness": 0.2}
_EXTRA_OBJECT = 0.25  # structure lost for every object that was not asked for
_JUNK = 60.0  # cleanliness lost per unit of ``Detection.junk_fraction``
_FULL_IOU = 0.95  # an object with this IoU counts as perfectly drawn


@dataclass(frozen=True)
class Judgement:
    """The values of the three rewards for one image, each in [0, 1]."""

    attributes: float
    structure: float
    cleanliness: float

    @property
    def strict(self) -> bool:
        """Whether the image shows exactly what was asked for, and nothing else."""
        return self.attributes == 1 and self.structure == 1

    @property
    def total(self) -> float:
        """The weighted sum of the three, with the weights of the embedded default."""
        return sum(weight * getattr(self, name) for name, weight in WEIGHTS.items())


def judge(image: NDArray[np.uint8], prompt: Prompt) -> Judgement | RewardFailure:
    """Judge an image (uint8 H W 3) against a prompt."""
    try:
        request = parse_request(prompt)
    except ValueError as error:
        return RewardFailure(f"prompt {prompt.id}: {error}")
    try:
        detection = detect(image)
    except ValueError as error:
        return RewardFailure(str(error))
    attributes, structure = (_count if request.task == "numeracy" else _pair)(request, detection)
    return Judgement(attributes, structure, _cleanliness(detection))


class Attributes:
    """Rewards the colours and shapes that were asked for."""

    def score(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]
    ) -> list[RewardResult]:
        """One ``Score`` in [0, 1], or the reason why there is none, per image."""
        return [
            result if isinstance(result, RewardFailure) else Score(result.attributes)
            for result in map(judge, images, prompts)
        ]


class Structure:
    """Rewards the number and the arrangement of objects that were asked for.

    ``detail["strict"]`` is 1 if the image shows exactly what was asked for, else 0.
    """

    def score(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]
    ) -> list[RewardResult]:
        """One ``Score`` in [0, 1], or the reason why there is none, per image."""
        return [
            result
            if isinstance(result, RewardFailure)
            else Score(result.structure, {"strict": float(result.strict)})
            for result in map(judge, images, prompts)
        ]


class Cleanliness:
    """Rewards images without stray pixels, whose objects are crisp."""

    def score(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]
    ) -> list[RewardResult]:
        """One ``Score`` in [0, 1], or the reason why there is none, per image."""
        return [
            result if isinstance(result, RewardFailure) else Score(result.cleanliness)
            for result in map(judge, images, prompts)
        ]


def _match(found: DetectedObject, kind: Kind) -> float:
    return 0.5 * (found.colour == kind.colour) + 0.5 * (found.shape == kind.shape)


def _count(request: Request, detection: Detection) -> tuple[float, float]:
    wanted = request.number
    matches = [_match(found, request.kinds[0]) for found in detection.objects]
    good = sum(match == 1 for match in matches)
    wrong = abs(good - wanted) + len(matches) - good
    return min(1.0, sum(matches) / wanted), max(0.0, 1 - wrong / wanted)


def _pair(request: Request, detection: Detection) -> tuple[float, float]:
    matches = np.array(
        [[_match(found, kind) for kind in request.kinds] for found in detection.objects]
    ).reshape(-1, len(request.kinds))
    rows, columns = linear_sum_assignment(matches, maximize=True)
    assigned = {
        int(column): detection.objects[row]
        for row, column in zip(rows, columns, strict=True)
        if matches[row, column] > 0
    }
    values = [_match(found, request.kinds[column]) for column, found in assigned.items()]
    extra = max(0, len(detection.objects) - len(request.kinds))
    attributes = sum(values) / len(request.kinds)
    if request.locality is None:
        achieved = sum(value == 1 for value in values) / len(request.kinds)
    else:
        achieved = float(len(assigned) == 2 and _related(assigned, request.locality))
    return attributes, max(0.0, achieved - _EXTRA_OBJECT * extra)


def _related(assigned: dict[int, DetectedObject], locality: str) -> bool:
    return holds(locality, assigned[0].x - assigned[1].x, assigned[0].y - assigned[1].y)


def _cleanliness(detection: Detection) -> float:
    if not detection.objects:
        return 0.0
    crisp = np.mean([min(1.0, found.iou / _FULL_IOU) for found in detection.objects])
    return float(max(0.0, 1 - _JUNK * detection.junk_fraction) * crisp)

"""GenEval's and T2I-CompBench's scores with a tiny GroundingDINO: rules and boxes put together.

The rules are tested on boxes in ``test_scorers_geneval_rules.py`` and
``test_scorers_unidet_rules.py``, and the detector in ``test_rewards_grounding_dino.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from benchmarks.small_models.tiny_rewards import images, save_grounding_dino
from benchmarks.small_models.tiny_scorers import save_openai_clip
from policy.errors import UserError
from policy.types import Prompt, RewardFailure, Score
from rewards.config import RewardConfig
from rewards.detection.boxes import relation
from rewards.detection.geneval_rules import COLOURS
from rewards.factory import check_factory
from rewards.models.grounding_dino_detector import GroundingDino
from rewards.scorers.colours import ColourNames, crop
from rewards.scorers.compbench_detection import CompBenchNumeracyReward, CompBenchSpatialReward
from rewards.scorers.geneval import GenEvalReward
from rewards.scorers.one_by_one import locate
from rewards.scorers.openai_clip import load_clip

IMAGES = images(3)


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_grounding_dino(tmp_path_factory.mktemp("dino")))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_openai_clip(tmp_path_factory.mktemp("clip")))


def prompt(evaluation: Any) -> Prompt:
    return Prompt("t:1", "a", "", evaluation=evaluation)


def number_found(dino: str, name: str, threshold: float) -> int:
    """Of boxes in the first image."""
    ((_, scores),) = locate(GroundingDino(dino, "cpu"), IMAGES[:1], [[name]], threshold)[0].values()
    return len(scores)


def test_a_name_is_looked_for_alone(dino: str) -> None:
    """Its boxes are the same beside other names and images, in pixels, inside the image."""
    detector = GroundingDino(dino, "cpu")
    (alone,) = locate(detector, IMAGES[1:2], [["bird"]], 0.1)
    together = locate(detector, IMAGES, [["car", "zebra"], ["zebra", "bird"], []], 0.1)
    assert [list(found) for found in together] == [["car", "zebra"], ["zebra", "bird"], []]
    for found, expected in zip(together[1]["bird"], alone["bird"], strict=True):
        assert np.allclose(found, expected, atol=1e-3)
    boxes, scores = alone["bird"]
    assert len(boxes) == len(scores) > 0
    assert boxes.min() >= 0
    assert boxes.max() <= 48
    assert boxes.max() > 1


def test_geneval_judges_by_its_own_threshold_for_counting(dino: str, clip: str) -> None:
    """As many boxes as are above the threshold of the prompt's tag."""
    reward = GenEvalReward(dino, clip, threshold=0.1, counting_threshold=0.999)
    number = number_found(dino, "car", 0.1)
    assert number > 0
    rows = [
        {"tag": tag, "include": [{"class": "car", "count": count}]}
        for tag, count in (("two_object", number), ("two_object", number + 1), ("counting", number))
    ]
    assert reward.score(IMAGES[:1] * 3, [prompt(row) for row in rows]) == [
        Score(1.0), Score(0.0), Score(0.0),
    ]  # fmt: skip
    assert GenEvalReward(dino, clip).not_comparable.startswith("objects are found by GroundingDINO")


def test_geneval_asks_for_the_colour_that_clip_names(dino: str, clip: str) -> None:
    """One of the ten colours is right and the nine others are wrong."""
    reward = GenEvalReward(dino, clip, threshold=0.1)
    rows = [
        {"tag": "colors", "include": [{"class": "car", "count": 1, "color": colour}]}
        for colour in COLOURS
    ]
    results = reward.score(IMAGES[:1] * 10, [prompt(row) for row in rows])
    assert sorted(result.value for result in results if isinstance(result, Score)) == [0.0] * 9 + [
        1.0
    ]


def test_the_colour_is_the_nearest_mean_text(clip: str) -> None:
    """Of three texts a colour, each normalised, their mean normalised again."""
    scorer, _ = load_clip(clip, torch.device("cpu"), torch.float32)
    box = np.array([3.0, 4.0, 40.0, 30.0], np.float32)
    with torch.no_grad():
        image = scorer.image_features([IMAGES[0][4:30, 3:40]])[0]
        cosines = []
        for colour in COLOURS:
            texts = [f"a photo of a {colour} car", f"a photo of a {colour}-colored car",
                     f"a photo of a {colour} object"]  # fmt: skip
            alone = [scorer.text_features([text])[0] for text in texts]
            cosines.append(float(normalize(torch.stack(alone).mean(0), dim=0) @ image))
    expected = COLOURS[int(np.argmax(cosines))]
    assert ColourNames(scorer).of(IMAGES[0], "car", box[None]) == [expected]


def test_pil_rounds_the_corners_of_a_crop() -> None:
    """3.5 to 4 and 4.5 to 4, halves to even."""
    box = np.array([3.5, 4.5, 10.4, 20.6], np.float32)
    assert np.array_equal(crop(IMAGES[0], box), IMAGES[0][4:21, 4:10])


@pytest.mark.parametrize("evaluation", [None, {}, {"tag": "colors", "include": []}])
def test_a_prompt_without_a_row_of_geneval_fails(dino: str, clip: str, evaluation: Any) -> None:
    """It fails alone; its neighbour is judged."""
    row = {"tag": "single_object", "include": [{"class": "car", "count": 1}]}
    results = GenEvalReward(dino, clip).score(IMAGES[:2], [prompt(evaluation), prompt(row)])
    assert isinstance(results[0], RewardFailure)
    assert results[0].reason.startswith("prompt t:1: its evaluation is no row of GenEval: '")
    assert isinstance(results[1], Score)


def test_wrong_thresholds_are_refused(dino: str, clip: str) -> None:
    """Before any worker starts."""
    with pytest.raises(UserError, match=r"counting_threshold: 1\.5 is not at least 0 and below 1"):
        GenEvalReward.check(dino, clip, counting_threshold=1.5)


def test_the_number_of_distinct_boxes_is_counted(dino: str) -> None:
    """Half for being there, half for the number; people are looked for as persons."""
    reward = CompBenchNumeracyReward(dino)
    numbers = [
        result.value
        for result in reward.score(
            IMAGES[:1] * 5, [prompt({"counts": [["car", number]]}) for number in range(1, 6)]
        )
        if isinstance(result, Score)
    ]
    assert sorted(numbers) == [0.5] * 4 + [1.0]
    person, woman = reward.score(
        IMAGES[:1] * 2, [prompt({"counts": [[name, 1]]}) for name in ("person", "woman")]
    )
    assert person == woman


def test_a_spatial_score_adds_probabilities_and_relation(dino: str) -> None:
    """A quarter of the two best probabilities, and half of the relation of their boxes."""
    located = locate(GroundingDino(dino, "cpu"), IMAGES[:1], [["car", "yes"]], 0.3)[0]
    best = {name: boxes[scores.argmax()] for name, (boxes, scores) in located.items()}
    expected = sum(0.25 * float(scores.max()) for _, scores in located.values())
    expected += 0.5 * relation(best["car"], best["yes"], "near", 150 / 512 * 48)
    assert expected > 0.5
    (near, none) = CompBenchSpatialReward(dino).score(
        IMAGES[:1] * 2,
        [prompt({"objects": ["car", "yes"], "locality": words}) for words in ("near", None)],
    )
    assert isinstance(near, Score)
    assert near.value == pytest.approx(expected, abs=1e-6)
    assert none == Score(0.0)


@pytest.mark.parametrize(
    ("kind", "evaluation", "reason"),
    [
        (CompBenchSpatialReward, None, "its evaluation has no 'objects'"),
        (CompBenchSpatialReward, {"objects": []}, "its evaluation has no 'locality'"),
        (CompBenchSpatialReward, {"objects": ["a"], "locality": None}, "its 'objects' are 1, not"),
        (CompBenchNumeracyReward, {}, "its evaluation has no 'counts'"),
        (CompBenchNumeracyReward, {"counts": []}, "its 'counts' are no list of names and numbers"),
        (CompBenchNumeracyReward, {"counts": [["car"]]}, "its 'counts' are no list of names and"),
        (CompBenchNumeracyReward, {"counts": [["car", "2"]]}, "its 'counts' are no list of names"),
    ],
)
def test_a_prompt_that_says_too_little_fails(
    dino: str, kind: Any, evaluation: Any, reason: str
) -> None:
    """With the key that is missing or wrong."""
    (result,) = kind(dino).score(IMAGES[:1], [prompt(evaluation)])
    assert isinstance(result, RewardFailure)
    assert reason in result.reason


@pytest.mark.parametrize("name", ["CompBenchSpatialReward", "CompBenchNumeracyReward"])
def test_the_factory_finds_the_scorers(dino: str, name: str) -> None:
    """By their names in a configuration, and names a checkpoint that is not there."""
    factory = f"rewards.scorers.compbench_detection:{name}"
    check_factory(RewardConfig(name="d", factory=factory, options={"model": dino}))
    with pytest.raises(UserError, match="nowhere does not exist"):
        check_factory(RewardConfig(name="d", factory=factory, options={"model": "/nowhere"}))

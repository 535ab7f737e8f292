"""The detector is exact, the rewards mean what they say, and failures are never numbers."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from policy.types import NumeracyItem, Prompt, RewardFailure, Score, SpatialInfo
from shapes.build.codes import add_grain, draw, looks_of
from shapes.render import render
from shapes.request import TASKS, Request
from shapes.rewards import Attributes, Cleanliness, Judgement, Structure, judge
from shapes.scenes import Item, Scene, sample_request, sample_scene
from shapes.world import HELD_OUT_KINDS, SEEN_KINDS, Kind

RED_CIRCLE, BLUE_SQUARE = Kind("red", "circle"), Kind("blue", "square")
ABOVE = Request("spatial", (RED_CIRCLE, BLUE_SQUARE), "above")
ITEMS = (Item(RED_CIRCLE, "small", 4, 4), Item(BLUE_SQUARE, "large", 8, 16))


def scenes(count: int, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [
        sample_scene(sample_request(rng, (*SEEN_KINDS, *HELD_OUT_KINDS)), rng) for _ in range(count)
    ]


def judged(image: NDArray[np.uint8], request: Request) -> Judgement:
    result = judge(image, request.prompt())
    assert isinstance(result, Judgement)
    return result


@pytest.mark.parametrize("task", TASKS)
def test_ground_truth_is_strict(task: str) -> None:
    """Every render is strictly right, plain, with grain and with pixel noise of 12 grey levels."""
    rng = np.random.default_rng(1)
    for scene in (scene for scene in scenes(200) if scene.request.task == task):
        plain = render(scene)
        noisy = np.clip(plain + rng.normal(0, 12, plain.shape), 0, 255).astype(np.uint8)
        for image in (plain, draw(add_grain(looks_of(scene), rng, band=None)), noisy):
            assert judged(image, scene.request).strict
            assert judged(image, scene.request).total > 0.95


def test_other_peoples_prompts_score_low() -> None:
    """An image judged against an unrelated prompt is hardly ever strict and scores below 0.4."""
    drawn = scenes(200)
    results = [
        judged(render(scene), other.request)
        for scene, other in zip(drawn, drawn[1:] + drawn[:1], strict=True)
    ]
    assert np.mean([result.strict for result in results]) <= 0.02
    assert np.mean([result.total for result in results]) < 0.4


@pytest.mark.parametrize(
    ("request_", "items", "attributes", "structure"),
    [
        (ABOVE, ITEMS, 1.0, 1.0),
        (replace(ABOVE, locality="below"), ITEMS, 1.0, 0.0),
        (ABOVE, ITEMS[:1], 0.5, 0.0),
        (ABOVE, (replace(ITEMS[0], kind=Kind("red", "cross")), ITEMS[1]), 0.75, 1.0),
        (ABOVE, (*ITEMS, Item(RED_CIRCLE, "small", 24, 4)), 1.0, 0.75),
        (Request("color", (RED_CIRCLE, BLUE_SQUARE)), ITEMS[1:], 0.5, 0.5),
        (Request("object", (RED_CIRCLE,)), ITEMS, 1.0, 0.75),
        (Request("numeracy", (RED_CIRCLE,), number=2), ITEMS[:1], 0.5, 0.5),
        (Request("numeracy", (RED_CIRCLE,), number=2), ITEMS, 0.5, 0.0),
        (Request("numeracy", (RED_CIRCLE,), number=2), (), 0.0, 0.0),
    ],
)
def test_parts_of_the_reward(
    request_: Request, items: tuple[Item, ...], attributes: float, structure: float
) -> None:
    """Literal scenes: a wrong relation, a missing, a wrong and an extra object, a wrong count."""
    result = judged(render(Scene(request_, items)), request_)
    assert (result.attributes, result.structure) == pytest.approx((attributes, structure))


def test_junk_costs_cleanliness_only() -> None:
    """Eight stray pixels are no object; they cost 60 * 8 / 1024 of the cleanliness."""
    image = render(Scene(ABOVE, ITEMS))
    clean = judged(image, ABOVE)
    image[28:30, 0:4] = (220, 40, 40)
    dirty = judged(image, ABOVE)
    assert (dirty.attributes, dirty.structure) == (1.0, 1.0)
    assert dirty.cleanliness == pytest.approx(clean.cleanliness * (1 - 60 * 8 / 1024))
    empty = np.full((32, 32, 3), 245, np.uint8)
    assert judged(empty, ABOVE).cleanliness == 0.0


def test_rewards_return_one_typed_result_per_image() -> None:
    """Scores equal the judgement's parts; a failure leaves its neighbours' scores alone."""
    good, prompt = render(Scene(ABOVE, ITEMS)), ABOVE.prompt()
    images = [good, good[:16], good]
    assert Attributes().score(images, [prompt] * 3)[::2] == [Score(1.0)] * 2
    assert Structure().score([good], [prompt]) == [Score(1.0, {"strict": 1.0})]
    for reward in (Attributes(), Structure(), Cleanliness()):
        results = reward.score(images, [prompt] * 3)
        assert [type(result) for result in results] == [Score, RewardFailure, Score]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"task_type": "texture"}, "no task type 'texture'"),
        ({"attr_nouns": ("pink circle",), "task_type": "object"}, "unknown colour 'pink'"),
        ({"attr_nouns": ("red star",), "task_type": "object"}, "unknown shape 'star'"),
        ({"attr_nouns": ("circle",), "task_type": "object"}, "not a colour and a shape"),
        ({"attr_nouns": (), "task_type": "object"}, "needs 1 objects, not 0"),
        ({"spatial_info": None}, "needs spatial_info"),
        ({"spatial_info": SpatialInfo("red circle", "blue square", "near")}, "relation 'near'"),
        ({"task_type": "numeracy"}, "exactly one entry in numeracy_info"),
        (
            {"task_type": "numeracy", "numeracy_info": (NumeracyItem("circle", 2),)},
            "needs 1 objects, not 2",
        ),
    ],
)
def test_unreadable_prompts_fail_with_the_reason(change: dict[str, object], reason: str) -> None:
    """What the world cannot draw is a failure, not a reward of 0."""
    prompt: Prompt = replace(ABOVE.prompt("file:7"), **change)  # type: ignore[arg-type]
    result = judge(render(Scene(ABOVE, ITEMS)), prompt)
    assert isinstance(result, RewardFailure)
    assert "file:7" in result.reason
    assert reason in result.reason


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((32, 32), np.uint8),
        np.zeros((32, 32, 3), np.float32),
        np.zeros((384, 384, 3), np.uint8),
        "no image",
    ],
)
def test_what_is_no_image_fails(image: NDArray[np.uint8]) -> None:
    """Wrong shape, dtype or type is a failure that names what was expected."""
    result = judge(image, ABOVE.prompt())
    assert isinstance(result, RewardFailure)
    assert "uint8 (32, 32, 3)" in result.reason


def test_rewards_do_not_import_torch() -> None:
    """A reward worker starts without torch or transformers."""
    code = (
        "import sys, shapes.rewards; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'ray')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

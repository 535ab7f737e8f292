"""Questions about rendered scenes: the answers are what the detector of the rewards finds."""

from __future__ import annotations

from collections import defaultdict

from shapes.detector import DetectedObject, detect
from shapes.questions import SCALE, SceneQuestion, scene_questions
from shapes.request import holds
from shapes.world import COLOURS, NUMBERS, SHAPES

QUESTIONS = scene_questions(200)


def seen(question: SceneQuestion) -> tuple[DetectedObject, ...]:
    """The objects in the image, in its own 32 pixels."""
    assert question.image.shape == (384, 384, 3)
    return detect(question.image[::SCALE, ::SCALE]).objects


def between(text: str, before: str, after: str) -> str:
    """What stands between two texts; fails if they are not there."""
    assert text.startswith(before)
    assert text.endswith(after)
    return text[len(before) : len(text) - len(after)]


def test_the_answer_is_what_the_image_shows() -> None:
    """For every question of its kind, read from its own text."""
    for question in QUESTIONS[0::4]:
        shape = between(question.text, "What colour is the ", "?")
        assert [one.colour for one in seen(question) if one.shape == shape] == [question.answer]
        assert {question.answer, *question.others} == set(COLOURS)
    for question in QUESTIONS[1::4]:
        colour = between(question.text, "What shape is the ", " object?")
        assert [one.shape for one in seen(question) if one.colour == colour] == [question.answer]
        assert {question.answer, *question.others} == set(SHAPES)
    for question in QUESTIONS[2::4]:
        between(question.text, "How many ", " are there?")
        assert len(seen(question)) == NUMBERS[question.answer]
        assert {question.answer, *question.others} == set(NUMBERS)
    for question in QUESTIONS[3::4]:
        names = between(question.text, "Where is the ", "?").split(", seen from the ")
        places = {f"{one.colour} {one.shape}": (one.x, one.y) for one in seen(question)}
        (x1, y1), (x2, y2) = (places[name] for name in names)
        assert holds(question.answer, x1 - x2, y1 - y2)
        assert not any(holds(other, x1 - x2, y1 - y2) for other in question.others)


def test_no_answer_is_right_most_of_the_time() -> None:
    """Who always says the same word is right in less than half of the questions of a kind."""
    answers = defaultdict(list)
    for place, question in enumerate(QUESTIONS):
        answers[place % 4].append(question.answer)
    for of_kind in answers.values():
        assert len(of_kind) == 50
        assert max(map(of_kind.count, of_kind)) < 25


def test_the_same_questions_every_time() -> None:
    """So that two checkpoints are asked the same, on any machine."""
    assert scene_questions(200) == QUESTIONS
    assert QUESTIONS[0].text == "What colour is the circle?"

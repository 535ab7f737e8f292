"""Questions about rendered scenes, whose right answers are known without any judge.

They are for ``eg-grpo evaluate understanding``: does a policy still see colours, shapes, numbers
and relations after RL? A quarter of the questions is of each kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from shapes.render import render
from shapes.scenes import Scene, sample_request, sample_scene
from shapes.world import COLOURS, NUMBERS, SHAPES

SCALE = 12  # 32 pixels become the 384 that Janus-Pro reads, with edges as sharp as before
_WORDS = {number: word for word, number in NUMBERS.items()}
_OPPOSITES = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}


@dataclass(frozen=True)
class SceneQuestion:
    """A question about a scene, its right answer and all wrong ones."""

    scene: Scene
    text: str
    answer: str
    others: tuple[str, ...]

    @property
    def image(self) -> NDArray[np.uint8]:
        """The scene, H W 3, larger by ``SCALE``."""
        return render(self.scene).repeat(SCALE, axis=0).repeat(SCALE, axis=1)


def scene_questions(count: int, seed: int = 0) -> list[SceneQuestion]:
    """So many questions, one of each kind in turn; the same seed gives the same questions."""
    rng = np.random.default_rng(seed)
    asked = islice(cycle(_KINDS.items()), count)
    return [ask(_scene(task, rng), rng) for task, ask in asked]


def _scene(task: str, rng: Generator) -> Scene:
    """A random scene of a task, in which no shape is there twice unless it is to be counted."""
    while True:
        request = sample_request(rng)
        shapes = [kind.shape for kind in request.kinds]
        if request.task == task and len(set(shapes)) == len(shapes):
            return sample_scene(request, rng)


def _colour(scene: Scene, rng: Generator) -> SceneQuestion:
    kind = scene.request.kinds[int(rng.integers(2))]
    question = f"What colour is the {kind.shape}?"
    return SceneQuestion(scene, question, kind.colour, _without(kind.colour, COLOURS))


def _shape(scene: Scene, rng: Generator) -> SceneQuestion:
    kind = scene.request.kinds[0]
    question = f"What shape is the {kind.colour} object?"
    return SceneQuestion(scene, question, kind.shape, _without(kind.shape, SHAPES))


def _number(scene: Scene, rng: Generator) -> SceneQuestion:
    word = _WORDS[scene.request.number]
    plural = SHAPES[scene.request.kinds[0].shape]
    return SceneQuestion(scene, f"How many {plural} are there?", word, _without(word, NUMBERS))


def _relation(scene: Scene, rng: Generator) -> SceneQuestion:
    first, second = scene.request.kinds
    answer = str(scene.request.locality)
    question = f"Where is the {first}, seen from the {second}?"
    return SceneQuestion(scene, question, answer, (_OPPOSITES[answer],))


def _without(answer: str, words: Iterable[str]) -> tuple[str, ...]:
    return tuple(word for word in words if word != answer)


# The task of a scene, and what is asked about it.
_KINDS: dict[str, Callable[[Scene, Generator], SceneQuestion]] = {
    "color": _colour,
    "object": _shape,
    "numeracy": _number,
    "spatial": _relation,
}

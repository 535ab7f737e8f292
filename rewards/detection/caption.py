"""Makes the caption for GroundingDINO, and says which of its characters name which object.

There are two ways: ours, and the public code's, in which the first and the last word stand for a
whole noun.
"""

from __future__ import annotations

from dataclasses import dataclass

from policy.types import Prompt

Span = tuple[int, int]  # first character in the caption, and the one after the last


@dataclass(frozen=True)
class DetectionPrompt:
    """Boxes that are found for the characters ``spans[i]`` get the name ``names[i]``.

    Example: ``DetectionPrompt("car . zebra.", ("car", "zebra"), (((0, 3),), ((6, 11),)))``.
    """

    caption: str
    names: tuple[str, ...]
    spans: tuple[tuple[Span, ...], ...]


def detection_prompt(prompt: Prompt) -> DetectionPrompt:
    """Name each object that the task's score asks about once, by all of its characters."""
    if prompt.task_type == "spatial" and prompt.spatial_info is not None:
        objects: tuple[str, ...] = (prompt.spatial_info.obj1, prompt.spatial_info.obj2)
    elif prompt.task_type == "numeracy":
        objects = tuple(item.obj_name for item in prompt.numeracy_info)
    else:
        objects = prompt.nouns
    names = tuple(dict.fromkeys(objects))
    spans = []
    start = 0
    for name in names:
        spans.append(((start, start + len(name)),))
        start += len(name) + len(" . ")
    return DetectionPrompt(" . ".join(names) + ".", names, tuple(spans))


def published_detection_prompt(prompt: Prompt) -> DetectionPrompt:
    """Name every noun by its first and last word, as the public code does.

    So the name of a noun of three words differs from every object's name. Nouns that occur twice
    are kept twice.
    """
    caption = " . ".join(prompt.nouns) + "."
    spans: list[tuple[Span, ...]] = []
    start = 0
    for noun in prompt.nouns:
        words = noun.strip().split(" ")
        end = start + (len(noun) if len(words) > 1 else len(words[0]))
        first, last = (start, start + len(words[0])), (end - len(words[-1]), end)
        spans.append((first, last) if len(words) > 1 else (first,))
        start = end + len(" . ")
    names = tuple(" ".join(caption[begin:end] for begin, end in span) for span in spans)
    return DetectionPrompt(caption, names, tuple(spans))

"""Reads what a scorer needs to know about a prompt: the keys of ``Prompt.evaluation``."""

from __future__ import annotations

from typing import Any

from policy.types import Prompt, RewardFailure


def needed(prompt: Prompt, key: str) -> Any:
    """The value of ``prompt.evaluation[key]``, or a failure that names the key and the prompt."""
    if prompt.evaluation is None or key not in prompt.evaluation:
        return RewardFailure(f"prompt {prompt.id}: its evaluation has no {key!r}")
    return prompt.evaluation[key]


def listed_texts(prompt: Prompt, key: str) -> list[str] | RewardFailure:
    """``needed``, if it is a list of texts."""
    value = needed(prompt, key)
    if isinstance(value, RewardFailure):
        return value
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        return RewardFailure(f"prompt {prompt.id}: its {key!r} is not a list of texts")
    return value

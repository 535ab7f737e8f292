"""Turns a pydantic error of settings into one line that names the key."""

from __future__ import annotations

import difflib
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError


def first_problem(settings: type[BaseModel], error: ValidationError) -> str:
    """The first problem as one line. For an unknown key it suggests the nearest known key."""
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"]).removesuffix(".[key]")
    if problem["type"] == "extra_forbidden":
        known = _keys_at(settings, problem["loc"][:-1])
        nearest = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        return f"unknown key {key}" + (f"; did you mean {nearest[0]}?" if nearest else "")
    if problem["type"] == "missing":
        return f"key {key} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{key}: {message}" if key else message


def _keys_at(model: Any, location: tuple[int | str, ...]) -> list[str]:
    for part in location:
        if isinstance(part, int):
            continue
        model = _model_in(model.model_fields[part].annotation)
    return list(model.model_fields)


def _model_in(annotation: Any) -> Any:
    """The settings class inside an annotation such as ``tuple[RewardConfig, ...]``."""
    if get_origin(annotation) in (tuple, list, Union, UnionType, Literal):
        inner = [_model_in(argument) for argument in get_args(annotation)]
        return next((found for found in inner if found is not None), None)
    return (
        annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    )

"""What every room's settings have in common: which keys, numbers and names there can be.

A wrong one is a pydantic error under the name of its key.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

IGNORED = "ignored"  # type of the error of a setting that another one makes useless
_INTEGERS = range(-(2**63), 2**63)  # what other programs can hold

Dtype = Literal["float32", "bfloat16"]  # of a policy's weights
# Of runs, rewards and evaluation sets: names become folders, files and keys of metrics.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
# Bounded, because Ray, sockets and locks raise at more, each in its own words.
Deadline = Annotated[float, Field(gt=0, le=10_000_000)]
Share = Annotated[float, Field(ge=0, le=1_000_000)]


@dataclass(frozen=True)
class Ignored:
    """A setting, by its dotted key below the class that says so, and why nothing reads it."""

    key: str
    reason: str
    decided_by: tuple[str, ...]  # keys whose values decide that


class Settings(BaseModel):
    """Unknown keys, numbers that cannot be and settings that nothing reads fail; then nothing
    changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def ignored(self) -> Iterator[Ignored]:
        """Settings that the others make useless; one that is not at its default is refused."""
        yield from ()

    @field_validator("*", mode="before")
    @classmethod
    def _check_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """True is 1 to Python and to pydantic, and integers are of any size to both."""
        field = cls.model_fields[info.field_name or ""]
        numeric = _holds(field.annotation, int, float) and not _holds(field.annotation, bool)
        errors = [_error("number", text, path) for path, text in _impossible(value, numeric)]
        if errors:
            raise ValidationError.from_exception_data(cls.__name__, errors)
        return value

    @model_validator(mode="after")
    def _refuse_ignored(self) -> Self:
        errors = [
            _error(
                IGNORED,
                found.reason,
                tuple(found.key.split(".")),
                {"key": found.key, "decided_by": found.decided_by},
            )
            for found in self.ignored()
            if not self._is_default(found.key)
        ]
        if errors:
            raise ValidationError.from_exception_data(type(self).__name__, errors)
        return self

    def _is_default(self, key: str) -> bool:
        *parents, name = key.split(".")
        owner: BaseModel = reduce(getattr, parents, self)
        default = type(owner).model_fields[name].get_default(call_default_factory=True)
        return bool(getattr(owner, name) == default)


def refuse(cls: type[BaseModel], key: str, text: str) -> ValidationError:
    """An error of a validator over several keys, under the name of one of them."""
    error = _error("value", text, tuple(key.split(".")))
    return ValidationError.from_exception_data(cls.__name__, [error])


def _error(
    kind: str, text: str, path: tuple[str | int, ...], context: dict[str, Any] | None = None
) -> InitErrorDetails:
    """The input is left out: it may be a secret."""
    # The text is handed over as context, because its own braces would be places of that.
    error = PydanticCustomError(kind, "{text}", {"text": text, **(context or {})})
    return InitErrorDetails(type=error, loc=path, input=None)


def _holds(annotation: Any, *kinds: type) -> bool:
    """Whether a field takes one of ``kinds``, in a sequence or a choice too."""
    if annotation in kinds or type(annotation) in kinds:  # the latter of a Literal's values
        return True
    return any(_holds(part, *kinds) for part in get_args(annotation))


def _impossible(
    value: Any, numeric: bool, path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Each number in plain data that is none, by its path."""
    if isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _impossible(item, numeric, (*path, key))
    elif isinstance(value, bool):
        if numeric:
            yield path, f"must be a number, not {str(value).lower()}"
    elif isinstance(value, int) and value not in _INTEGERS:
        yield path, "is an integer of more than 64 bits"
    elif isinstance(value, float) and not math.isfinite(value):
        yield path, f"must be a finite number, not {value}"

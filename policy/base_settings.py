"""The base class of all settings. It checks keys, numbers and names.

A wrong value becomes a pydantic error that names its key.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import parse_qs, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

IGNORED = "ignored"  # the type of the pydantic error for a setting that nothing reads
_INTEGERS = range(-(2**63), 2**63)  # other programs read integers of 64 bits

# The types that the weights of a policy may have.
Dtype = Literal["float32", "bfloat16"]
# A name of a run, a reward or an evaluation set. Names become folders, files and metric keys.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
# Seconds. Bounded, because Ray, sockets and locks each raise their own error for larger values.
Deadline = Annotated[float, Field(gt=0, le=10_000_000)]
Share = Annotated[float, Field(ge=0, le=1_000_000)]
# Of a GPU, for a process that can use only one.
GpuShare = Annotated[float, Field(ge=0, le=1)]


def _check_custom(resources: dict[str, float]) -> dict[str, float]:
    counted = {"CPU", "GPU", "memory", "object_store_memory"}
    if known := counted & resources.keys():
        raise ValueError(f"{known.pop()} is counted by Ray itself and is no custom resource")
    return resources


# Custom resources of Ray: how much of each a worker needs, by name.
CustomResources = Annotated[
    dict[str, Annotated[float, Field(gt=0, le=1_000_000)]], AfterValidator(_check_custom)
]


def _check_redis_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError("must begin with redis://, rediss:// or unix://")
    if parts.password or "password" in parse_qs(parts.query):
        raise ValueError("give a URL with a password in REDIS_URL, which is written nowhere")
    return url


# The address of a Redis. Settings are written into the run folder, so it may have no password.
RedisUrl = Annotated[str, AfterValidator(_check_redis_url)]


@dataclass(frozen=True)
class Ignored:
    """A setting that nothing reads, because of the value of another setting."""

    # The dotted key, relative to the class whose ``ignored`` yields it.
    key: str
    reason: str
    decided_by: tuple[str, ...]  # the keys of the other settings


class Settings(BaseModel):
    """Settings of one part of the system. They cannot be changed after validation.

    Validation refuses unknown keys, impossible numbers, and settings that nothing reads.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def ignored(self) -> Iterator[Ignored]:
        """Settings that nothing reads, given the others. They must be left at their defaults."""
        yield from ()

    @field_validator("*", mode="before")
    @classmethod
    def _check_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what pydantic would accept as a number: booleans, huge integers, NaN, infinity."""
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
    """The error that a validator of several keys raises. It names one of them, ``key``."""
    error = _error("value", text, tuple(key.split(".")))
    return ValidationError.from_exception_data(cls.__name__, [error])


def _error(
    kind: str, text: str, path: tuple[str | int, ...], context: dict[str, Any] | None = None
) -> InitErrorDetails:
    """A pydantic error without the rejected input, because the input may be a secret."""
    # The text is passed as a value of a template, so that braces in it are not taken as fields.
    error = PydanticCustomError(kind, "{text}", {"text": text, **(context or {})})
    return InitErrorDetails(type=error, loc=path, input=None)


def _holds(annotation: Any, *kinds: type) -> bool:
    """Whether a field accepts one of the types ``kinds``, also inside a sequence or a union."""
    if annotation in kinds or type(annotation) in kinds:  # the second is for values of a Literal
        return True
    return any(_holds(part, *kinds) for part in get_args(annotation))


def _impossible(
    value: Any, numeric: bool, path: tuple[str | int, ...] = ()
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """The path of each impossible number in plain data, and the text of its error."""
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

"""Settings refuse what cannot be by the key's own name, whichever room they are of."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, JsonValue, ValidationError

from policy.base_settings import Deadline, Ignored, Name, Settings, Share, refuse


class Inner(Settings):
    number: float = 1.0


class Example(Settings):
    name: Name = "a"
    count: int = 1
    pair: tuple[float, float] = (0.1, 0.2)
    maybe: tuple[float, ...] | None = None
    stage: Literal[0, 1, 2] = 0
    flag: bool = False
    deadline_s: Deadline = 1.0
    share: Share = 0.0
    options: dict[str, JsonValue] = Field(default_factory=dict)
    inner: Inner = Inner()
    rule: str = "on"
    strength: float = 2.0

    def ignored(self) -> Iterator[Ignored]:
        if self.rule == "off":
            yield Ignored("strength", "has no effect with rule off", ("rule",))
            yield Ignored("inner.number", "has no effect with rule off", ("rule",))


def problem(**settings: Any) -> tuple[tuple[str | int, ...], str]:
    with pytest.raises(ValidationError) as caught:
        Example(**settings)
    (error,) = caught.value.errors()
    return error["loc"], error["msg"]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, "nan", "-inf", 10**400])
@pytest.mark.parametrize(
    ("place", "location"),
    [
        (lambda x: {"deadline_s": x}, ("deadline_s",)),
        (lambda x: {"share": x}, ("share",)),
        (lambda x: {"count": x}, ("count",)),
        (lambda x: {"pair": [0.5, x]}, ("pair", 1)),
        (lambda x: {"maybe": [x]}, ("maybe", 0)),
        (lambda x: {"inner": {"number": x}}, ("inner", "number")),
    ],
)
def test_no_number_is_infinite_or_none(place: Any, location: tuple[Any, ...], number: Any) -> None:
    """Written as YAML has them, as text, or as an integer that no float holds."""
    assert problem(**place(number))[0] == location


@pytest.mark.parametrize("number", [math.nan, math.inf, 2**63, -(2**63) - 1])
def test_options_hold_numbers_that_can_be(number: float) -> None:
    """At any depth of what a class of somebody else's is given."""
    location, _ = problem(options={"a": [1, {"b": number}]})
    assert location == ("options", "a", 1, "b")


@pytest.mark.parametrize("key", ["count", "deadline_s", "stage", "strength"])
def test_true_is_no_number(key: str) -> None:
    assert problem(**{key: True}) == ((key,), "must be a number, not true")
    assert problem(pair=[1, False]) == (("pair", 1), "must be a number, not false")
    assert Example(flag=True, options={"flag": True}).flag is True


@given(st.text(max_size=12))
def test_a_name_is_a_file_name_and_nothing_else(name: str) -> None:
    """Letters, digits, dot, underscore and dash, the first one of the first two."""
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
    fits = bool(name) and name[0] in letters and set(name) <= {*letters, *"._-"}
    try:
        Example(name=name)
    except ValidationError:
        assert not fits
    else:
        assert fits


def test_a_setting_that_another_makes_useless_is_refused_unless_it_is_the_default() -> None:
    """So that a file with every setting spelt out stays a file of settings."""
    assert problem(rule="off", strength=3) == (("strength",), "has no effect with rule off")
    assert problem(rule="off", inner={"number": 3}) == (
        ("inner", "number"),
        "has no effect with rule off",
    )
    Example(strength=3)
    assert Example(**Example(rule="off").model_dump()).rule == "off"


def test_no_value_is_in_the_error() -> None:
    """It may be a secret."""
    with pytest.raises(ValidationError) as caught:
        Example(rule="off", strength=31.5)
    assert "31.5" not in str(caught.value)
    assert refuse(Example, "inner.number", "is {odd}").errors()[0]["msg"] == "is {odd}"

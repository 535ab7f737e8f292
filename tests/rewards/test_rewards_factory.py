"""Rewards by ``factory: module:Class``: what is wrong is said in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from policy.errors import UserError
from policy.types import Score
from rewards.config import RewardConfig
from rewards.factory import build_reward, check_factory

MODULE = """
from policy.types import Score

BUILT = []

class Constant:
    def __init__(self, value, scale=1.0):
        if value < 0:
            raise ValueError("value is negative")
        BUILT.append(value)
        self.value = value * scale

    def score(self, images, prompts):
        return [Score(self.value) for _ in images]

class Picky(Constant):
    @classmethod
    def check(cls, value):
        return {"small": 1}[value]

class Mute:
    pass

def make(value):
    return Constant(value)

NUMBER = 3
"""


@pytest.fixture(autouse=True)
def _modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "user_rewards"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "simple.py").write_text(MODULE)
    (package / "broken.py").write_text("raise OSError('no disk')")
    (package / "needy.py").write_text("import a_package_nobody_has")
    monkeypatch.syspath_prepend(tmp_path)


def config(factory: str, **options: Any) -> RewardConfig:
    return RewardConfig(name="mine", factory=f"user_rewards.{factory}", options=options)


@pytest.mark.parametrize("factory", ["simple:Constant", "simple:make"])
def test_a_class_or_function_with_its_options_is_built(factory: str) -> None:
    """Options are the keyword arguments."""
    reward = build_reward(config(factory, value=0.5))
    assert reward.score([None], [None]) == [Score(0.5)]  # type: ignore[list-item]


def test_the_check_builds_nothing() -> None:
    """It only imports: a reward's model is loaded by its workers."""
    import user_rewards.simple as module

    module.BUILT.clear()
    check_factory(config("simple:Constant", value=0.5))
    assert module.BUILT == []


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        ("simpel:Constant", {}, "no module 'user_rewards.simpel'; did you mean "
                                "'user_rewards.simple'?"),
        ("simple:Constent", {}, "has no 'Constent'; did you mean 'Constant'?"),
        ("simple:Constant", {}, "missing a required argument: 'value'"),
        ("simple:Constant", {"value": 1, "sacle": 2}, "unexpected keyword argument 'sacle'"),
        ("simple:Mute", {}, "simple:Mute has no score() method"),
        ("simple:NUMBER", {}, "simple:NUMBER is not a class"),
        ("broken:Any", {}, "'user_rewards.broken' fails on import: OSError: no disk"),
        ("needy:Any", {}, "fails on import: ModuleNotFoundError: No module named "
                          "'a_package_nobody_has'"),
    ],
)  # fmt: skip
def test_a_wrong_factory_is_refused_before_anything_starts(
    factory: str, options: dict[str, Any], message: str
) -> None:
    """One line that names the reward and what is wrong, with the nearest name where one is near."""
    for refuse in (check_factory, build_reward):
        with pytest.raises(UserError) as caught:
            refuse(config(factory, **options))
        assert str(caught.value).startswith("reward 'mine': ")
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_check_that_fails_itself_is_one_line() -> None:
    """The key, the class and what it raised, and no traceback."""
    for refuse in (check_factory, build_reward):
        with pytest.raises(UserError) as caught:
            refuse(config("simple:Picky", value="large"))
        assert str(caught.value) == (
            "rewards.mine.options: user_rewards.simple:Picky cannot check them: KeyError: 'large'"
        )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("rewards.clip_score:ClipScoreReward", "rewards.models.clip_score:ClipScoreReward"),
        ("rewards.git:GitReward", "rewards.models.git:GitReward"),
        (
            "rewards.grounding_dino:GroundingDinoReward",
            "rewards.models.grounding_dino:GroundingDinoReward",
        ),
        ("rewards.hps:HpsReward", "rewards.models.hps:HpsReward"),
        ("rewards.orm:OrmReward", "rewards.models.orm:OrmReward"),
    ],
)
def test_a_factory_that_moved_is_answered_by_its_new_name(old: str, new: str) -> None:
    """One line with both names; under the new name there is the class."""
    with pytest.raises(UserError) as caught:
        check_factory(RewardConfig(name="mine", factory=old))
    assert str(caught.value) == f"rewards.mine: factory {old} is now {new}"
    with pytest.raises(UserError, match=f"options do not fit {new}"):  # it found the class
        check_factory(RewardConfig(name="mine", factory=new, options={"no": 1}))


def test_an_unknown_package_is_named() -> None:
    """Also when not even the first part of the module's name exists."""
    wrong = RewardConfig(name="mine", factory="user_reward.simple:Constant")
    with pytest.raises(UserError, match=r"no module 'user_reward\.simple'"):
        check_factory(wrong)


def test_a_class_that_refuses_its_options_is_reported() -> None:
    """What the constructor raises becomes the one line."""
    with pytest.raises(UserError, match="cannot be built: ValueError: value is negative"):
        build_reward(config("simple:Constant", value=-1))


@pytest.mark.parametrize("factory", ["simple", "simple:", ":Constant", "a b:C", "simple:Con-stant"])
def test_a_factory_has_the_form_module_class(factory: str) -> None:
    """Anything else fails with the settings."""
    with pytest.raises(ValidationError, match="factory"):
        RewardConfig(name="mine", factory=factory)


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_a_weight_is_finite(weight: float) -> None:
    """A total must be."""
    with pytest.raises(ValidationError, match="weight"):
        RewardConfig(name="mine", factory="simple:Constant", weight=weight)

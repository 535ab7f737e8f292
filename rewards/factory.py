"""Builds a reward from ``factory: module:Class``. Each mistake is reported in one clear line."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any, cast

from policy.errors import UserError
from rewards.config import RewardConfig
from rewards.protocol import Reward

# The factories of the model rewards before they moved to rewards/models/, and their names now.
MOVED = {
    f"rewards.{place}": f"rewards.models.{place}"
    for place in (
        "clip_score:ClipScoreReward",
        "git:GitReward",
        "grounding_dino:GroundingDinoReward",
        "hps:HpsReward",
        "orm:OrmReward",
    )
}


def check_factory(config: RewardConfig) -> None:
    """Raise ``UserError`` for a reward that could not be built, without building it.

    The check imports the module, looks up the class and fits ``options`` to its signature. It loads
    no model and needs no actor. A class may have a class method ``check(**options)`` that raises
    ``UserError`` for options that are wrong, such as a folder that does not exist. A class may
    have a class method ``longest_call_s(**options)``. A reward whose ``timeout_s`` is shorter than
    that is refused.
    """
    factory = _resolve(config)
    try:
        inspect.signature(factory).bind(**config.options)
    except (TypeError, ValueError) as error:
        raise _error(config, f"options do not fit {config.factory}: {error}") from None
    if inspect.isclass(factory):
        _check_score(config, factory)
        _check_options(config, factory)


def _check_options(config: RewardConfig, factory: type) -> None:
    """Call the class's own ``check`` and ``longest_call_s`` where it has them."""
    check, longest = (getattr(factory, name, None) for name in ("check", "longest_call_s"))
    try:
        if check:
            check(**config.options)
        longest_s = longest(**config.options) if longest else 0.0
    except UserError as error:
        raise _error(config, str(error)) from None
    except Exception as error:  # such as an option of a type that the author did not expect
        raise UserError(
            f"rewards.{config.name}.options: {config.factory} cannot check them: {_describe(error)}"
        ) from error
    if longest_s > config.timeout_s:
        raise UserError(
            f"rewards.{config.name}.timeout_s: {config.timeout_s:g} s is less than the"
            f" {longest_s:g} s that one call may take by its options"
        )


def build_reward(config: RewardConfig) -> Reward:
    """Build the reward. Raises ``UserError`` when ``check_factory`` does or the class fails."""
    check_factory(config)
    try:
        reward = _resolve(config)(**config.options)
    except UserError as error:
        raise _error(config, str(error)) from None
    except Exception as error:
        raise _error(config, f"{config.factory} cannot be built: {_describe(error)}") from error
    _check_score(config, reward)
    return cast(Reward, reward)


def _resolve(config: RewardConfig) -> Callable[..., Any]:
    if config.factory in MOVED:
        raise UserError(
            f"rewards.{config.name}: factory {config.factory} is now {MOVED[config.factory]}"
        )
    module_name, class_name = config.factory.split(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module_name}.".startswith(f"{missing}."):
            suggestion = _nearest(module_name, _siblings(module_name))
            raise _error(config, f"no module {module_name!r}{suggestion}") from None
        reason = _describe(error)
        raise _error(config, f"module {module_name!r} fails on import: {reason}") from error
    factory = getattr(module, class_name, None)
    if factory is None:
        suggestion = _nearest(class_name, vars(module))
        raise _error(config, f"module {module_name!r} has no {class_name!r}{suggestion}")
    if not callable(factory):
        raise _error(config, f"{config.factory} is not a class")
    return cast(Callable[..., Any], factory)


def _check_score(config: RewardConfig, reward: Any) -> None:
    if not callable(getattr(reward, "score", None)):
        raise _error(config, f"{config.factory} has no score() method")


def _siblings(module_name: str) -> list[str]:
    """Names of the modules in the same package as ``module_name``."""
    parent, _, _ = module_name.rpartition(".")
    try:
        paths = importlib.import_module(parent).__path__ if parent else None
    except (ImportError, AttributeError):
        return []
    return [f"{parent}.{m.name}".lstrip(".") for m in pkgutil.iter_modules(paths)]


def _nearest(name: str, known: Iterable[str]) -> str:
    matches = get_close_matches(name, list(known), n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _error(config: RewardConfig, problem: str) -> UserError:
    return UserError(f"reward {config.name!r}: {problem}")

"""The reference of all settings, made from the fields of the settings classes.

``eg-grpo config --reference`` prints docs/settings.md, and ``eg-grpo config --explain KEY`` one
setting or one group of them.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic.fields import FieldInfo

from orchestrator.settings.run_config import RunConfig
from policy.base_settings import Settings
from policy.errors import UserError

# The part of the system that reads the settings of a group, by the first part of their keys.
_READERS = {
    "deterministic": "all workers",
    "model": "rollout workers and learner ranks",
    "rollout": "the rollout workers",
    "rewards": "the workers of this reward",
    "cache": "the reward workers",
    "learner": "the learner ranks",
    "algorithm": "the learner ranks, in the loss",
}
_DRIVER = "the driver"  # reads all other settings
# Settings of these groups that the driver reads. It starts workers, waits for them, replaces them,
# and decides what each one does next.
_OF_THE_DRIVER = {
    *("rollout.workers", "rollout.min_workers", "rollout.max_workers", "rollout.autoscale"),
    *("rollout.group_size", "rollout.cpus_per_worker", "rollout.gpus_per_worker"),
    *("rollout.resources", "rollout.sleep_while_learning", "rollout.timeout_s"),
    *("rollout.load_timeout_s", "rollout.restarts", "rollout.attempts"),
    *("rewards", "rewards.N.weight", "rewards.N.normalise", "rewards.N.workers"),
    *("rewards.N.min_workers", "rewards.N.max_workers", "rewards.N.autoscale"),
    *("rewards.N.cpus_per_worker", "rewards.N.gpus_per_worker", "rewards.N.resources"),
    *("rewards.N.timeout_s", "rewards.N.retries", "rewards.N.retry_delay_s", "rewards.N.restarts"),
    "cache.training",
    *("learner.ranks", "learner.min_ranks", "learner.max_skipped_updates", "learner.restarts"),
    *("learner.cpus_per_rank", "learner.gpus_per_rank", "learner.resources", "learner.placement"),
    "learner.start_timeout_s",
    "algorithm.minimum_survivors",
}
_WORDS = {int: "integer", float: "number", str: "text", bool: "true or false", Path: "path"}
_BOUNDS = {Ge: "at least", Gt: "above", Le: "at most", Lt: "below"}
_REQUIRED = "must be given"
_ITEM = "N"  # stands for the index of a list in a key


@dataclass(frozen=True)
class Setting:
    """What a user may know about one setting."""

    key: str  # such as rewards.N.weight
    type: str
    default: str
    range: str  # empty where the type says it all
    description: str
    reader: str  # who uses it

    def text(self) -> str:
        """All of it in a few lines."""
        lines = [
            ("type", self.type),
            ("default", self.default),
            ("range", self.range),
            ("used by", self.reader),
        ]
        return f"{self.key}: {self.description}\n" + "".join(
            f"  {name:<8} {value}\n" for name, value in lines if value
        )


def all_settings() -> list[Setting]:
    """Every setting, in the order of the classes."""
    return list(_settings(RunConfig, ""))


def explained(key: str) -> str:
    """What a setting is. For a group of settings, such as ``learner``, a line for each of them.

    The key may have an index where a list is, or leave it out. Raises ``UserError`` for an unknown
    key and suggests the nearest known one.
    """
    asked = [part for part in key.split(".") if not part.isdecimal() and part != _ITEM]
    below = []
    for setting in all_settings():
        parts = [part for part in setting.key.split(".") if part != _ITEM]
        if parts == asked:
            return setting.text()
        if parts[: len(asked)] == asked:
            below.append(f"{setting.key}: {setting.description}\n")
    if below:
        return "".join(below)
    known = [setting.key.replace(f".{_ITEM}.", ".") for setting in all_settings()]
    near = get_close_matches(".".join(asked), known, n=1)
    raise UserError(f"{key} is no setting" + (f"; did you mean {near[0]}?" if near else ""))


def as_markdown() -> str:
    """docs/settings.md."""
    sections = [
        "# Settings\n\n"
        "<!-- Made by `eg-grpo config --reference > docs/settings.md`; a test holds it. -->\n\n"
        "Every setting of a run. `eg-grpo config --explain KEY` prints the same about one of them."
        " How files,\nbases and overrides are put together is said in"
        " [configuration.md](configuration.md).\n"
    ]
    groups: dict[str, list[Setting]] = {}
    for setting in all_settings():
        head, dot, _ = setting.key.partition(".")
        groups.setdefault(head if dot or head in _nested(RunConfig) else "", []).append(setting)
    for head, settings in groups.items():
        about = RunConfig if not head else _nested(RunConfig)[head]
        sections.append(
            f"## {head or 'The run'}\n\n{_summary(about)} {_used_by(head, settings)}\n\n"
            "| setting | type and range | default | what it is |\n|---|---|---|---|\n"
            + "".join(_table_row(setting) for setting in settings)
        )
    return "\n".join(sections)


def _used_by(head: str, settings: Sequence[Setting]) -> str:
    """Who reads the settings of a group, and which of them somebody else reads."""
    reader = _READERS.get(head, _DRIVER)
    others: dict[str, list[str]] = {}
    for setting in settings:
        if setting.reader != reader:
            others.setdefault(setting.reader, []).append(f"`{setting.key}`")
    exceptions = "".join(f"; by {other}: {', '.join(keys)}" for other, keys in others.items())
    return f"Used by {reader}{exceptions}."


def _table_row(setting: Setting) -> str:
    kind = ", ".join(filter(None, (setting.type, setting.range)))
    default = setting.default if setting.default == _REQUIRED else f"`{setting.default}`"
    text = setting.description.replace("*", "\\*").replace("<", "&lt;").replace("|", "\\|")
    return f"| `{setting.key}` | {kind} | {default} | {text} |\n"


def _summary(cls: type[Settings]) -> str:
    return (cls.__doc__ or "").partition("\n\n")[0].replace("\n", " ").strip()


def _settings(cls: type[Settings], prefix: str) -> Iterator[Setting]:
    for name, field in cls.model_fields.items():
        key = f"{prefix}{name}"
        inner, parts = _settings_class(field.annotation), _parts(field.annotation)
        if inner is None or parts != [inner]:  # a group that may be null or a list is a value too
            yield Setting(
                key,
                _type_text(field.annotation),
                _default_text(field),
                "; ".join(dict.fromkeys(_ranges(field.metadata, field.annotation))),
                _sentence(field.description or ""),
                _DRIVER if key in _OF_THE_DRIVER else _READERS.get(key.partition(".")[0], _DRIVER),
            )
        if inner is not None:
            item = f"{_ITEM}." if get_origin(field.annotation) is tuple else ""
            yield from _settings(inner, f"{key}.{item}")


def _nested(cls: type[Settings]) -> dict[str, type[Settings]]:
    """The classes of the fields that hold further settings, by the field's name."""
    found = {name: _settings_class(field.annotation) for name, field in cls.model_fields.items()}
    return {name: inner for name, inner in found.items() if inner is not None}


def _settings_class(annotation: Any) -> type[Settings] | None:
    """The class of settings that a field holds: itself, in a list, or unless it is null."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    return next(filter(None, map(_settings_class, get_args(annotation))), None)


def _parts(annotation: Any) -> list[Any]:
    """The members of a union, or the annotation alone."""
    if get_origin(annotation) in (Union, types.UnionType):
        return list(get_args(annotation))
    return [annotation]


def _type_text(annotation: Any) -> str:
    texts = [_one_type(part) for part in _parts(annotation)]
    return " or ".join(texts)


def _one_type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_text(arguments[0])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is tuple:
        if arguments[-1] is not ...:
            return " and ".join(_type_text(part) for part in arguments)
        return f"list of {_type_text(arguments[0])}"
    if origin is dict:
        return f"mapping to {_type_text(arguments[1])}"
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return "group of settings"
    return _WORDS.get(annotation, "any JSON value")


def _ranges(metadata: Sequence[Any], annotation: Any = None) -> Iterator[str]:
    """The bounds of a field's value, or of the values in its list or mapping."""
    for rule in metadata:
        for kind, words in _BOUNDS.items():
            if isinstance(rule, kind):
                yield f"{words} {getattr(rule, kind.__name__.lower()):,}"
        if isinstance(rule, FieldInfo):
            yield from _ranges(rule.metadata)
        if isinstance(rule, MinLen):
            yield "not empty"
        if isinstance(rule, MaxLen):
            yield f"at most {rule.max_length} characters"
        if pattern := getattr(rule, "pattern", None):
            yield f"matches `{pattern}`"
    if get_origin(annotation) is Annotated:
        yield from _ranges(get_args(annotation)[1:])
    for part in get_args(annotation):
        yield from _ranges((), part)


def _default_text(field: FieldInfo) -> str:
    if field.is_required():
        return _REQUIRED
    return _value_text(field.get_default(call_default_factory=True))


def _value_text(value: Any) -> str:
    """A value as YAML would have it, on one line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value_text, value))}]"
    return str(value)


def _sentence(text: str) -> str:
    return text if not text or text.endswith(".") else f"{text}."

"""Writes one group of trajectories to one safetensors file, and reads it back, without pickle.

Each array of a trajectory is a tensor. Its name is the trajectory's place in the group and the name
of the field, such as ``0.image_ids``. The metadata of the file has one entry, ``group``: a JSON
object with the prompt and with the other fields of each trajectory. The group that is read equals
the group that was written, to the bit and in every type.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_origin, get_type_hints

import numpy as np
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from policy.disk import write_whole
from policy.errors import UserError
from policy.text_files import parse_json
from policy.types import Group, Prompt, Trajectory

_ENTRY = "group"
_TYPES = get_type_hints(Trajectory)
_ARRAYS = [f.name for f in fields(Trajectory) if get_origin(_TYPES[f.name]) is np.ndarray]
_OTHERS = [f.name for f in fields(Trajectory) if f.name not in _ARRAYS]


@dataclass(frozen=True)
class _Record:
    """The JSON of a file."""

    prompt: Prompt
    trajectories: tuple[dict[str, Any], ...]
    format: Literal[1] = 1


# Arrays that the first files did not hold. They are read as empty there.
_LATER = ("image_logprobs_unconditional",)
_RECORD = TypeAdapter(_Record)
_FIELDS = {name: TypeAdapter(_TYPES[name]) for name in _OTHERS}


def write_group(file: Path, group: Group) -> None:
    """Write the group whole, or not at all. Raises ``NotWritten`` when it cannot be written."""
    # safetensors writes the memory of an array, and so a view that leaves parts out would come back
    # with other values.
    tensors = {
        f"{index}.{name}": np.ascontiguousarray(getattr(trajectory, name))
        for index, trajectory in enumerate(group.trajectories)
        for name in _ARRAYS
    }
    others = tuple({name: getattr(t, name) for name in _OTHERS} for t in group.trajectories)
    text = json.dumps(asdict(_Record(group.prompt, others)))
    write_whole(file, save(tensors, {_ENTRY: text}))


def read_group(file: Path) -> Group:
    """The group in a file that ``write_group`` wrote.

    Raises ``UserError`` when the file is missing or is not such a file. A value that was changed in
    place is not noticed: only a digest of the file shows that.
    """
    try:
        with safe_open(file, framework="numpy") as stored:
            text = (stored.metadata() or {})[_ENTRY]
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        record = _RECORD.validate_python(parse_json(text, file))
        trajectories = tuple(
            _trajectory(index, others, tensors) for index, others in enumerate(record.trajectories)
        )
    except FileNotFoundError:
        raise UserError(f"trajectory file {file} is missing") from None
    except (OSError, SafetensorError, KeyError, ValidationError, UserError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"trajectory file {file} is damaged, or is none: {reason}") from None
    return Group(record.prompt, trajectories)


def _trajectory(index: int, others: dict[str, Any], tensors: dict[str, Any]) -> Trajectory:
    values = {name: kind.validate_python(others[name]) for name, kind in _FIELDS.items()}
    names = [name for name in _ARRAYS if name not in _LATER or f"{index}.{name}" in tensors]
    return Trajectory(**values, **{name: tensors[f"{index}.{name}"] for name in names})

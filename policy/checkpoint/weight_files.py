"""Finds and reads the weight files of a checkpoint folder.

No file can run code. Pickled files are read by ``torch.load`` with ``weights_only``, which builds
tensors only.
"""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from policy.digest import sha256_of_each
from policy.errors import UserError
from policy.inner_path import stays_inside
from policy.text_files import read_json

SAFETENSORS, PICKLED = "model.safetensors", "pytorch_model.bin"


def weight_files(folder: Path, pickled: bool = False) -> list[Path]:
    """The files that hold the weights: model.safetensors, or the files that its index names.

    transformers finds the same files. A caller that reads them with ``read_tensors`` can pass
    ``pickled``: then *.safetensors of other names are accepted, and *.bin if there are none. Raises
    ``UserError`` when there is no file, or when a file that the index names is missing.
    """
    for name in (SAFETENSORS, PICKLED) if pickled else (SAFETENSORS,):
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return [folder / name]
        if index.is_file():
            return _indexed(folder, index)
        stem, suffix = name.split(".")
        found = sorted(folder.glob(f"{stem}*.{suffix}" if name == PICKLED else f"*.{suffix}"))
        if found and not pickled:
            raise UserError(
                f"checkpoint {folder} has {found[0].name}, but no {name} or {index.name}"
            )
        if found:
            return found
    wanted = f"*.safetensors or {PICKLED}" if pickled else "*.safetensors"
    raise UserError(f"checkpoint {folder} has no {wanted} file")


def weights_sha256(folder: Path) -> str:
    """One SHA-256 of the weights of a checkpoint folder, whatever its files are called."""
    digests = "".join(sha256_of_each(weight_files(folder)))
    return hashlib.sha256(digests.encode()).hexdigest()


def read_tensors(files: list[Path], shapes_only: bool = False) -> dict[str, Tensor]:
    """All tensors by key. They are mapped from disk where the format allows it.

    With ``shapes_only`` the tensors are on the meta device and no weights are read. Raises
    ``UserError`` for a file that cannot be read or holds anything but tensors.
    """
    tensors: dict[str, Tensor] = {}
    for file in files:
        read = _read_safetensors if file.suffix == ".safetensors" else _read_pickled
        try:
            tensors |= read(file, shapes_only)
        except (SafetensorError, OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"checkpoint file {file} is corrupt: {reason}") from None
    return tensors


def _read_safetensors(file: Path, shapes_only: bool) -> dict[str, Tensor]:
    with safe_open(file, framework="pt") as stored:
        keys = list(stored.keys())
        if shapes_only:
            return {k: torch.empty(stored.get_slice(k).get_shape(), device="meta") for k in keys}
        return {key: stored.get_tensor(key) for key in keys}


def _read_pickled(file: Path, shapes_only: bool) -> dict[str, Tensor]:
    options: dict[str, Any] = {
        "map_location": "meta" if shapes_only else "cpu",
        "weights_only": True,
    }
    try:
        state = torch.load(file, mmap=True, **options)
    except RuntimeError:  # a file from before torch 1.6 is not a zip file and cannot be mapped
        state = torch.load(file, mmap=False, **options)
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            # Some trainers store the weights under such a key, beside their own data.
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise UserError(f"checkpoint file {file} does not hold tensors by name")
    return state


def _indexed(folder: Path, index: Path) -> list[Path]:
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"checkpoint index {index} is not a weight index") from None
    for name in names:
        if not stays_inside(name):
            raise UserError(f"checkpoint index {index} names {name!r}, which is not in its folder")
        if not (folder / name).is_file():
            raise UserError(f"checkpoint {folder} has no {name}, which its index names")
    return [folder / name for name in names]

"""Loads a reward's model strictly: every weight comes from the checkpoint, or one line says why.

A checkpoint is a folder or the Hub's ``owner/name[@revision]``. Only tensors are unpickled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from policy.checkpoint.hub import checkpoint_folder
from policy.checkpoint.weight_files import weight_files
from policy.errors import UserError

_SAMPLES, _SAMPLE_BYTES = 256, 4096
# The releases in which scores were compared with those of the original models. Other releases are
# refused, because a release can be wrong: GroundingDINO is, before 5.23 (see
# ``grounding_dino_text.py``, which corrects it).
CHECKED = (
    "5.17.0 5.18.0 5.19.0 5.20.0 5.20.1 5.20.2 5.21.0 5.21.1 5.22.0 5.22.1 5.22.2 5.23.0 5.24.0"
).split()
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# The progress bars of transformers would break the run's own progress line.
transformers_logging.disable_progress_bar()


def reward_model_folder(checkpoint: str, needed: Sequence[str], weights: bool = True) -> Path:
    """The folder of a checkpoint whose model transformers computes.

    Raises ``UserError`` when the folder, a needed file or a weight file is missing, and when the
    installed transformers is not one of ``CHECKED``.
    """
    if transformers.__version__ not in CHECKED:
        raise UserError(
            f"transformers {transformers.__version__} was not checked against the original reward"
            f" models; checked: {', '.join(CHECKED)}"
        )
    folder = checkpoint_folder(checkpoint, needed, weights)
    if not folder.is_dir():
        raise UserError(f"checkpoint {folder} does not exist")
    for name in needed:
        if not (folder / name).is_file():
            raise UserError(f"checkpoint {folder} has no {name}")
    if weights:
        weight_files(folder, pickled=True)
    return folder


def weights_digest(files: Sequence[Path]) -> str:
    """Digest of each file's size and of 256 blocks of 4 KiB: reading all would take too long."""
    digest = hashlib.blake2b(digest_size=20)
    for file in files:
        size = file.stat().st_size
        digest.update(size.to_bytes(8))
        with file.open("rb") as content:
            for part in range(_SAMPLES):
                content.seek(size * part // _SAMPLES)
                digest.update(content.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def torch_device(name: str) -> torch.device:
    """The device of that name. ``auto`` is the worker's GPU, or the CPU if the worker has none."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(name)
    except RuntimeError:
        raise UserError(f"device: {name!r} is not a device such as auto, cpu or cuda") from None


def torch_dtype(name: str) -> torch.dtype:
    """The dtype of that name, for weights."""
    if name not in DTYPES:
        raise UserError(f"dtype: {name!r} is not one of {', '.join(DTYPES)}")
    return DTYPES[name]


def load_model(
    model_class: type[PreTrainedModel],
    folder: Path,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    ignored: Sequence[str] = (),
    **source: Any,
) -> Any:
    """``model_class`` with the weights of ``folder``, frozen and in evaluation mode.

    ``source`` goes to ``from_pretrained`` (``config``, ``key_mapping``, or ``state_dict`` in place
    of the folder's weights). Keys that begin with one of ``ignored`` may be missing or left over;
    any other missing, unexpected or misshapen tensor raises ``UserError``.
    """
    if "state_dict" not in source:
        source["pretrained_model_name_or_path"] = folder
    verbosity = transformers_logging.get_verbosity()
    # Below, an error is raised for each fault that transformers only warns of.
    transformers_logging.set_verbosity_error()
    try:
        loaded: Any = model_class.from_pretrained(
            **{"pretrained_model_name_or_path": None} | source,
            dtype=dtype,
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except OSError as error:
        raise UserError(f"checkpoint {folder}: {' '.join(str(error).split())}") from None
    finally:
        transformers_logging.set_verbosity(verbosity)
    model, info = loaded
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        names = (key if isinstance(key, str) else key[0] for key in info[problem])
        keys = sorted(key for key in names if not key.startswith(tuple(ignored)))
        if keys:
            raise UserError(
                f"checkpoint {folder}: {problem.replace('_', ' ')}: {len(keys)}, first {keys[0]}"
            )
    return model.to(device).eval().requires_grad_(False)

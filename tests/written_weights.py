"""Weights that follow from their names alone, so that numbers written down hold for them.

A model's own initialisation is another in another version of its library; ``RandomState`` is
frozen by numpy.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


def written_weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """Normal values: matrices by the size of their rows, norms about 0.3, biases about zero.

    Norms as small keep scores off the ends of a sigmoid, where all of them are alike.
    """
    values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) > 1:
        values /= np.sqrt(np.prod(shape[1:]))
    else:
        values = 0.1 * values + (0.3 if "norm" in name.lower() and name.endswith("weight") else 0.0)
    return torch.tensor(values, dtype=torch.float32)


def rewrite_weights(folder: Path) -> Path:
    """Replace every tensor of the folder's checkpoint; returns the folder."""
    file = folder / "model.safetensors"
    written = {
        name: written_weight(name, tuple(tensor.shape)) for name, tensor in load_file(file).items()
    }
    save_file(written, file, metadata={"format": "pt"})
    return folder

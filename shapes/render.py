"""Renders scenes exactly, without a model. Shape legend: H W = pixels."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from shapes.scenes import Scene
from shapes.world import BACKGROUND, COLOURS, IMAGE_SIZE


@lru_cache(maxsize=4096)
def shape_mask(shape: str, height: int, width: int) -> NDArray[np.bool_]:
    """The pixels of a ``height x width`` box whose centres a shape covers; a read-only array."""
    y = ((np.arange(height) + 0.5) / height - 0.5)[:, None]
    x = ((np.arange(width) + 0.5) / width - 0.5)[None, :]
    mask = {
        "circle": x**2 + y**2 <= 0.25,
        "square": np.ones((height, width), bool),
        "triangle": np.abs(x) <= (y + 0.5) / 2,
        "cross": (np.abs(x) <= 1 / 6) | (np.abs(y) <= 1 / 6),
    }[shape]
    mask.flags.writeable = False
    return mask


def render(scene: Scene) -> NDArray[np.uint8]:
    """The image of a scene without grain (``shapes.build.codes``), RGB, H W 3."""
    image = np.empty((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    image[:] = BACKGROUND
    for item in scene.items:
        box = image[item.y : item.y + item.pixels, item.x : item.x + item.pixels]
        box[shape_mask(item.kind.shape, item.pixels, item.pixels)] = COLOURS[item.kind.colour]
    return image

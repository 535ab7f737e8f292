"""Resizes images as the published programs do, with any version of Pillow.

Their Pillow goes across the image first, then down, and rounds between. Since version 13 Pillow
begins with the height of a tall image instead, which moves values by up to 15 of 255. In two calls
all versions are alike.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def resized(
    image: NDArray[np.uint8],
    size: tuple[int, int],
    resample: Image.Resampling = Image.Resampling.BICUBIC,
) -> NDArray[np.uint8]:
    """An image H W 3 with another ``size``, width and height."""
    across = Image.fromarray(image).resize((size[0], image.shape[0]), resample)
    return np.asarray(across.resize(size, resample))


def by_shortest(
    image: NDArray[np.uint8], side: int, resample: Image.Resampling = Image.Resampling.BICUBIC
) -> NDArray[np.uint8]:
    """An image H W 3 whose shortest side has ``side`` pixels; the other one is rounded down."""
    height, width = image.shape[:2]
    shortest = min(height, width)
    return resized(image, (int(side * width / shortest), int(side * height / shortest)), resample)

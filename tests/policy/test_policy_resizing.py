"""Resizing as Pillow did before its version 13."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from policy.resizing import by_shortest, resized

RNG = np.random.default_rng(3)


@pytest.mark.parametrize("shape", [(200, 37), (37, 200), (96, 96), (31, 30)])
def test_an_image_is_resized_across_and_then_down(shape: tuple[int, int]) -> None:
    """Each of the two is one call, whose order nothing can change. Values are bytes in between."""
    image = RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)
    across = Image.fromarray(image).resize((24, shape[0]), Image.Resampling.BICUBIC)
    down = across.resize((24, 48), Image.Resampling.BICUBIC)
    assert (resized(image, (24, 48)) == np.asarray(down)).all()


@pytest.mark.parametrize(
    ("height", "width", "shape"), [(200, 37, (129, 24)), (37, 200, (24, 129)), (50, 50, (24, 24))]
)
def test_the_shortest_side_is_named_and_the_other_rounded_down(
    height: int, width: int, shape: tuple[int, int]
) -> None:
    """24 x 200 / 37 is 129.7."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    assert by_shortest(image, 24).shape == (*shape, 3)

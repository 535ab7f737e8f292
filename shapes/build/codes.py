"""The codebook of image tokens: every distinct 4 x 4 patch of the world, in several shades.

A code is (colour, pattern, grain). Grain is a faint offset and ramp of brightness that does not
change what the picture shows. It gives image tokens an entropy of about 0.4 log K, as real
codebooks have. The number of background shades in use depends on the row of the patch (``BAND``).
This spreads the entropies of background tokens between 0 and 0.78 log K.

Shape legend: K = codes, N = image tokens in raster order, H W = pixels.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from shapes.render import render, shape_mask
from shapes.scenes import Scene
from shapes.world import BACKGROUND, COLOURS, IMAGE_SIZE, PATCH, SHAPES, SIZES

GRID = IMAGE_SIZE // PATCH
BAND = (16, 2, 64, 1, 128, 4, 32, 8)  # number of background shades in use in each row of patches
_BACKGROUND_SHADES, _SOLID_SHADES, _EDGE_SHADES, _COMMON_EDGE_SHADES = 128, 24, 2, 3
_COMMON_EDGES = 6  # the 6 most frequent edge patterns get one shade more, which makes K = 512
_GRAIN_LEVELS = 8.0  # brightness change in grey levels at an offset or a ramp of 1
_EDGE_GRAIN = ((-0.6, 0.0), (0.6, 0.0), (0.0, 0.8))
_R2 = 1.32471795724  # the plastic number: base of the two-dimensional low-discrepancy sequence
NO_PART = -1  # stands for colour and pattern in background codes, which have neither


@dataclass(frozen=True)
class CodeTable:
    """The K codes. A look is a distinct patch without grain; look 0 is the background."""

    look_K: NDArray[np.int64]
    colour_K: NDArray[np.int64]  # index into COLOURS, or NO_PART
    pattern_K: NDArray[np.int64]  # 0 is solid, higher numbers are edges; or NO_PART
    shade_K: NDArray[np.int64]  # number of the shade within its look, from 0
    grain_K2: NDArray[np.float64]  # brightness offset and ramp, each in -1..1
    patch_K: NDArray[np.float64]  # K 4 4 3, grey levels
    first_code: NDArray[np.int64]  # the first code of each look
    num_shades: NDArray[np.int64]  # the number of codes of each look
    look_of_patch: dict[bytes, int]  # bytes of a uint8 patch without grain -> look

    @property
    def num_codes(self) -> int:
        return len(self.look_K)

    @property
    def num_patterns(self) -> int:
        return int(self.pattern_K.max()) + 1


@lru_cache(maxsize=1)
def code_table() -> CodeTable:
    """Build the table. It depends on the constants of the world only."""
    background = np.empty((PATCH, PATCH, 3), np.uint8)
    background[:] = BACKGROUND
    looks = [(NO_PART, NO_PART, background)]
    shades = [_BACKGROUND_SHADES]
    for number, pattern in enumerate(_patterns()):
        for colour, rgb in enumerate(COLOURS.values()):
            patch = background.copy()
            patch[pattern] = rgb
            looks.append((colour, number, patch))
            edge = _COMMON_EDGE_SHADES if number <= _COMMON_EDGES else _EDGE_SHADES
            shades.append(_SOLID_SHADES if number == 0 else edge)
    num_shades = np.array(shades)
    look_K = np.repeat(np.arange(len(looks)), num_shades)
    first_code = np.cumsum(num_shades) - num_shades
    shade_K = np.arange(len(look_K)) - first_code[look_K]
    colour_K, pattern_K = (np.array([look[i] for look in looks])[look_K] for i in (0, 1))
    grain_K2 = np.where((pattern_K > 0)[:, None], np.array(_EDGE_GRAIN)[shade_K % 3], _r2(shade_K))
    ramp = np.linspace(-1, 1, PATCH)[None, :, None]
    clean_K = np.stack([look[2] for look in looks]).astype(float)[look_K]
    offset, slope = (grain_K2[:, i, None, None, None] for i in (0, 1))
    return CodeTable(
        look_K=look_K,
        colour_K=colour_K,
        pattern_K=pattern_K,
        shade_K=shade_K,
        grain_K2=grain_K2,
        patch_K=np.clip(clean_K + _GRAIN_LEVELS * (offset + slope * ramp), 0, 255),
        first_code=first_code,
        num_shades=num_shades,
        look_of_patch={look[2].tobytes(): i for i, look in enumerate(looks)},
    )


def looks_of(scene: Scene) -> NDArray[np.int64]:
    """The look of every patch of a scene, N."""
    table = code_table()
    patches = render(scene).reshape(GRID, PATCH, GRID, PATCH, 3).swapaxes(1, 2)
    return np.array([table.look_of_patch[p.tobytes()] for row in patches for p in row])


def add_grain(
    looks: NDArray[np.int64], rng: Generator, band: tuple[int, ...] | None = BAND
) -> NDArray[np.int64]:
    """Choose a code for every look (..., N), uniformly among its shades. Returns codes (..., N).

    In background patches only the first ``band[row]`` shades are in use. With ``band=None`` all
    are.
    """
    table = code_table()
    shades = table.num_shades[looks]
    if band is not None:
        in_use = np.repeat(band, GRID)
        shades = np.where(looks == 0, in_use, shades)
    return table.first_code[looks] + (rng.random(looks.shape) * shades).astype(np.int64)


def draw(codes: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The images (..., H, W, 3) of codes (..., N), put together from their patches."""
    lead = codes.shape[:-1]
    patches = np.rint(code_table().patch_K[codes]).astype(np.uint8)
    grid = patches.reshape(*lead, GRID, GRID, PATCH, PATCH, 3).swapaxes(-4, -3)
    return grid.reshape(*lead, IMAGE_SIZE, IMAGE_SIZE, 3)


def tokenise(image: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The nearest code to every patch of an image, N."""
    patches = image.reshape(GRID, PATCH, GRID, PATCH, 3).swapaxes(1, 2).reshape(GRID * GRID, -1)
    centres = code_table().patch_K.reshape(code_table().num_codes, -1)
    cross = patches.astype(float) @ centres.T
    return np.argmin((centres**2).sum(1) - 2 * cross, axis=1)


def _patterns() -> list[NDArray[np.bool_]]:
    """The distinct ways in which an object covers a patch.

    The first is the solid patch. Edges follow, the most frequent first.
    """
    counts: Counter[bytes] = Counter()
    for shape in SHAPES:
        for size in SIZES.values():
            cells = size // PATCH
            mask = shape_mask(shape, size, size).reshape(cells, PATCH, cells, PATCH)
            counts.update(part.tobytes() for part in mask.swapaxes(1, 2).reshape(-1, PATCH, PATCH))
    solid, empty = np.ones((PATCH, PATCH), bool), np.zeros((PATCH, PATCH), bool)
    edges = [key for key in counts if key not in (solid.tobytes(), empty.tobytes())]
    edges.sort(key=lambda key: (-counts[key], key))
    keys = [solid.tobytes(), *edges]
    return [np.frombuffer(key, bool).reshape(PATCH, PATCH) for key in keys]


def _r2(shade: NDArray[np.int64]) -> NDArray[np.float64]:
    steps = np.array([1 / _R2, 1 / _R2**2])
    return 2 * ((0.5 + shade[:, None] * steps) % 1) - 1

"""Finds the objects in an image. An object is a connected component of one colour, and its shape is
the one that fits best.

Detection is exact on rendered scenes. It tolerates the blur of a decoder and pixel noise.

Shape legend: H W = pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from shapes.render import shape_mask
from shapes.world import BACKGROUND, COLOURS, IMAGE_SIZE, SHAPES

MIN_AREA = 14  # pixels; a smaller component is junk
MIN_IOU = 0.72  # a component that fits every shape worse than this has a colour but no shape
_MIN_ASPECT = 0.75  # short side / long side; the fit of a flatter box is reduced in proportion
_COLOUR_OFFSETS = np.array(list(COLOURS.values()), float) - BACKGROUND
_COLOUR_NORMS = np.linalg.norm(_COLOUR_OFFSETS, axis=1)
_DIRECTIONS = (_COLOUR_OFFSETS / _COLOUR_NORMS[:, None]).T


@dataclass(frozen=True)
class DetectedObject:
    """One object that was found in an image. (x, y) is the centre of its box, in pixels."""

    colour: str
    shape: str | None  # None: it fits no shape well enough
    iou: float  # fit of the best shape, in [0, 1]
    x: float
    y: float


@dataclass(frozen=True)
class Detection:
    """All objects of an image, and the share of its pixels that are junk."""

    objects: tuple[DetectedObject, ...]
    junk_fraction: float  # pixels in components that are too small to be objects / all pixels


def quantise(image: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Colour index of every pixel, H W; -1 is background.

    A pixel's offset from the background is compared with the offset of each colour. The pixel gets
    the colour whose direction it follows best, if it reaches more than half of that colour's
    offset. At an edge, a blend of colour and background keeps the direction and is only shorter.
    """
    offset = image.astype(float) - BACKGROUND
    projection = offset @ _DIRECTIONS
    colour = projection.argmax(axis=-1)
    reach = projection.max(axis=-1) / _COLOUR_NORMS[colour]
    return np.where(reach > 0.5, colour, -1)


def detect(image: NDArray[np.uint8]) -> Detection:
    """Find the objects of one image.

    Raises ``ValueError`` for anything but a uint8 RGB image of the world's size.
    """
    expected = (IMAGE_SIZE, IMAGE_SIZE, 3)
    if getattr(image, "shape", None) != expected or image.dtype != np.uint8:
        kind = f"{getattr(image, 'dtype', type(image).__name__)} {getattr(image, 'shape', '')}"
        raise ValueError(f"expected an image of uint8 {expected}, not {kind.strip()}")
    return _detected(image.tobytes())


@lru_cache(maxsize=256)
def _detected(pixels: bytes) -> Detection:
    """The objects of an image. A process that has all three rewards asks for each image thrice."""
    image = np.frombuffer(pixels, np.uint8).reshape(IMAGE_SIZE, IMAGE_SIZE, 3)
    colours = quantise(image)
    pixels_of_colour = np.bincount(colours[colours >= 0], minlength=len(COLOURS))
    objects: list[DetectedObject] = []
    junk = 0
    for index, colour in enumerate(COLOURS):
        if not pixels_of_colour[index]:
            continue  # most images have one or two colours, and the search below takes its time
        labels, _ = ndimage.label(colours == index)  # diagonal neighbours are not connected
        for number, box in enumerate(ndimage.find_objects(labels), start=1):
            component = labels[box] == number
            area = int(np.count_nonzero(component))
            if area < MIN_AREA:
                junk += area
                continue
            shape, iou = _best_shape(component, area)
            rows, columns = box
            objects.append(
                DetectedObject(
                    colour=colour,
                    shape=shape if iou >= MIN_IOU else None,
                    iou=iou,
                    x=(columns.start + columns.stop) / 2,
                    y=(rows.start + rows.stop) / 2,
                )
            )
    return Detection(tuple(objects), junk / IMAGE_SIZE**2)


def _best_shape(component: NDArray[np.bool_], area: int) -> tuple[str, float]:
    """The shape that fits a component of ``area`` pixels best, and how well it does."""
    height, width = component.shape
    flatness = min(1.0, min(height, width) / max(height, width) / _MIN_ASPECT)
    ious = {
        shape: _iou(component, area, shape_mask(shape, height, width)) * flatness
        for shape in SHAPES
    }
    best = max(ious, key=lambda shape: ious[shape])
    return best, ious[best]


def _iou(one: NDArray[np.bool_], area: int, other: NDArray[np.bool_]) -> float:
    both = np.count_nonzero(one & other)
    return float(both / (area + np.count_nonzero(other) - both))

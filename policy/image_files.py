"""Reads image files, and makes groups of images that no policy of this project has sampled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from policy.errors import UserError
from policy.types import Group, Prompt, Trajectory


def read_image(path: Path, named: str) -> NDArray[np.uint8]:
    """The pixels of an image file (H W 3, RGB).

    Raises ``UserError`` that begins with ``named`` when there is no such file or it is no image.
    """
    with _opened(path, named) as image:
        return np.asarray(image.convert("RGB"))


def image_bytes(path: Path, named: str) -> int:
    """The bytes of the pixels of an image file (H x W x 3), of which its head alone is read.

    Raises ``UserError`` as ``read_image`` does.
    """
    with _opened(path, named) as image:
        return image.width * image.height * 3


@contextmanager
def _opened(path: Path, named: str) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            yield image
    except FileNotFoundError:
        raise UserError(f"{named}: {path} does not exist") from None
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise UserError(f"{named}: {path} cannot be read as an image: {error}") from None


def image_group(prompt: Prompt, images: Sequence[NDArray[np.uint8]]) -> Group:
    """A group that has images alone: rewards read nothing else of a trajectory."""
    return Group(
        prompt, tuple(_trajectory(prompt, index, image) for index, image in enumerate(images))
    )


def _trajectory(prompt: Prompt, index: int, image: NDArray[np.uint8]) -> Trajectory:
    ids, values = np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32)
    return Trajectory(
        prompt_id=prompt.id,
        index_in_group=index,
        weight_version=0,
        seed=0,
        cot_prompt_ids=ids,
        cot_ids=ids,
        cot_logprobs=values,
        cot_entropies=values,
        cot_text="",
        image_prompt_ids=ids,
        image_ids=ids,
        image_logprobs_conditional=values,
        image_entropies_conditional=values,
        image_logprobs_guided=values,
        image_entropies_guided=values,
        image=image,
    )

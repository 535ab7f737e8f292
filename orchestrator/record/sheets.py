"""Contact sheets: images side by side, each with its prompt, CoT and reward as captions below."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from policy.disk import write_whole, writing

_GAP = 12  # pixels between tiles and around the sheet
_FONT_SIZE, _LINE_HEIGHT = 12, 16
_LINES_PER_CAPTION = 3
_FIRST_COLOUR, _NEXT_COLOUR = (24, 28, 34), (105, 112, 122)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Tile:
    """One image (uint8 H W 3, RGB) and its captions. The first caption is darker than the others.

    Example: ``Tile(trajectory.image, ("0.84  a photo of a red circle", "one circle, red"))``.
    """

    image: NDArray[np.uint8]
    captions: tuple[str, ...] = ()


def contact_sheet(tiles: Sequence[Tile], columns: int, tile_pixels: int = 160) -> Image.Image:
    """Draw tiles row by row, each image in a square of ``tile_pixels`` with its captions below.

    A longer caption is cut to three lines and ends in an ellipsis. The longest captions of a row
    set the row's height. Raises ``ValueError`` without tiles or columns.
    """
    if not tiles or columns < 1:
        raise ValueError(f"a contact sheet of {len(tiles)} tiles in {columns} columns is empty")
    font = ImageFont.load_default(_FONT_SIZE)
    columns = min(columns, len(tiles))
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    lines = [[_caption_lines(tile, font, tile_pixels) for tile in row] for row in rows]
    heights = [
        tile_pixels + _LINE_HEIGHT * max(map(len, row_lines)) + 2 * _GAP for row_lines in lines
    ]
    size = (columns * (tile_pixels + _GAP) + _GAP, sum(heights) + _GAP)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    top = _GAP
    for row, row_lines, height in zip(rows, lines, heights, strict=True):
        for column, (tile, tile_lines) in enumerate(zip(row, row_lines, strict=True)):
            left = _GAP + column * (tile_pixels + _GAP)
            picture = fit(tile.image, tile_pixels)
            inset = ((tile_pixels - picture.width) // 2, (tile_pixels - picture.height) // 2)
            sheet.paste(picture, (left + inset[0], top + inset[1]))
            for place, (text, colour) in enumerate(tile_lines):
                y = top + tile_pixels + _GAP // 2 + place * _LINE_HEIGHT
                draw.text((left, y), text, font=font, fill=colour)
        top += height
    return sheet


def fit(image: NDArray[np.uint8], pixels: int) -> Image.Image:
    """Scale an image (uint8 H W 3) so that its longer side fits into ``pixels``.

    A small image is enlarged by a whole factor without new colours, so that single pixels stay
    visible. A large image is reduced with antialiasing.
    """
    longest = max(image.shape[:2])
    if longest <= pixels:
        factor = pixels // longest
        return Image.fromarray(image.repeat(factor, axis=0).repeat(factor, axis=1))
    height, width = (max(1, round(side * pixels / longest)) for side in image.shape[:2])
    return Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)


def save_png(image: Image.Image | NDArray[np.uint8], path: Path) -> None:
    """Write a picture, or an array uint8 H W 3, as PNG. Makes missing folders.

    Raises ``NotWritten``.
    """
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, format="PNG")


def save_whole_png(image: NDArray[np.uint8], path: Path) -> None:
    """Write an image (uint8 H W 3) as PNG: whole, or not at all. Makes missing folders.

    Raises ``NotWritten``.
    """
    content = io.BytesIO()
    Image.fromarray(image).save(content, format="PNG")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content.getvalue())


def _caption_lines(tile: Tile, font: Font, width: int) -> list[tuple[str, tuple[int, int, int]]]:
    return [
        (line, _NEXT_COLOUR if place else _FIRST_COLOUR)
        for place, caption in enumerate(tile.captions)
        for line in wrap(caption, font, width, _LINES_PER_CAPTION)
    ]


def wrap(text: str, font: Font, width: int, max_lines: int) -> list[str]:
    """Break text into at most ``max_lines`` lines of at most ``width`` pixels.

    Text that does not fit is replaced by "…". A word is broken only if it is wider than a line.
    """
    lines: list[str] = []
    rest = " ".join(text.split())
    while rest and len(lines) < max_lines - 1:
        line = _head(rest, font, width)
        if len(line) < len(rest) and (space := rest.rfind(" ", 0, len(line) + 1)) > 0:
            line = rest[:space]
        lines.append(line)
        rest = rest[len(line) :].lstrip()
    if rest and font.getlength(rest) > width:
        rest = _head(rest, font, width - font.getlength("…")).rstrip() + "…"
    return [*lines, rest] if rest else lines


def _head(text: str, font: Font, width: float) -> str:
    """The longest start of ``text`` that is at most ``width`` wide, but at least one character."""
    end = 1
    while end < len(text) and font.getlength(text[: end + 1]) <= width:
        end += 1
    return text[:end]

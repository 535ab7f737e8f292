"""Contact sheets show exact pixels at exact places, and captions that stay inside their tile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFont

from orchestrator.record.sheets import Tile, contact_sheet, fit, save_png, wrap

FONT = ImageFont.load_default(12)


def random_image(side: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def test_small_images_keep_every_pixel() -> None:
    """A 32 px image in a 160 px tile is each pixel five by five; tiles lie 12 px apart."""
    images = [random_image(32, seed) for seed in range(5)]
    sheet = contact_sheet([Tile(image) for image in images], columns=2)
    assert sheet.size == (2 * 172 + 12, 3 * 184 + 12)
    pixels = np.asarray(sheet)
    for place, image in enumerate(images):
        top, left = 12 + place // 2 * 184, 12 + place % 2 * 172
        shown = pixels[top : top + 160, left : left + 160]
        np.testing.assert_array_equal(shown, image.repeat(5, axis=0).repeat(5, axis=1))
    assert (pixels[12 + 2 * 184 : 12 + 2 * 184 + 160, 12 + 172 :] == 255).all()  # no sixth tile


def test_large_images_shrink_smoothly() -> None:
    """A 384 px chequerboard of single black and white pixels becomes even grey in a tile."""
    board = np.indices((384, 384)).sum(axis=0) % 2 * 255
    shown = np.asarray(fit(np.repeat(board[..., None], 3, axis=2).astype(np.uint8), 160))
    assert shown.shape == (160, 160, 3)
    assert np.abs(shown[2:-2, 2:-2].astype(int) - 128).max() <= 8


def test_an_oblong_image_keeps_its_shape() -> None:
    """20 x 60 pixels are doubled for a 160 px tile, 600 x 200 scaled down."""
    assert fit(np.zeros((20, 60, 3), np.uint8), 160).size == (120, 40)
    assert fit(np.zeros((600, 200, 3), np.uint8), 160).size == (53, 160)


def test_captions_make_their_row_higher_and_stay_in_their_tile() -> None:
    """Row height follows the longest caption; no text reaches the gap beside the tile."""
    image = np.full((32, 32, 3), 255, np.uint8)
    words = Tile(image, ("0.84  a photo of a red square right of a blue cross", "W" * 400))
    sheet = contact_sheet([words, words, Tile(image), Tile(image)], columns=2)
    assert sheet.size == (356, (160 + 16 * 5 + 24) + (160 + 24) + 12)
    dark = (np.asarray(sheet) < 200).any(axis=(0, 2))
    assert dark[12:172].any()
    assert not dark[:12].any()
    assert not dark[173:184].any()
    assert not dark[345:].any()


def test_words_are_kept_whole_where_they_fit() -> None:
    """Lines break at spaces, a word wider than a line breaks anywhere, the end is an ellipsis."""
    assert wrap("a red circle", FONT, 500, 3) == ["a red circle"]
    assert wrap("a  red\ncircle", FONT, 60, 3) == ["a red", "circle"]
    assert wrap("", FONT, 60, 3) == []
    assert "".join(wrap("x" * 20, FONT, 60, 9)) == "x" * 20
    assert wrap("red " * 50, FONT, 60, 2)[-1].endswith("…")


@given(text=st.text(max_size=80), lines=st.integers(1, 4), width=st.integers(40, 200))
def test_wrapped_text_fits(text: str, lines: int, width: int) -> None:
    """Whatever the text: at most so many lines, none too wide, nothing lost without an ellipsis."""
    wrapped = wrap(text, FONT, width, lines)
    assert len(wrapped) <= lines
    assert all(FONT.getlength(line) <= width for line in wrapped)
    if not wrapped or not wrapped[-1].endswith("…"):
        assert "".join("".join(wrapped).split()) == "".join(text.split())


def test_nothing_to_show_is_an_error() -> None:
    """No tiles, or no columns, is a mistake of the caller."""
    with pytest.raises(ValueError, match="is empty"):
        contact_sheet([], columns=4)
    with pytest.raises(ValueError, match="is empty"):
        contact_sheet([Tile(random_image(8, 0))], columns=0)


def test_png_files_hold_the_same_pixels(tmp_path: Path) -> None:
    """A saved array or picture is read back bit for bit, from a folder that did not exist."""
    image = random_image(16, 1)
    save_png(image, tmp_path / "new" / "array.png")
    save_png(Image.fromarray(image), tmp_path / "new" / "picture.png")
    for name in ("array.png", "picture.png"):
        with Image.open(tmp_path / "new" / name) as file:
            np.testing.assert_array_equal(np.asarray(file), image)

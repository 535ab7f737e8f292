"""What HPS v2.1 is shown: the pixels and texts of hpsv2's public code, written down.

The numbers are those of https://github.com/tgxs002/HPSv2 at 866735e (``image_transform`` and
``tokenize`` of its open_clip), run with torchvision 0.28.0's ``resize`` on the same images.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks.small_models.tiny_rewards import save_clip, save_hps
from policy.errors import UserError
from policy.types import Prompt
from rewards.models.clip_score import ClipScoreReward
from rewards.models.hps import HpsReward
from rewards.models.hps_inputs import HpsTokenizer, cleaned, pixels

BLACK = -1.792263  # of the first colour, normalised


def picture(height: int, width: int) -> NDArray[np.uint8]:
    y, x, c = np.indices((height, width, 3))
    return ((97 * y + 59 * x * x + 83 * c) % 256).astype(np.uint8)


@pytest.mark.parametrize(
    ("image", "red", "sums"),
    [
        (
            picture(4, 6),  # 3:2, so 4 x 3 and a black row below
            [
                [-1.288893, 0.317316, -0.627992, 0.352442],
                [0.816920, 0.604584, 0.074466, -0.863107],
                [-0.278424, -0.531061, 0.023062, 1.271857],
                [BLACK] * 4,
            ],
            [-7.2979, -8.3122, -2.2408],
        ),
        (
            picture(6, 4),  # 2:3
            [
                [-1.215439, 0.251558, -0.538092, BLACK],
                [0.743144, 0.674490, 0.483261, BLACK],
                [-0.375219, -0.326082, -0.635102, BLACK],
                [0.646134, 0.096850, 1.323481, BLACK],
            ],
            [-6.0401, -6.6984, -2.8712],
        ),
        (
            picture(5, 5),
            [
                [-1.533835, 0.160345, -0.310090, -0.161536],
                [0.580518, 0.708296, 0.345819, -0.781024],
                [-0.124023, 0.063262, -0.387270, 0.744279],
                [-0.030553, 0.156732, -0.245349, -0.389197],
            ],
            [-1.2036, 0.7685, 3.6438],
        ),
        (
            picture(4, 4),  # as it is
            [
                [-1.792263, -0.930955, 1.652966, -1.514892],
                [-0.376215, 0.485092, -0.668184, -0.098845],
                [1.039832, 1.901139, 0.747864, 1.317202],
                [-1.281318, -0.420010, -1.573286, -1.003947],
            ],
            [-2.5158, -0.4193, 6.8043],
        ),
        (
            picture(2, 3),  # enlarged: below 0 and above 1 it is not cut off
            [
                [-1.930417, -1.544131, 0.092520, 1.953498],
                [-1.129232, -0.594598, 0.104488, 0.529759],
                [-0.328048, 0.354936, 0.116457, -0.893981],
                [BLACK] * 4,
            ],
            [-10.4378, -2.1467, 0.5665],
        ),
    ],
    ids=["3:2", "2:3", "square", "same size", "enlarged"],
)
def test_pixels_are_those_of_the_public_code(
    image: NDArray[np.uint8], red: list[list[float]], sums: list[float]
) -> None:
    """The first colour whole, and the sum of each."""
    found = pixels(image, 4)
    assert found.shape == (3, 4, 4)
    assert torch.allclose(found[0], torch.tensor(red), rtol=0, atol=2e-6)
    assert torch.allclose(found.sum((1, 2)), torch.tensor(sums), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"),
    [
        (3, 6, [1, 2], [0, 1, 2, 3, 4]),
        (7, 3, [0, 1, 2, 3, 4], [1, 2]),
        (1, 5, [2], [0, 1, 2, 3, 4]),
    ],
)
def test_the_rest_is_black_and_the_picture_in_the_middle(
    height: int, width: int, rows: list[int], columns: list[int]
) -> None:
    """2.5 rows are rounded to 2, halves to even; an odd rest is larger below and on the right."""
    found = pixels(np.full((height, width, 3), 255, dtype=np.uint8), 5)[0]
    assert (found > BLACK + 1e-3).any(1).nonzero()[:, 0].tolist() == rows
    assert (found > BLACK + 1e-3).any(0).nonzero()[:, 0].tolist() == columns


def test_an_image_whose_longest_side_is_the_models_is_padded_too() -> None:
    """The public code leaves 4 x 2 as it is, and its model then fails."""
    found = pixels(picture(2, 4), 4)
    assert torch.equal(found[:, 1:3], pixels(picture(4, 4), 4)[:, :2])
    assert found[0, [0, 3]].tolist() == [[pytest.approx(BLACK, abs=1e-6)] * 4] * 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Tom &amp;amp; Jerry", "tom & jerry"),
        ("caf\u00c3\u00a9", "caf\u00e9"),
        ("  a  b \n c\t", "a b c"),
        ("\u201cA\u201d \u2026", '"a" \u2026'),
        ("&lt;b&gt;", "<b>"),
        ("\ufb01ne", "fine"),
        ("\u039f\u0394\u039f\u03a3", "\u03bf\u03b4\u03bf\u03c2"),  # a sigma at the end of a word
    ],
)
def test_texts_are_cleaned_as_in_the_public_code(text: str, expected: str) -> None:
    """ftfy, HTML entities twice, blanks, lower case."""
    assert cleaned(text) == expected


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("A cat's", "a</w> c a t</w> ' s</w>"),
        ("12 b", "1</w> 2</w> b</w>"),
        ("Caf\u00c3\u00a9!", "c a f \u00c3 \u00a9</w> !</w>"),
        ("<|endoftext|> a", "< |</w> e n d o f t e x t</w> | ></w> a</w>"),
        ("a <end_of_text>", "a</w> <|endoftext|>"),
    ],
)
def test_a_text_is_read_as_the_public_code_reads_it(tmp_path: Path, text: str, pieces: str) -> None:
    """Bytes of words, in a vocabulary without merges; signs for begin and end are hpsv2's own."""
    folder = save_hps(tmp_path)
    names = {
        number: piece
        for piece, number in json.loads((folder / "tokenizer.json").read_text())["model"][
            "vocab"
        ].items()
    }
    found = [names[number] for number in HpsTokenizer(folder)(text)]
    assert found == ["<|startoftext|>", *pieces.split(), "<|endoftext|>"]


def test_a_long_text_keeps_its_end(tmp_path: Path) -> None:
    """77 ids, the last of which is the end of text; an empty one has begin and end."""
    tokenizer = HpsTokenizer(save_hps(tmp_path))
    assert len(tokenizer("a " * 76)) == 77
    assert tokenizer("a " * 76) == tokenizer("a " * 75) == tokenizer("a " * 75 + "b c d")
    assert tokenizer("a " * 76)[-1] == tokenizer("")[-1] == 513
    assert tokenizer("") == [512, 513]


def test_hps_scores_what_was_cleaned_and_padded_and_pickscore_does_not(tmp_path: Path) -> None:
    """A wide image, and a prompt with an entity: HPS sees neither, other CLIP scores see both."""
    hps_folder, clip_folder = save_hps(tmp_path / "hps"), save_clip(tmp_path / "clip")
    hps = HpsReward(str(hps_folder), str(hps_folder))
    clip = ClipScoreReward(str(clip_folder))
    wide = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    raw, clean = Prompt("t:1", "Tom &amp;  Jerry", "non"), Prompt("t:2", "tom & jerry", "non")
    scores = hps.score([wide, wide], [raw, clean])
    assert scores[0] == scores[1]
    scores = clip.score([wide, wide], [raw, clean])
    assert abs(scores[0].value - scores[1].value) > 1e-4  # type: ignore[union-attr]

    prepared = clip._scorer.inputs.images([wide])  # its middle, without any black
    assert prepared.shape == (1, 3, 32, 32)
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    middle = (wide[:, 16:48] / 255 - np.array(mean)) / np.array(std)
    assert np.allclose(prepared[0].permute(1, 2, 0), middle, atol=1e-5)


def test_a_vocabulary_without_the_end_of_text_is_refused(tmp_path: Path) -> None:
    """In one line."""
    folder = save_hps(tmp_path)
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace("<|endoftext|>", "<|end|>"))
    with pytest.raises(UserError, match=r"its tokenizer has no token '<\|endoftext\|>'"):
        HpsReward(str(folder), str(folder))

"""BLIP-2 against LAVIS' own program: match probabilities and cosines, written down.

The numbers are those of https://github.com/salesforce/LAVIS at 506965b9
(``blip2_image_text_matching.py``, transformers 4.30.2) on the same weights, captions and pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image
from written_weights import rewrite_weights

from benchmarks.small_models.tiny_rewards import images
from benchmarks.small_models.tiny_scorers import save_blip2
from policy.errors import UserError
from policy.types import Prompt, Score
from rewards.scorers.blip2 import Blip2Reward

TEXTS = ("A red book.", "a blue bird, a red book and a bird", "red " * 45)
MATCHES = [0.424703, 0.408181, 0.487516]
COSINES = [0.150728, 0.358200, -0.170082]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(rewrite_weights(save_blip2(tmp_path_factory.mktemp("blip2"))))


def scores(folder: str, head: Literal["itm", "itc"], texts: tuple[str, ...]) -> list[float]:
    prompts = [Prompt("t", text, "") for text in texts]
    results = Blip2Reward(folder, head).score(images(3)[: len(texts)], prompts)
    return [result.value for result in results if isinstance(result, Score)]


def test_the_match_is_lavis(folder: str) -> None:
    """One softmax of two logits; captions of three lengths, the last cut to 32 tokens."""
    assert scores(folder, "itm", TEXTS) == pytest.approx(MATCHES, abs=4e-6)


def test_the_cosine_is_lavis(folder: str) -> None:
    """The best of the image's queries, with its own caption."""
    assert scores(folder, "itc", TEXTS) == pytest.approx(COSINES, abs=4e-6)


@pytest.mark.parametrize("head", ["itm", "itc"])
def test_a_caption_alone_scores_as_a_padded_one(folder: str, head: Literal["itm", "itc"]) -> None:
    """Here padding has no effect."""
    alone = scores(folder, head, TEXTS[:1])
    assert alone == pytest.approx(scores(folder, head, TEXTS)[:1], abs=1e-6)


def test_an_unknown_head_is_refused(folder: str) -> None:
    """With those that there are."""
    with pytest.raises(UserError, match="head: 'match' is not one of itm, itc"):
        Blip2Reward.check(folder, "match")  # type: ignore[arg-type]


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    """Before any worker starts."""
    with pytest.raises(UserError, match="nowhere does not exist"):
        Blip2Reward.check(str(tmp_path / "nowhere"))


def test_a_tall_image_is_resized_as_the_original_does(folder: str) -> None:
    """Across and then down: Pillow 13 would do it the other way round in one call."""
    reward = Blip2Reward(folder, "itc")
    side = reward._size[0]
    tall = np.random.default_rng(1).integers(0, 256, (500, 90, 3), dtype=np.uint8)
    across = Image.fromarray(tall).resize((side, 500), Image.Resampling.BICUBIC)
    square = np.asarray(across.resize((side, side), Image.Resampling.BICUBIC))
    prompt = [Prompt("t", TEXTS[0], "")]
    assert reward.score([tall], prompt) == reward.score([square], prompt)

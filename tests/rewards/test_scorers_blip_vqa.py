"""BLIP-VQA against T2I-CompBench's own program: probabilities written down, and every trap.

The numbers are those of https://github.com/Karine-Huang/T2I-CompBench at 1b709499
(``BLIPvqa_eval/models``, transformers 4.30.2) on the same weights, questions and images.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from written_weights import written_weight

from benchmarks.small_models.tiny_rewards import bert_tokenizer, images
from benchmarks.small_models.tiny_scorers import (
    blip_config,
    original_blip_shapes,
    save_blip,
    save_original_blip,
)
from policy.errors import UserError
from policy.types import Prompt, RewardFailure, Score
from rewards.config import RewardConfig
from rewards.factory import build_reward, check_factory
from rewards.scorers.blip_text import caption, questions
from rewards.scorers.blip_vqa import SIDE, BlipVqaReward

CHUNKS = (
    ["a red book", "the left", "blue bird"],
    ["a red bird and a blue book with a red book"],
    ["book", "a book", "red", "bird", "the top", "blue", "a", "b", "c", "d"],
)
ANSWERS = (
    [0.701952, 0.709527],
    [0.679446],
    [0.688285, 0.686130, 0.692174, 0.700092, 0.691275, 0.692163, 0.690396, 0.698698],
)
VALUES = [0.4981, 0.6794, 0.0528]


def written_tensors() -> dict[str, torch.Tensor]:
    """By their names; the answer decoder shares its words and its bias, as in the checkpoint."""
    head = "text_decoder.cls.predictions."
    tied = {
        f"{head}decoder.weight": "text_decoder.bert.embeddings.word_embeddings.weight",
        f"{head}decoder.bias": f"{head}bias",
    }
    return {
        name: written_weight(tied.get(name, name), tuple(shape))
        for name, shape in original_blip_shapes().items()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_original_blip(tmp_path_factory.mktemp("blip"), written_tensors())


@pytest.fixture(scope="module")
def reward(folder: Path) -> BlipVqaReward:
    return BlipVqaReward(str(folder), str(folder))


def prompts(*chunks: Any) -> list[Prompt]:
    return [Prompt(f"t:{i}", "a", "color", evaluation={"chunks": c}) for i, c in enumerate(chunks)]


def test_the_probabilities_are_the_originals(reward: BlipVqaReward) -> None:
    """Of questions of seven lengths about three images, in one call."""
    found = reward._answers(images(3), [questions(chunks) for chunks in CHUNKS])
    for some, expected in zip(found, ANSWERS, strict=True):
        assert some == pytest.approx(expected, abs=2e-6)


def test_the_scores_are_what_the_original_writes(reward: BlipVqaReward) -> None:
    """Four digits of each, the product of eight at most, four digits of the product."""
    results = reward.score(images(3), prompts(*CHUNKS))
    for result, value, answers in zip(results, VALUES, ANSWERS, strict=True):
        assert isinstance(result, Score)
        assert result.value == pytest.approx(value, abs=1.1e-4)
        assert result.value == round(result.value, 4)
        assert list((result.detail or {}).values()) == pytest.approx(
            [round(answer, 4) for answer in answers], abs=1.1e-4
        )


def test_a_question_alone_scores_as_among_longer_ones(reward: BlipVqaReward) -> None:
    """No question is padded: the decoder of transformers would read the padding."""
    alone = reward._answers(images(1), [["book?"]])[0][0]
    among = reward._answers(images(1), [["book?", "a red bird and a blue book?", "red bird?"]])
    assert among[0][0] == pytest.approx(alone, abs=1e-7)


def test_a_prompt_without_a_chunk_scores_one(reward: BlipVqaReward) -> None:
    """As in the original, alone and beside a prompt with chunks."""
    assert reward.score(images(1), prompts([])) == [Score(1.0, {})]
    results = reward.score(images(2), prompts(["the left"], ["a red book"]))
    assert results[0] == Score(1.0, {})
    assert isinstance(results[1], Score)
    assert results[1].value < 1


@pytest.mark.parametrize(
    ("evaluation", "reason"),
    [
        (None, "prompt t:1: its evaluation has no 'chunks'"),
        ({"objects": []}, "prompt t:1: its evaluation has no 'chunks'"),
        ({"chunks": "a red book"}, "prompt t:1: its 'chunks' is not a list of texts"),
        ({"chunks": [1]}, "prompt t:1: its 'chunks' is not a list of texts"),
    ],
)
def test_a_prompt_without_chunks_fails_alone(
    reward: BlipVqaReward, evaluation: Any, reason: str
) -> None:
    """Its neighbour is scored; no number takes the place of the failure."""
    wrong = Prompt("t:1", "a", "color", evaluation=evaluation)
    results = reward.score(images(2), [*prompts(["a red book"]), wrong])
    assert isinstance(results[0], Score)
    assert results[1] == RewardFailure(reason)


def test_a_folder_of_transformers_loads(tmp_path: Path) -> None:
    """At 480 pixels with the original's settings, by its factory."""
    folder = save_blip(tmp_path)
    config = RewardConfig(
        name="blip_vqa",
        factory="rewards.scorers.blip_vqa:BlipVqaReward",
        options={"model": str(folder), "tokenizer": str(folder)},
    )
    check_factory(config)
    (result,) = build_reward(config).score(images(1), prompts(["a red book"]))
    assert isinstance(result, Score)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 8}, "text_config.num_attention_heads is 8, not the original's 12"),
        ({"epsilon": 1e-5}, "vision_config.layer_norm_eps is 1e-05, not the original's 1e-06"),
        ({"side": 384}, "384 pixels in 577 positions, not the original's 480 in 901"),
    ],
)
def test_settings_that_would_load_silently_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    """Before any worker starts, with the setting."""
    folder = save_blip(tmp_path, blip_config(**change))
    with pytest.raises(UserError, match=message) as caught:
        BlipVqaReward.check(str(folder), str(folder))
    assert "\n" not in str(caught.value)


def test_an_original_of_other_tensors_is_refused(folder: Path, tmp_path: Path) -> None:
    """A table of 577 positions, and a tensor that is missing."""
    tensors = written_tensors()
    del tensors["visual_encoder.norm.bias"]
    part = save_original_blip(tmp_path / "part", tensors)
    with pytest.raises(UserError, match="missing keys: 1, first vision_model"):
        BlipVqaReward(str(part), str(folder))
    small = written_tensors() | {"visual_encoder.pos_embed": torch.zeros(1, 577, 24)}
    with pytest.raises(UserError, match="384 pixels in 577 positions"):
        BlipVqaReward(str(save_original_blip(tmp_path / "small", small)), str(folder))


def test_a_tokenizer_with_other_words_is_refused(folder: Path, tmp_path: Path) -> None:
    """The numbers of yes and no are part of the model."""
    bert_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="token 'yes' of its tokenizer is not 2748"):
        BlipVqaReward(str(folder), str(tmp_path))


def test_questions_are_prepared_as_the_original_does() -> None:
    """Signs are deleted, ``the left`` is not asked about, and only the first eight are."""
    assert questions(["The 3.5 inch disk", "the left", "The left", "A (red) book", "top"]) == [
        "the 35 inch disk?", "the left?", "a red book?",
    ]  # fmt: skip
    assert questions([f"cat {number}" for number in range(10)]) == [
        f"cat {number}?" for number in range(8)
    ]
    assert questions([" ".join(["cat"] * 60)]) == [" ".join(["cat"] * 50)]
    assert questions(["a well-made, red book"]) == ["a well-made, red book?"]


def test_captions_are_prepared_as_lavis_does() -> None:
    """There a sign becomes a space."""
    assert caption('A 3.5 inch "disk":  red!\n') == "a 3 5 inch disk red"
    assert caption("cat " * 60) == " ".join(["cat"] * 50)


def test_a_tall_image_is_resized_as_the_original_does(reward: BlipVqaReward) -> None:
    """Across and then down: Pillow 13 would do it the other way round in one call."""
    tall = np.random.default_rng(1).integers(0, 256, (500, 90, 3), dtype=np.uint8)
    across = Image.fromarray(tall).resize((SIDE, 500), Image.Resampling.BICUBIC)
    square = np.asarray(across.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    asked = [questions(CHUNKS[0])]
    assert reward._answers([tall], asked) == reward._answers([square], asked)

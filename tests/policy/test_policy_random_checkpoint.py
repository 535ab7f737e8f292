"""Checkpoints with random weights: both formats are one model with the real names and sizes."""

from __future__ import annotations

from pathlib import Path

import original_janus
import pytest
import torch
from original_janus import JANUS_PRO_1B, JANUS_PRO_7B, original_shapes
from transformers import JanusForConditionalGeneration

from policy.checkpoint import random_checkpoint
from policy.checkpoint.loading import check_checkpoint, load_encoder, load_policy
from policy.checkpoint.original_config import TINY, VISION_TOWERS, translated_config
from policy.checkpoint.original_names import only_original, original_names
from policy.checkpoint.public_models import public_config
from policy.checkpoint.random_checkpoint import PUBLIC, random_config, write_random_checkpoint
from policy.checkpoint.random_tokenizer import random_tokenizer
from policy.checkpoint.transformers_config import built_on_meta
from policy.checkpoint.weight_files import read_tensors, weight_files
from policy.errors import UserError
from policy.types import Prompt


def written(folder: Path, kind: str, image_size: int | None = None) -> Path:
    folder.mkdir()
    write_random_checkpoint(folder, random_config("tiny", image_size), kind)
    return folder


def test_both_formats_hold_the_same_model(tmp_path: Path) -> None:
    """Loaded as a user's checkpoint: equal bits, 4 x 4 image tokens, and images that differ."""
    ours, original = (
        load_policy(written(tmp_path / kind, kind)) for kind in ("transformers", "original")
    )
    state, other = ours.model.state_dict(), original.model.state_dict()
    assert state.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in state.items())
    assert (ours.image_grid, ours.num_codes, ours.text_vocab_size) == ((4, 4), 64, 264)
    ids = torch.arange(32).view(2, 16)
    pixels = ours.decode(ids)
    assert pixels.shape == (2, 16, 16, 3)
    assert abs(pixels[0].astype(int) - pixels[1]).mean() > 5


def test_transformers_own_class_loads_it(tmp_path: Path) -> None:
    """``from_pretrained`` finds every weight, untied, and what ``generate`` reads."""
    folder = written(tmp_path / "janus", "transformers")
    model, info = JanusForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(model.lm_head.weight, load_policy(folder).model.lm_head.weight)
    assert model.lm_head.weight is not model.model.language_model.embed_tokens.weight
    special = load_encoder(folder, "janus-special").special
    assert model.generation_config.generation_kwargs == {"boi_token_id": special.begin_of_image}


@pytest.mark.parametrize("kind", ["transformers", "original"])
def test_several_files_and_another_image_size(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files of 100 kB with an index hold the same weights as one; 8 pixels are 2 x 2 tokens."""
    whole = load_policy(written(tmp_path / "whole", kind, 8))
    monkeypatch.setattr(random_checkpoint, "_FILE_BYTES", 100_000)
    folder = written(tmp_path / "cut", kind, 8)
    assert len(weight_files(folder, pickled=kind == "original")) > 3
    check_checkpoint(folder)
    cut = load_policy(folder)
    assert cut.num_image_tokens == 4
    others = cut.model.state_dict()
    assert all(torch.equal(t, others[name]) for name, t in whole.model.state_dict().items())


def test_the_original_s_files_have_its_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the original's modules, also of the weights that Janus does not use."""
    monkeypatch.setitem(original_janus.TOWERS, TINY, original_janus.TOWERS["tiny_tower"])
    monkeypatch.setitem(original_janus.CODERS, TINY, original_janus.CODERS["tiny_coder"])
    folder = written(tmp_path / "janus", "original")
    found = read_tensors(weight_files(folder, pickled=True), shapes_only=True)
    expected = original_shapes(random_config("tiny"))
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == expected


@pytest.mark.parametrize(
    ("like", "public"), [("janus-pro-1b", JANUS_PRO_1B), ("janus-pro-7b", JANUS_PRO_7B)]
)
def test_the_real_sizes(like: str, public: dict[str, object]) -> None:
    """Names and configuration are those of the published models; 64 pixels make 4 x 4 tokens."""
    config = random_config(like)
    assert translated_config(config).to_dict() == translated_config(public).to_dict()
    names = built_on_meta(translated_config(config), "").state_dict()
    ours = {name for name, _ in original_names(names)}
    tower = VISION_TOWERS["siglip_large_patch16_384"]
    assert ours | {name for name, _ in only_original(tower)} == original_shapes(public).keys()
    small = translated_config(random_config(like, image_size=64, layers=3))
    assert small.vq_config.num_patches == 4
    assert small.text_config.num_hidden_layers == 3
    owned = public_config(f"deepseek-ai/{PUBLIC[like]}")
    assert owned is not None
    assert owned.to_dict() == translated_config(config).to_dict()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"image_size": 100}, "--image-size must be a multiple of 16, not 100"),
        ({"image_size": 0}, "--image-size must be a multiple of 16, not 0"),
        ({"layers": 0}, "--layers must be 1 or more, not 0"),
    ],
)
def test_impossible_sizes_are_refused(options: dict[str, int], line: str) -> None:
    """Before anything is written."""
    with pytest.raises(UserError, match=line):
        random_config("janus-pro-1b", **options)


def test_the_tokenizer_of_the_real_size() -> None:
    """The known ids of the real special tokens; text survives; 92,802 ids of 100,000 are text."""
    tokenizer = random_tokenizer(102_400)
    names = tokenizer.convert_ids_to_tokens([100000, 100001, 100016])
    assert names == [tokenizer.bos_token, tokenizer.eos_token, "<begin_of_image>"]
    text = "a photo of 2 red cats.\n\n<|Assistant|>: naïve café"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text
    assert len(ids) < len(text.encode()) / 1.5
    named = [index for index in tokenizer.get_vocab().values() if index < 100_000]
    assert len(named) == len(set(named)) == 92_802


def test_a_prompt_has_its_special_tokens(tmp_path: Path) -> None:
    """The role names of janus-special are one token each, in the tiny vocabulary too."""
    encoder = load_encoder(written(tmp_path / "janus", "original"), "janus-special")
    ids = encoder.cot_prompt_ids(Prompt(id="p", text="a cat", task_type="none")).tolist()
    vocabulary = encoder.tokenizer.get_vocab()
    assert ids[0] == encoder.special.bos
    assert ids.count(vocabulary["<|User|>"]) == ids.count(vocabulary["<|Assistant|>"]) == 1

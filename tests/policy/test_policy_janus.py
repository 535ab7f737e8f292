"""The Janus wrapper and checkpoint folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig, JanusForConditionalGeneration

from benchmarks.small_models.random_janus import (
    PROMPTS,
    save_tiny_checkpoint,
    tiny_encoder,
    tiny_policy,
)
from policy.checkpoint.loading import check_checkpoint, load_encoder, load_policy
from policy.errors import UserError
from policy.janus import TRAINED_PREFIXES, JanusPolicy


def test_only_the_language_model_and_its_head_are_trained() -> None:
    """Paper section 6.1; nothing of vision, generation head, aligners or codebook moves."""
    policy = tiny_policy()
    trained = dict(policy.trained_parameters())
    assert "lm_head.weight" in trained
    assert "model.language_model.embed_tokens.weight" in trained
    for name, parameter in policy.model.named_parameters():
        assert parameter.requires_grad == (name in trained) == name.startswith(TRAINED_PREFIXES)
    assert not policy.training


def test_tied_heads_are_refused() -> None:
    """A tied copy would train another model than Janus-Pro."""
    config = tiny_policy().model.config
    config.tie_word_embeddings = True
    config.text_config.tie_word_embeddings = True
    with pytest.raises(ValueError, match="lm_head is tied"):
        JanusPolicy(JanusForConditionalGeneration(config))


def test_every_row_of_the_embeddings_has_a_gradient() -> None:
    """Also the one that the configuration calls padding, which the unconditional twin reads."""
    policy = tiny_policy()
    assert policy.model.config.get_text_config().pad_token_id == 0
    policy.embed_text(torch.tensor([[0, 3]])).sum().backward()
    gradient = policy.model.get_input_embeddings().weight.grad
    assert gradient[[0, 3]].eq(1).all()


def test_embed_mixes_text_and_image_ids() -> None:
    """Each position gets the embedding of its own kind, though ids of both kinds overlap."""
    policy = tiny_policy()
    ids = torch.tensor([[1, 30, 5, 31]])  # 30 and 31 are no text ids
    mixed = policy.embed(ids, torch.tensor([[False, True, False, True]]))
    torch.testing.assert_close(mixed[:, ::2], policy.embed_text(ids[:, ::2]))
    torch.testing.assert_close(mixed[:, 1::2], policy.embed_image(ids[:, 1::2]))


def test_image_logits_are_the_models_own() -> None:
    """Features and last layer in two steps are the generation head in one."""
    policy = tiny_policy()
    hidden = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(policy.image_logits(hidden), policy.model.model.generation_head(hidden))


def test_decode_gives_pixels() -> None:
    """uint8 RGB, B H W 3, the same for an image alone and in a batch up to rounding."""
    policy = tiny_policy()
    ids = torch.arange(32).view(2, 16)
    pixels = policy.decode(ids)
    assert pixels.shape == (2, 16, 16, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(policy.decode(ids[1:])[0].astype(int) - pixels[1].astype(int)).max() <= 1


def test_the_reference_owns_the_trained_part_and_shares_the_rest() -> None:
    """Training the policy, embeddings included, leaves the reference as it was."""
    policy = tiny_policy()
    reference = policy.frozen_reference()
    ours, theirs = dict(policy.named_parameters()), dict(reference.named_parameters())
    for name, parameter in ours.items():
        assert torch.equal(parameter, theirs[name])
        assert (parameter is theirs[name]) == (not parameter.requires_grad), name
    assert not any(parameter.requires_grad for parameter in theirs.values())
    assert all(parameter.requires_grad for _, parameter in policy.trained_parameters())
    before = reference.embed_text(torch.tensor([[3]]))
    with torch.no_grad():
        for _, parameter in policy.trained_parameters():
            parameter.add_(1.0)
    assert torch.equal(reference.embed_text(torch.tensor([[3]])), before)


def test_a_checkpoint_loads_as_it_was_saved(tmp_path: Path) -> None:
    """Every parameter, and the tokenizer with its special tokens."""
    policy = load_policy(save_tiny_checkpoint(tmp_path))
    expected = dict(tiny_policy().named_parameters())
    assert all(torch.equal(p, expected[name]) for name, p in policy.named_parameters())
    assert load_policy(tmp_path, torch.bfloat16).dtype == torch.bfloat16
    encoder = load_encoder(tmp_path, "shapes")
    assert encoder.special == tiny_encoder().special
    ids = encoder.cot_prompt_ids(PROMPTS[1])
    assert ids.tolist() == tiny_encoder().cot_prompt_ids(PROMPTS[1]).tolist()


@pytest.mark.parametrize("absent", ["tie_word_embeddings", "architectures"])
def test_what_config_json_may_leave_out(tmp_path: Path, absent: str) -> None:
    """The published files do not say that the head is untied, which transformers takes for tied: it
    is loaded, and saved, as the matrix of its own that it is. The model type tells the format.
    """
    folder = save_tiny_checkpoint(tmp_path / "published")
    config = json.loads((folder / "config.json").read_text())
    del config[absent]
    config["text_config"].pop(absent, None)
    (folder / "config.json").write_text(json.dumps(config))
    check_checkpoint(folder)
    policy, expected = load_policy(folder), tiny_policy()
    assert not policy.model.config.tie_word_embeddings
    policy.model.save_pretrained(tmp_path / "saved")
    written = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert (written["tie_word_embeddings"], written["model_type"]) == (False, "janus")
    reloaded = JanusForConditionalGeneration.from_pretrained(tmp_path / "saved")
    for model in (policy.model, reloaded):
        ours, theirs = model.state_dict(), expected.model.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())


@pytest.mark.parametrize(
    "own",
    ['{"temperature": 0.7}', '{"top_k": 5, "num_beams": 1, "length_penalty": 2.0}', "no JSON"],
)
def test_a_generation_config_never_stands_in_the_way_of_saving(tmp_path: Path, own: str) -> None:
    """transformers refuses to save what it warned of at most when it loaded: a run would end at its
    first checkpoint. What is saved names the tokens that drawing needs.
    """
    folder = save_tiny_checkpoint(tmp_path / "base")
    (folder / "generation_config.json").write_text(own)
    load_policy(folder).model.save_pretrained(tmp_path / "saved")
    saved = GenerationConfig.from_pretrained(tmp_path / "saved")
    assert (saved.bos_token_id, saved.eos_token_id, saved.pad_token_id) == (1, 2, 0)
    assert saved.generation_kwargs == {"boi_token_id": 4}


def _rewrite_config(**changes: object) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return rewrite


def _rewrite_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return rewrite


def _truncate(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def _remove_a_shard(folder: Path) -> None:
    tiny_policy().model.save_pretrained(folder, max_shard_size="200KB")
    (folder / "model.safetensors").unlink()
    sorted(folder.glob("model-*.safetensors"))[-1].unlink()


def _tie_heads(folder: Path) -> None:
    _rewrite_config(tie_word_embeddings=True)(folder)
    _rewrite_weights(lambda weights: weights.pop("lm_head.weight"))(folder)


def _tie_heads_and_write_both(folder: Path) -> None:
    _rewrite_config(tie_word_embeddings=True)(folder)
    embeddings = "model.language_model.embed_tokens.weight"
    _rewrite_weights(lambda w: w.update({"lm_head.weight": w[embeddings].clone()}))(folder)


def _lose_the_index(folder: Path) -> None:
    tiny_policy().model.save_pretrained(folder, max_shard_size="200KB")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").unlink()


def _index_another_folder(name: str) -> Callable[[Path], None]:
    """The weights, moved beside the folder, under a name that leads there."""

    def move(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder.parent / "away.safetensors")
        weights = load_file(folder.parent / "away.safetensors")
        named = name.format(parent=folder.parent)
        index = {"metadata": {}, "weight_map": dict.fromkeys(weights, named)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return move


def _rewrite_section(section: str, **changes: object) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        _rewrite_config(**{section: {**config[section], **changes}})(folder)

    return rewrite


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json:1: not JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "is not a JSON object"),
        (_rewrite_config(architectures=["LlamaForCausalLM"]), "not JanusForConditionalGeneration"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no *.safetensors file"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 64), "is corrupt"),
        (_truncate, "is corrupt"),
        (_remove_a_shard, "-of-0000"),
        (
            _rewrite_weights(lambda weights: weights.pop("lm_head.weight")),
            "lm_head is tied to embed_tokens, which Janus-Pro's is not: there is no lm_head.weight",
        ),
        (
            _rewrite_weights(lambda weights: weights.pop("model.language_model.norm.weight")),
            "missing keys: 1, first model.language_model.norm.weight",
        ),
        (
            _rewrite_weights(lambda weights: weights.update(extra=torch.ones(1))),
            "unexpected keys: 1, first extra",
        ),
        (
            _rewrite_weights(lambda weights: weights.update({"lm_head.weight": torch.ones(2, 2)})),
            "lm_head.weight has shape [2, 2], not [",
        ),
        (_tie_heads, "lm_head is tied to embed_tokens"),
        (_tie_heads_and_write_both, "lm_head is tied to embed_tokens"),
        (_index_another_folder("../away.safetensors"), "names '../away.safetensors', which is not"),
        (_index_another_folder("{parent}/away.safetensors"), "away.safetensors', which is not in"),
        (_lose_the_index, "but no model.safetensors or model.safetensors.index.json"),
        (
            lambda folder: (folder / "model.safetensors").rename(folder / "weights.safetensors"),
            "has weights.safetensors, but no model.safetensors or",
        ),
        (_rewrite_section("text_config", model_type="qwen9"), "text_config.model_type: Input"),
        (_rewrite_section("vision_config", image_size=[16, 16]), "vision_config.image_size: Input"),
        (_rewrite_section("vision_config", patch_size=0), "vision_config.patch_size: Input"),
        (_rewrite_config(text_config=3), "text_config: Input should be"),
        (_rewrite_section("text_config", rope_parameters={"rope_type": "x"}), "can be built: Key"),
    ],
    ids=[
        "no config", "no tokenizer", "broken config", "config is a list", "other architecture",
        "no weights", "garbage weights", "truncated weights", "missing shard", "no head",
        "missing key", "unexpected key", "wrong shape", "tied head", "tied head twice",
        "index up", "index elsewhere", "no index", "other name", "language model",
        "image of two sides", "no patches", "no section", "rope",
    ],
)  # fmt: skip
def test_each_wrong_checkpoint_is_one_clear_line(
    tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    """It names the folder and what is wrong with it."""
    folder = save_tiny_checkpoint(tmp_path / "checkpoint")
    spoil(folder)
    with pytest.raises(UserError) as caught:
        load_policy(folder)
    assert str(folder) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_is_one_clear_line(tmp_path: Path) -> None:
    """For the policy and for the tokenizer."""
    with pytest.raises(UserError, match="nowhere does not exist"):
        load_policy(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"nowhere has no tokenizer\.json"):
        load_encoder(tmp_path / "nowhere", "shapes")


def test_a_tokenizer_without_its_names_is_one_clear_line(tmp_path: Path) -> None:
    """It is the file that is missing, and no Janus tokenizer that is none."""
    folder = save_tiny_checkpoint(tmp_path / "checkpoint")
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match=r"checkpoint has no tokenizer_config\.json$"):
        load_encoder(folder, "shapes")

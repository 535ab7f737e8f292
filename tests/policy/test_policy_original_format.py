"""The original Janus-Pro format: every key at real size, every bit at tiny size, every fault."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from original_janus import (
    JANUS_PRO_1B,
    JANUS_PRO_7B,
    TINY,
    as_original,
    name_tiny_parts,
    original_shapes,
    save_original,
    write_weights,
)
from transformers import JanusForConditionalGeneration

from benchmarks.small_models.random_janus import PROMPTS, tiny_encoder, tiny_policy, tiny_tokenizer
from policy.checkpoint.loading import (
    check_checkpoint,
    janus_config,
    load_encoder,
    load_policy,
    read_config,
)
from policy.checkpoint.original_config import translated_config
from policy.checkpoint.original_weights import translated_names, translated_tensors
from policy.errors import UserError

FORMATS = ("bin", "bin-shards", "safetensors", "safetensors-shards")
ARCHITECTURES = ({}, {"architectures": []}, {"architectures": ["MultiModalityCausalLM"]})


@pytest.fixture(autouse=True)
def _tiny_parts_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    name_tiny_parts(monkeypatch)


# Real size, shapes only


@pytest.mark.parametrize(
    ("config", "num_keys", "language_parameters"),
    [(JANUS_PRO_7B, 1018, 6_910_365_696), (JANUS_PRO_1B, 964, 1_652_656_128)],
    ids=["7B", "1B"],
)
def test_every_key_of_the_real_models_has_its_place(
    tmp_path: Path, config: dict[str, Any], num_keys: int, language_parameters: int
) -> None:
    """Original keys <-> transformers keys is one to one but for qkv (one to three) and what only
    the original has, and all shapes agree: the 7B and the 1B can be loaded, told by their
    config.json alone.
    """
    (tmp_path / "config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        model = JanusForConditionalGeneration(janus_config(tmp_path))
        original = {key: torch.empty(shape) for key, shape in original_shapes(config).items()}
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    assert len(expected) == num_keys
    found = {key: tuple(tensor.shape) for key, tensor in translated_tensors(original).items()}
    assert found == expected

    names = {key: translated_names(key) for key in original}
    everything = [name for places in names.values() for name in places or ()]
    assert len(everything) == len(set(everything)) == num_keys
    for key, places in names.items():
        only_original = ".attn_pool." in key or key.endswith(".codebook_used")
        assert places is not None
        assert len(places) == (0 if only_original else 3 if ".qkv." in key else 1), key
    language = sum(t.numel() for key, t in original.items() if key.startswith("language_model."))
    assert language == language_parameters
    assert model.lm_head.weight is not model.model.language_model.embed_tokens.weight


def test_sizes_left_out_are_llamas() -> None:
    """A config.json holds only what differs from LlamaConfig's values: 7B by its layers alone."""
    text: Any = translated_config(JANUS_PRO_7B).text_config
    assert (text.hidden_size, text.intermediate_size, text.num_attention_heads) == (4096, 11008, 32)
    assert (text.num_hidden_layers, text.vocab_size, text.num_key_value_heads) == (30, 102400, 32)
    assert text.rope_parameters["rope_theta"] == 10000.0
    assert text.rms_norm_eps == 1e-6
    config = copy.deepcopy(JANUS_PRO_7B)
    config["language_config"] |= {"rope_theta": 5000.0, "rms_norm_eps": 1e-5}
    text = translated_config(config).text_config
    assert (text.rope_parameters["rope_theta"], text.rms_norm_eps) == (5000.0, 1e-5)
    assert not text.tie_word_embeddings
    assert not translated_config(config).tie_word_embeddings


def test_a_deeper_aligner_keeps_its_order() -> None:
    """Linear layers stand at even places, activations between them have no weights."""
    assert translated_names("aligner.layers.4.bias") == ("model.aligner.hidden_layers.1.bias",)
    assert translated_names("gen_aligner.layers.3.weight") is None


# Tiny size, real files


@pytest.mark.parametrize("extra", ARCHITECTURES, ids=["unnamed", "empty", "named"])
@pytest.mark.parametrize("file_format", FORMATS)
def test_a_folder_loads_bit_for_bit(
    tmp_path: Path, file_format: str, extra: dict[str, Any]
) -> None:
    """The same model as the transformers format holds: weights, logits and pixels; whether
    config.json names the architecture, as trainers that write it do, or the model type alone.
    """
    folder = save_original(tmp_path / "janus", file_format, **extra)
    check_checkpoint(folder)
    loaded, expected = load_policy(folder), tiny_policy()
    ours, theirs = loaded.model.state_dict(), expected.model.state_dict()
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        assert torch.equal(tensor, theirs[key]), key
    ids = torch.arange(16).unsqueeze(0)
    assert (loaded.decode(ids) == expected.decode(ids)).all()
    with torch.no_grad():
        hidden, wanted = (p.hidden_states(p.embed_text(ids)) for p in (loaded, expected))
        assert torch.equal(hidden, wanted)
        assert torch.equal(loaded.image_logits(hidden), expected.image_logits(wanted))
    assert load_encoder(folder, "shapes").special == tiny_encoder().special
    vision: Any = read_config(folder).vision_config
    assert vision.image_size == 16


def test_training_a_loaded_model_leaves_the_file_alone(tmp_path: Path) -> None:
    """Weights are mapped from disk, but a change of theirs is not written through."""
    folder = save_original(tmp_path / "janus", "bin")
    policy = load_policy(folder)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.zero_()
    reloaded = load_policy(folder).model.state_dict()
    assert torch.equal(reloaded["lm_head.weight"], tiny_policy().model.lm_head.weight)


def test_the_asked_type_is_given(tmp_path: Path) -> None:
    """bf16 in memory whatever the file holds, rounded as the transformers format is."""
    folder = save_original(tmp_path / "janus", "bin")
    loaded = load_policy(folder, torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    expected = tiny_policy().model.lm_head.weight.to(torch.bfloat16)
    assert torch.equal(loaded.model.lm_head.weight, expected)


def test_saved_again_it_is_a_checkpoint_that_transformers_draws_from(tmp_path: Path) -> None:
    """Token ids that the original leaves to its tokenizer are in the configuration: transformers
    alone loads the folder and generates an image.
    """
    folder = tmp_path / "transformers"
    policy = load_policy(save_original(tmp_path / "janus", "bin"))
    policy.model.save_pretrained(folder)
    model = JanusForConditionalGeneration.from_pretrained(folder, local_files_only=True)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, policy.model.state_dict()[key]), key
    row = torch.from_numpy(tiny_encoder().image_prompt_ids(PROMPTS[0], "a red circle")).long()
    images = model.generate(
        row.unsqueeze(0),
        attention_mask=torch.ones(1, len(row), dtype=torch.long),
        generation_mode="image",
        do_sample=False,
        guidance_scale=5.0,
    )
    assert images.shape == (1, 16)


# Faults


def _config(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        config = copy.deepcopy(TINY)
        change(config)
        (folder / "config.json").write_text(json.dumps(config))

    return spoil


def _weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        tensors = as_original(tiny_policy().model.state_dict())
        change(tensors)
        write_weights(folder, tensors, "bin")

    return spoil


def _tie(tensors: dict[str, torch.Tensor]) -> None:
    tensors["language_model.lm_head.weight"] = tensors["language_model.model.embed_tokens.weight"]


def _pickle(folder: Path) -> None:
    torch.save({"weights": Path("x")}, folder / "pytorch_model.bin")


def _list_in_place_of_tensors(folder: Path) -> None:
    torch.save({"epoch": 3}, folder / "pytorch_model.bin")


def _truncate(folder: Path) -> None:
    file = folder / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _lose_a_shard(folder: Path) -> None:
    write_weights(folder, as_original(tiny_policy().model.state_dict()), "bin-shards")
    for name in ("pytorch_model.bin", "pytorch_model-00002-of-00002.bin"):
        (folder / name).unlink()


def _no_begin_of_image(folder: Path) -> None:
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace("<begin_of_image>", "<begin_of_picture>"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            _config(lambda c: c.update(architectures=["LlavaForCausalLM"])),
            "architectures is ['LlavaForCausalLM'], not JanusForConditionalGeneration or Multi",
        ),
        (
            _config(lambda c: c.update(model_type="llava")),
            "model_type is llava, not janus or multi_modality",
        ),
        (_config(lambda c: c.pop("model_type")), "model_type is None, not janus or multi_modality"),
        (
            _config(lambda c: [c.pop(key) for key in list(c) if key.startswith("gen_")]),
            "no gen_vision_config, gen_aligner_config, gen_head_config: this model makes no image",
        ),
        (_config(lambda c: c.pop("gen_head_config")), "no gen_head_config: this model makes no"),
        (_config(lambda c: c.pop("aligner_config")), "aligner_config: Field required"),
        (
            _config(lambda c: c["vision_config"]["params"].update(model_name="sam")),
            "vision_config.params.model_name: 'sam' is not known; known: siglip_large",
        ),
        (_config(lambda c: c["gen_vision_config"].update(cls="VQ-8")), "'VQ-8' is not known"),
        (
            _config(lambda c: c["aligner_config"]["params"].update(projector_type="linear")),
            "aligner_config.params.projector_type: ",
        ),
        (
            _config(lambda c: c["gen_head_config"]["params"].update(image_token_embed=64)),
            "gen_head_config.params.image_token_embed: 64 is not",
        ),
        (
            _config(lambda c: c["language_config"].update(tie_word_embeddings=True)),
            "language_config.tie_word_embeddings",
        ),
        (
            _config(lambda c: c["language_config"].update(num_attention_heads=3)),
            "hidden size (32) is not a multiple",
        ),
        (
            _weights(lambda w: w.pop("language_model.lm_head.weight")),
            "lm_head is tied to embed_tokens, which Janus-Pro's is not: there is no lm_head.weight",
        ),
        (
            _weights(lambda w: w.pop("gen_embed.weight")),
            "missing keys: 1, first model.generation_embeddings.weight",
        ),
        (_weights(lambda w: w.update(ema=torch.ones(1))), "unexpected key ema"),
        (
            _weights(
                lambda w: w.update({"language_model.model.layers.9.mlp.x.weight": torch.ones(1)})
            ),
            "unexpected keys: 1, first model.language_model.layers.9.mlp.x.weight",
        ),
        (
            _weights(lambda w: w.update({"gen_embed.weight": torch.ones(3, 8)})),
            "model.generation_embeddings.weight has shape [3, 8], not [32, 8]",
        ),
        (
            _weights(
                lambda w: w.update(
                    {"vision_model.vision_tower.blocks.0.attn.qkv.bias": torch.ones(64)}
                )
            ),
            "_proj.bias has shape [22], not [32]",
        ),
        (_weights(_tie), "lm_head is tied to embed_tokens"),
        (_pickle, "pytorch_model.bin is corrupt"),
        (_list_in_place_of_tensors, "does not hold tensors by name"),
        (_truncate, "pytorch_model.bin is corrupt"),
        (_lose_a_shard, "has no pytorch_model-00002-of-00002.bin, which its index names"),
        (
            lambda folder: (folder / "pytorch_model.bin").unlink(),
            "has no *.safetensors or pytorch_model.bin file",
        ),
        (_no_begin_of_image, "the tokenizer has no <begin_of_image>"),
    ],
    ids=[
        "other architecture", "other type", "no type", "DeepSeek-VL", "no head", "no section",
        "unknown tower", "unknown coder", "other projector",
        "head of two sizes", "tied by config", "odd heads", "no head weight", "missing key",
        "extra key", "extra layer", "wrong shape", "wrong qkv", "tied by memory", "pickle",
        "no tensors", "truncated", "missing shard", "no weights", "no begin of image",
    ],
)  # fmt: skip
def test_each_fault_is_one_clear_line(
    tmp_path: Path, spoil: Callable[[Path], object], message: str
) -> None:
    """It names the folder or the file, and the first key at fault."""
    folder = save_original(tmp_path / "janus", "bin")
    spoil(folder)
    with pytest.raises(UserError) as caught:
        load_policy(folder)
    assert str(folder) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_that_is_not_its_file_is_refused(tmp_path: Path) -> None:
    """Broken JSON, and a tokenizer_config.json that changes what the file says."""
    tiny_tokenizer().save_pretrained(tmp_path)
    file = tmp_path / "tokenizer.json"
    whole = file.read_text()
    file.write_text(whole[:-40])
    with pytest.raises(UserError, match=r"tokenizer\.json cannot be read"):
        load_encoder(tmp_path, "shapes")
    file.write_text(whole)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    added = {"5": {"content": ":", "special": True}}
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(config | {"added_tokens_decoder": added})
    )
    with pytest.raises(UserError, match=r"makes other ids of"):
        load_encoder(tmp_path, "shapes")

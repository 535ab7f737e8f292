"""Prompts as ids: templates, special ids by name, the unconditional twin."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from benchmarks.small_models.random_janus import PROMPTS, tiny_encoder, tiny_tokenizer
from policy.encoding import PromptEncoder, special_ids, unconditional_twin
from policy.errors import UserError
from policy.templates import TEMPLATES, template_named

PROMPT, COT = "a {} red % circle", "a {cot} circle"


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_templates_hold_prompt_and_cot_verbatim(name: str) -> None:
    """Braces in a prompt or a CoT are text, not placeholders; no placeholder is left."""
    template = template_named(name)
    assert PROMPT in template.cot_prompt(PROMPT)
    image_prompt = template.image_prompt(PROMPT, COT)
    assert image_prompt.index(PROMPT) < image_prompt.index(COT)
    for text in (template.cot_prompt("x"), template.image_prompt("x", "y")):
        assert "{" not in text


def test_an_instruction_replaces_the_default() -> None:
    """``{}`` stands for the prompt."""
    text = template_named("shapes").cot_prompt("a circle", "think about {} now")
    assert text == "<|User|> : think about a circle now <|Assistant|> :"


def test_an_unknown_template_is_refused() -> None:
    """With the list of those there are."""
    with pytest.raises(UserError, match="unknown template 'plain'; known: janus-plain"):
        template_named("plain")


def test_special_ids_are_found_by_name() -> None:
    """Whatever their numbers are."""
    special = special_ids(tiny_tokenizer())
    assert (special.pad, special.bos, special.eos, special.begin_of_image) == (0, 1, 2, 4)


def test_padding_is_januss_own_whatever_the_tokenizer_pads_with() -> None:
    """Fullwidth bars, low lines of sentencepiece: what the reference makes the unconditional twin
    of. The tokenizer's pad_token names another token of the same vocabulary.
    """
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["<\uff5c\u2581pad\u2581\uff5c>", "<|_pad_|>"], special_tokens=True)
    own = len(tokenizer) - 2
    special = special_ids(tokenizer)
    assert (tokenizer.pad_token_id, special.pad) == (0, own)
    twin = unconditional_twin(np.array([1, 8, 9, 4], dtype=np.int32), special)
    assert twin.tolist() == [1, own, own, 4]
    tokenizer.pad_token = None
    assert special_ids(tokenizer).pad == own


@pytest.mark.parametrize("kwargs", [{"pad_token": None}, {"eos_token": None}, {"bos_token": None}])
def test_a_missing_special_token_is_refused(kwargs: dict[str, None]) -> None:
    """Naming which."""
    names = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", **kwargs}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer().backend_tokenizer,
        **{key: value for key, value in names.items() if value},
    )
    with pytest.raises(UserError, match="it is not a Janus tokenizer"):
        special_ids(tokenizer)


def test_both_phases_have_their_frame() -> None:
    """BOS first; begin-of-image last in phase 2 only; the text between them round-trips."""
    encoder = tiny_encoder()
    cot = encoder.cot_prompt_ids(PROMPTS[0])
    image = encoder.image_prompt_ids(PROMPTS[0], "a large red circle")
    assert cot[0] == image[0] == encoder.special.bos
    assert image[-1] == encoder.special.begin_of_image not in cot
    assert cot.dtype == image.dtype == np.int32
    text = encoder.tokenizer.decode(image[1:-1].tolist())
    assert text == "<|User|> : a red circle . a large red circle <|Assistant|> :"


def test_cot_text_is_without_special_tokens() -> None:
    """EOS, padding and the like are no part of what phase 2 reads."""
    encoder = tiny_encoder()
    ids = encoder.tokenizer.encode("a red circle <eos>", add_special_tokens=False)
    assert encoder.cot_text(np.asarray(ids)) == "a red circle"
    assert encoder.cot_text(np.zeros(0, dtype=np.int32)) == ""


def test_an_encoder_with_an_instruction_uses_it() -> None:
    """The instruction of the settings reaches the ids."""
    encoder = PromptEncoder(tiny_tokenizer(), template_named("shapes"), "visualize {} and {}")
    text = encoder.tokenizer.decode(encoder.cot_prompt_ids(PROMPTS[0]).tolist()[1:])
    assert text == "<|User|> : visualize a red circle and a red circle <|Assistant|> :"


def test_the_twin_keeps_length_and_frame() -> None:
    """Everything between BOS and begin-of-image is padding; the row itself is untouched."""
    special = tiny_encoder().special
    row = np.array([1, 11, 12, 13, 4], dtype=np.int32)
    assert unconditional_twin(row, special).tolist() == [1, 0, 0, 0, 4]
    assert row.tolist() == [1, 11, 12, 13, 4]
    assert unconditional_twin(row[[0, 4]], special).tolist() == [1, 4]


def test_the_pieces_of_a_cot_are_its_text() -> None:
    """One piece for each token, and EOS adds nothing."""
    encoder = tiny_encoder()
    ids = encoder.tokenizer.encode(PROMPTS[0].text, add_special_tokens=False)
    cot_ids = np.array([*ids, encoder.special.eos], dtype=np.int32)
    pieces = encoder.cot_pieces(cot_ids)
    assert len(pieces) == len(cot_ids)
    assert "".join(pieces) == encoder.cot_text(cot_ids)
    assert pieces[-1] == ""


def test_a_character_of_several_tokens_belongs_to_the_last() -> None:
    """Tokens of bytes, as Janus-Pro has: an umlaut is two bytes and an emoji four. Bytes at the end
    that are no character are one sign, as in the text."""
    alphabet = sorted(ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = ByteLevel(add_prefix_space=False), ByteDecoder()
    encoder = tiny_encoder()
    encoder.tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    cot_ids = np.array(encoder.tokenizer.encode("a \u00fc\U0001f534b"), dtype=np.int32)
    assert encoder.cot_pieces(cot_ids) == ["a", " ", "", "\u00fc", "", "", "", "\U0001f534", "b"]
    assert "".join(encoder.cot_pieces(cot_ids[:6])) == encoder.cot_text(cot_ids[:6])

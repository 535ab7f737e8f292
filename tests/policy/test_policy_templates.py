"""The strings that Janus-Pro reads, letter for letter, and their ids under a byte-level BPE.

The plain strings are those of the paper's code: role names "User" and "Assistant" in the chat
format of the Janus repository, messages stripped, the CoT taken as it was decoded.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from policy.checkpoint.loading import load_encoder
from policy.encoding import PromptEncoder
from policy.templates import TEMPLATES, template_named
from policy.types import Prompt

SYSTEM = (
    "You are a helpful assistant that receives an image prompt and generate a visualization of "
    "the prompt."
)
# The form of the authors' instruction file: {} once, in quotes, and an end without a line end.
INSTRUCTION = (
    'You are asked to draw this: "{}"\nDescribe it. Your description should:\n1. Be short\n'
    "Output it directly: "
)


@pytest.mark.parametrize(
    ("template", "user", "assistant"),
    [("janus-plain", "User", "Assistant"), ("janus-special", "<|User|>", "<|Assistant|>")],
)
def test_both_phases_letter_for_letter(template: str, user: str, assistant: str) -> None:
    """Phase 1 has the system text, phase 2 has none; one blank line between turns; no space
    behind the last colon; the space that ends the instruction is stripped.
    """
    chosen = template_named(template)
    assert chosen.cot_prompt("a red car", INSTRUCTION) == (
        f"{SYSTEM}\n\n{user}: You are asked to draw this: "
        '"a red car"\nDescribe it. Your description should:\n1. Be short\nOutput it directly:'
        f"\n\n{assistant}:"
    )
    assert chosen.image_prompt("a red car", "A shiny red car.") == (
        f"{user}: a red car. A shiny red car.\n\n{assistant}:"
    )


@pytest.mark.parametrize(
    ("prompt", "cot", "message"),
    [
        (
            "The car is red.",
            "A car.",
            "The car is red.. A car.",
        ),  # two dots, as in the paper's runs
        ("a car", " A car.", "a car.  A car."),  # the space that a CoT begins with is its own
        ("a car", "A car. \n", "a car. A car."),
        ("a car", "", "a car."),
        (" a car", "A car.", "a car. A car."),
        ("a car", "One.\n\nTwo.", "a car. One.\n\nTwo."),
    ],
)
def test_only_the_ends_of_the_message_are_stripped(prompt: str, cot: str, message: str) -> None:
    """The message of phase 2 is ``(prompt + ". " + cot).strip()`` and nothing else."""
    expected = f"User: {message}\n\nAssistant:"
    assert template_named("janus-plain").image_prompt(prompt, cot) == expected


def test_without_a_cot_the_message_is_the_prompt() -> None:
    """As the plain Janus-Pro has it: no text follows the prompt. An empty CoT leaves ". " there."""
    plain = template_named("janus-plain")
    assert plain.image_prompt("a {red} car", None) == "User: a {red} car\n\nAssistant:"
    assert plain.image_prompt("a car", "") == "User: a car.\n\nAssistant:"
    shapes = template_named("shapes").image_prompt("a red circle", None)
    assert shapes == "<|User|> : a red circle <|Assistant|> :"


def test_the_shapes_strings() -> None:
    """The embedded model's own, which its checkpoint was trained on."""
    shapes = TEMPLATES["shapes"]
    assert shapes.cot_prompt("a red circle") == (
        '<|User|> : visualize : " a red circle " <|Assistant|> :'
    )
    assert shapes.image_prompt("a red circle", "large") == (
        "<|User|> : a red circle . large <|Assistant|> :"
    )


def test_the_default_instruction_holds_the_prompt_once() -> None:
    """Ours for Janus-Pro, with the prompt in quotes."""
    for name in ("janus-plain", "janus-special"):
        text = template_named(name).cot_prompt("a red car")
        assert text.count('"a red car"') == 1
        assert "{}" not in text


def test_an_empty_instruction_is_not_our_own() -> None:
    """Only none at all stands for the default."""
    assert TEMPLATES["shapes"].cot_prompt("a red circle", "") == "<|User|> :  <|Assistant|> :"


# Ids


PADDING = "<\uff5c\u2581pad\u2581\uff5c>"
ADDITIONAL = ["<image_placeholder>", "<|ref|>", "<|User|>", "<|Assistant|>"]


@pytest.fixture(scope="module", params=["named", "unnamed", "additional"])
def janus_like(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer folder built as Janus-Pro's is: byte-level BPE, the Llama class by name, padding
    named in special_tokens_map.json alone; that file is not there, or it lists additional tokens
    too, as the real 7B's does.
    """
    folder = tmp_path_factory.mktemp("tokenizer")
    special = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": PADDING}
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[
            *special.values(),
            "<begin_of_image>",
            "<|User|>",
            "<|Assistant|>",
            "<image_placeholder>",
            "<|ref|>",
        ],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([SYSTEM, INSTRUCTION, "a photo of a red car"], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "LlamaTokenizerFast",
        "pad_token": None,
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 16384,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if request.param == "additional":
        special |= {"additional_special_tokens": ADDITIONAL}
    if request.param != "unnamed":
        (folder / "special_tokens_map.json").write_text(json.dumps(special))
    return folder


@pytest.fixture
def encoder(janus_like: Path) -> PromptEncoder:
    return load_encoder(janus_like, "janus-plain")


@pytest.mark.parametrize("text", ["  a naïve café\n\n42 'cats' — 猫 ", "User: a. b\n\nAssistant:"])
def test_ids_stand_for_exactly_the_text(encoder: PromptEncoder, text: str) -> None:
    """Byte-level BPE loses nothing: spaces, line ends, accents and other scripts come back."""
    assert (
        encoder.tokenizer.decode(encoder.tokenizer.encode(text, add_special_tokens=False)) == text
    )


def test_special_tokens_are_one_id_each(janus_like: Path, encoder: PromptEncoder) -> None:
    """Found by name, BOS once in front although tokenizer_config.json adds one of its own."""
    special = encoder.special
    assert (special.bos, special.eos, special.pad, special.begin_of_image) == (0, 1, 2, 3)
    prompt = Prompt(id="1", text="a red car", task_type="color")
    ids = encoder.image_prompt_ids(prompt, " A red car.")
    assert ids[0] == special.bos
    assert ids[-1] == special.begin_of_image
    assert special.bos not in ids[1:]
    text = encoder.tokenizer.decode(ids[1:-1].tolist())
    assert text == "User: a red car.  A red car.\n\nAssistant:"
    roles = load_encoder(janus_like, "janus-special").cot_prompt_ids(prompt)
    assert [(roles == role).sum() for role in (4, 5)] == [1, 1]
    assert roles[-2:].tolist() == [5, encoder.tokenizer.get_vocab()[":"]]


def test_a_cot_keeps_the_space_it_begins_with(encoder: PromptEncoder) -> None:
    """Decoded without EOS and otherwise as it is; phase 2 reads it so in the paper's runs."""
    ids = encoder.tokenizer.encode(" A red car.", add_special_tokens=False)
    assert encoder.cot_text(np.asarray([*ids, encoder.special.eos])) == " A red car."

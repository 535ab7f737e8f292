"""Loads the tokenizer of a checkpoint and checks that it works as its tokenizer.json says."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from policy.encoding import BEGIN_OF_IMAGE, special_ids
from policy.errors import UserError

# Two texts with the characters that prompts have: spaces, digits, line ends, quotes, role markers
# and letters outside ASCII.
_EXAMPLE_TEXTS = (
    "User: a photo of 2 red cats.\n\nAssistant:",
    '<|User|>: "naïve"  café,\n1. left of\n\n<|Assistant|>:',
)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Load tokenizer.json. Raises ``UserError`` when it is missing, broken or not a Janus one.

    ``PreTrainedTokenizerFast`` is used directly. The Llama tokenizer classes of transformers 5
    ignore the byte-level pre-tokenizer that Janus's tokenizer.json asks for, and would silently
    give other ids. To detect such a change in any version, example texts must become the same ids
    with the loaded tokenizer and with the file alone.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise UserError(f"checkpoint {folder} has no tokenizer.json")
    try:
        alone = Tokenizer.from_file(str(file))
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the Rust library raises nothing more specific
        reason = " ".join(str(error).split())
        raise UserError(f"checkpoint file {file} cannot be read: {reason}") from None
    try:
        special = special_ids(tokenizer)
    except UserError as error:
        # tokenizer_config.json names the special tokens. Without it they cannot be found.
        if not (folder / "tokenizer_config.json").is_file():
            raise UserError(f"checkpoint {folder} has no tokenizer_config.json") from None
        raise UserError(f"checkpoint {folder}: {error}") from None
    expected = {text: alone.encode(text, add_special_tokens=False).ids for text in _EXAMPLE_TEXTS}
    expected[BEGIN_OF_IMAGE] = [special.begin_of_image]
    for text, ids in expected.items():
        if tokenizer.encode(text, add_special_tokens=False) != ids:
            raise UserError(
                f"checkpoint {folder}: the tokenizer makes other ids of {text!r} than its"
                " tokenizer.json says"
            )
    return tokenizer

"""Turns prompts into token ids and token ids into text, with a tokenizer and a prompt template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from policy.errors import UserError
from policy.templates import Template
from policy.types import IntArray, Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BEGIN_OF_IMAGE = "<begin_of_image>"
# The padding token that Janus itself uses (janus/models/processing_vlm.py of its repository). It is
# written with fullwidth bars and sentencepiece's underscores. The published tokenizer files have
# not always named this token as their pad_token.
PADDING = "<\uff5c\u2581pad\u2581\uff5c>"


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the special tokens, looked up by name in the tokenizer."""

    bos: int
    eos: int
    pad: int
    begin_of_image: int


class PromptEncoder:
    """Builds the prompt ids of both phases.

    A trajectory records these ids. Everything later reads the recorded ids and tokenises nothing
    again, because a second tokenisation could give other ids.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: Template,
        instruction: str | None = None,
    ) -> None:
        """``instruction`` replaces the template's CoT instruction; ``{}`` stands for the prompt."""
        self.tokenizer = tokenizer
        self.template = template
        self.instruction = instruction
        self.special = special_ids(tokenizer)

    def cot_prompt_ids(self, prompt: Prompt) -> IntArray:
        """BOS and the CoT prompt."""
        return self._ids(self.template.cot_prompt(prompt.text, self.instruction))

    def image_prompt_ids(self, prompt: Prompt, cot_text: str | None) -> IntArray:
        """BOS, the image prompt with the CoT in it, if there is one, and ``<begin_of_image>``."""
        ids = self._ids(self.template.image_prompt(prompt.text, cot_text))
        return np.append(ids, np.int32(self.special.begin_of_image))

    def cot_text(self, cot_ids: IntArray) -> str:
        """The CoT as text, without EOS; a leading space stays, as in the paper's runs."""
        return self._decoded(cot_ids.tolist())

    def cot_pieces(self, cot_ids: IntArray) -> list[str]:
        """The text that each CoT token adds; joined, the pieces are ``cot_text``.

        A character that several tokens make up belongs to the last of them, and the others add "".
        """
        ids, pieces = cot_ids.tolist(), [""] * len(cot_ids)
        # Each piece is decoded behind the one before it, because a tokenizer may decode a token at
        # the start of a text without its leading space.
        before, begin = 0, 0
        for place in range(len(ids)):
            known = self._decoded(ids[before:begin])
            text = self._decoded(ids[before : place + 1])
            if len(text) > len(known) and (not text.endswith("\ufffd") or place == len(ids) - 1):
                pieces[place] = text[len(known) :]
                before, begin = begin, place + 1
        return pieces

    def _decoded(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _ids(self, text: str) -> IntArray:
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        return np.asarray([self.special.bos, *ids], dtype=np.int32)


def unconditional_twin(image_prompt_ids: IntArray, special: SpecialIds) -> IntArray:
    """The image prompt with padding in place of everything between BOS and ``<begin_of_image>``.

    It is as long as the prompt itself, so that an image does not depend on the other rows of its
    batch.
    """
    twin = np.full_like(image_prompt_ids, special.pad)
    twin[0], twin[-1] = image_prompt_ids[0], image_prompt_ids[-1]
    return twin


def special_ids(tokenizer: PreTrainedTokenizerBase) -> SpecialIds:
    """Look the special ids up by name; raises ``UserError`` when one is missing.

    If the vocabulary holds ``PADDING``, that token is taken, else the tokenizer's ``pad_token``.
    Another padding token would silently change the unconditional twin and with it guidance.
    """
    vocabulary = tokenizer.get_vocab()
    named = {
        "beginning-of-sequence token": tokenizer.bos_token_id,
        "end-of-sequence token": tokenizer.eos_token_id,
        "padding token": vocabulary.get(PADDING, tokenizer.pad_token_id),
        BEGIN_OF_IMAGE: vocabulary.get(BEGIN_OF_IMAGE),
    }
    for name, token_id in named.items():
        if token_id is None:
            raise UserError(f"the tokenizer has no {name}: it is not a Janus tokenizer")
    return SpecialIds(*(int(token_id) for token_id in named.values()))

"""From prompts to token ids and back: tokenizer and template as one object."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from policy.errors import UserError
from policy.templates import Template
from policy.types import IntArray, Prompt

BEGIN_OF_IMAGE = "<begin_of_image>"
# Janus's own padding (janus/models/processing_vlm.py of its repository), with fullwidth bars and
# sentencepiece's underscores. What its tokenizer files call pad_token has not always been this one.
PADDING = "<\uff5c\u2581pad\u2581\uff5c>"


@dataclass(frozen=True)
class SpecialIds:
    """Ids resolved by name from the tokenizer, never assumed."""

    bos: int
    eos: int
    pad: int
    begin_of_image: int


class PromptEncoder:
    """Builds the exact ids of both phases; trajectories record them and nothing rebuilds them."""

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

    def image_prompt_ids(self, prompt: Prompt, cot_text: str) -> IntArray:
        """BOS, the image prompt with the CoT in it, and ``<begin_of_image>``."""
        ids = self._ids(self.template.image_prompt(prompt.text, cot_text))
        return np.append(ids, np.int32(self.special.begin_of_image))

    def cot_text(self, cot_ids: IntArray) -> str:
        """The CoT as text, without EOS; a leading space stays, as in the paper's runs."""
        return str(self.tokenizer.decode(cot_ids.tolist(), skip_special_tokens=True))

    def _ids(self, text: str) -> IntArray:
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        return np.asarray([self.special.bos, *ids], dtype=np.int32)


def unconditional_twin(image_prompt_ids: IntArray, special: SpecialIds) -> IntArray:
    """The image prompt with everything between BOS and ``<begin_of_image>`` padded out.

    It keeps the row's own length, so that an image never depends on its batch mates.
    """
    twin = np.full_like(image_prompt_ids, special.pad)
    twin[0], twin[-1] = image_prompt_ids[0], image_prompt_ids[-1]
    return twin


def special_ids(tokenizer: PreTrainedTokenizerBase) -> SpecialIds:
    """Resolve the special ids by name; raises ``UserError`` when one is missing.

    A wrong padding token would change the unconditional twin, and with it guidance, unnoticed:
    Janus's own goes before the tokenizer's ``pad_token``.
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

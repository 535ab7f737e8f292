"""OpenAI's CLIP with the inputs that OpenAI's own program gives it.

The image processor of transformers crops a pixel beside it where the rest is 3 modulo 4. Its
tokenizer cuts long texts off, and does not repair them: it reads a curly apostrophe or ``&amp;`` as
other tokens. Pillow itself resizes tall images otherwise since version 13. Sources: openai/CLIP,
``clip.py`` and ``simple_tokenizer.py``, as in T2I-CompBench 1b709499; torchvision's transforms.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import regex
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import CLIPConfig, CLIPModel

from policy.checkpoint.weight_files import weight_files
from policy.errors import UserError
from policy.resizing import by_shortest
from rewards.models.clip_score import CONTEXT, ClipScorer
from rewards.models.hps_inputs import MEAN_311, STD_311, cleaned
from rewards.models.pretrained import load_model, reward_model_folder, weights_digest

_NEEDED = ("config.json", "tokenizer.json")
_ACTIVATION = "quick_gelu"
_BEGIN, _END = "<|startoftext|>", "<|endoftext|>"
_WORDS = regex.compile(
    rf"{regex.escape(_BEGIN)}|{regex.escape(_END)}"
    r"|'(?:[stmd]|re|ve|ll)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)


def clip_folder(model: str) -> Path:
    """The folder of a CLIP of OpenAI in the format of transformers.

    Raises ``UserError`` for another activation: the weights would load, and the scores be wrong.
    """
    folder = reward_model_folder(model, _NEEDED)
    config: Any = CLIPConfig.from_pretrained(folder, local_files_only=True)
    for name, tower in (("text", config.text_config), ("vision", config.vision_config)):
        if tower.hidden_act != _ACTIVATION:
            raise UserError(
                f"checkpoint {folder}: {name}_config.hidden_act is {tower.hidden_act!r}, and"
                f" OpenAI's models have {_ACTIVATION!r}"
            )
    return folder


def load_clip(model: str, device: torch.device, dtype: torch.dtype) -> tuple[ClipScorer, str]:
    """The model in ``clip_folder(model)``, and the digest of its weights."""
    folder = clip_folder(model)
    loaded = load_model(CLIPModel, folder, device, dtype)
    inputs = OpenAiClipInputs(folder, loaded.config.vision_config.image_size)
    return ClipScorer(loaded, inputs), weights_digest(weight_files(folder, pickled=True))


class OpenAiClipInputs:
    """Prepares texts with the vocabulary in ``folder``, and images of ``side`` pixels."""

    def __init__(self, folder: Path, side: int) -> None:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        vocabulary = tokenizer.get_vocab()
        if missing := {_BEGIN, _END} - vocabulary.keys():
            raise UserError(f"checkpoint {folder}: its tokenizer has no token {min(missing)!r}")
        self._pairs = tokenizer.model
        self._special = {token: vocabulary[token] for token in (_BEGIN, _END)}
        self._bytes = ByteLevel(add_prefix_space=False, use_regex=False)
        self._side = side

    def texts(self, texts: list[str]) -> dict[str, Tensor]:
        """Ids U T. A text that CLIP cannot read as a whole raises ``ValueError``.

        No mask is needed: the end token does not see the padding after it.
        """
        rows = [torch.tensor(self._ids(text)) for text in texts]
        longest = max(len(row) for row in rows)
        if longest > CONTEXT:
            raise ValueError(f"a text of {longest} tokens: CLIP reads {CONTEXT}")
        return {"input_ids": pad_sequence(rows, batch_first=True)}

    def _ids(self, text: str) -> list[int]:
        words = _WORDS.findall(cleaned(text))
        inner = [number for word in words for number in self._word(word)]
        return [self._special[_BEGIN], *inner, self._special[_END]]

    def _word(self, word: str) -> list[int]:
        if word in self._special:
            return [self._special[word]]
        ((in_bytes, _),) = self._bytes.pre_tokenize_str(word)
        return [token.id for token in self._pairs.tokenize(in_bytes)]

    def images(self, images: list[NDArray[np.uint8]]) -> Tensor:
        """Pixels B 3 H W."""
        return torch.stack([pixels(image, self._side) for image in images])


def pixels(image: NDArray[np.uint8], side: int) -> Tensor:
    """Resize an image, H W 3, by its shortest side and keep its middle: 3 ``side`` ``side``."""
    resized = by_shortest(image, side)
    # torchvision also uses Python's round, which rounds halves to even.
    top, left = (round((length - side) / 2) for length in resized.shape[:2])
    cropped = resized[top : top + side, left : left + side]
    return (torch.tensor(cropped).permute(2, 0, 1).float() / 255 - MEAN_311) / STD_311

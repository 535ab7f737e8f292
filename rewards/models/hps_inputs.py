"""Prepares images and prompts for HPS v2.1, as hpsv2's public code does.

Other CLIP models prepare them differently. Here an image is resized as float by its longest side
and padded with black, and a text is repaired before it is tokenized. Source: hpsv2 1.2.0,
``open_clip/transform.py`` and ``open_clip/tokenizer.py``, with torchvision's ``resize`` of tensors.
"""

from __future__ import annotations

import html
from pathlib import Path

import ftfy
import numpy as np
import regex
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from torch.nn.functional import interpolate, pad
from torch.nn.utils.rnn import pad_sequence

from policy.errors import UserError
from rewards.models.clip_score import CONTEXT

MEAN_311 = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
STD_311 = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
_BEGIN, _END = "<|startoftext|>", "<|endoftext|>"  # in the Hub's vocabulary; hpsv2 has other names
_WRITTEN = {"<start_of_text>": _BEGIN, "<end_of_text>": _END}
_WORDS = regex.compile(
    r"<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)


def pixels(image: NDArray[np.uint8], side: int) -> Tensor:
    """Resize an image, H W 3, by its longest side and pad it with black: 3 ``side`` ``side``.

    Values are not clamped, although cubic interpolation goes beyond 0 and 1 at edges. The result is
    torchvision's to the bit: torchvision calls the same function of torch, one image at a time.
    """
    image_3HW = torch.tensor(image).permute(2, 0, 1).contiguous().float() / 255
    longest = max(image_3HW.shape[1:])
    if longest != side:
        # The original also uses Python's round, which rounds halves to even.
        size = [round(length * (side / longest)) for length in image_3HW.shape[1:]]
        image_3HW = interpolate(
            image_3HW[None], size, mode="bicubic", align_corners=False, antialias=True
        )[0]
    rest_y, rest_x = (side - length for length in image_3HW.shape[1:])
    left, top = rest_x // 2, rest_y // 2
    return (pad(image_3HW, (left, rest_x - left, top, rest_y - top)) - MEAN_311) / STD_311


def cleaned(text: str) -> str:
    """Repair mojibake, decode HTML entities twice, make blanks single, lowercase."""
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return regex.sub(r"\s+", " ", text).strip().lower()


class HpsTokenizer:
    """hpsv2's byte-pair encoding, with the vocabulary of a CLIP's ``tokenizer.json``.

    transformers' tokenizer of the same file splits special tokens, a few new letters and some
    combined signs differently.
    """

    def __init__(self, folder: Path) -> None:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._pairs = tokenizer.model
        vocabulary = tokenizer.get_vocab()
        if missing := _WRITTEN.values() - vocabulary.keys():
            raise UserError(f"checkpoint {folder}: its tokenizer has no token {min(missing)!r}")
        self._special = {written: vocabulary[token] for written, token in _WRITTEN.items()}
        self._bytes = ByteLevel(add_prefix_space=False, use_regex=False)

    def __call__(self, text: str) -> list[int]:
        """At most ``CONTEXT`` ids. A text that is cut off still ends with the end token."""
        begin, end = self._special.values()
        ids = [begin]
        for word in _WORDS.findall(cleaned(text)):
            ids += [self._special[word]] if word in self._special else self._word(word)
        return [*ids[: CONTEXT - 1], end]

    def _word(self, word: str) -> list[int]:
        ((in_bytes, _),) = self._bytes.pre_tokenize_str(word)
        return [token.id for token in self._pairs.tokenize(in_bytes)]


class HpsInputs:
    """The inputs of HPS v2.1, by the vocabulary in ``folder``, for images of ``side`` pixels."""

    def __init__(self, folder: Path, side: int) -> None:
        self._tokenizer, self._side = HpsTokenizer(folder), side

    def texts(self, texts: list[str]) -> dict[str, Tensor]:
        """Ids U T. No mask is needed: the end token does not see the padding after it."""
        rows = [torch.tensor(self._tokenizer(text)) for text in texts]
        return {"input_ids": pad_sequence(rows, batch_first=True)}

    def images(self, images: list[NDArray[np.uint8]]) -> Tensor:
        """Pixels B 3 H W."""
        return torch.stack([pixels(image, self._side) for image in images])

"""Gives GroundingDINO the text positions that its authors compute, in any transformers release.

The model reads every phrase of a caption by itself. A phrase ends with its full stop. A token sees
only the tokens of its own phrase, and its position is its place in that phrase. For
``car . zebra.`` with [CLS] and [SEP], the positions are 0 0 1 0 1 0. transformers 5.17 to 5.22 give
0 to every full stop, and round the sines and cosines of the encoder's positions to integers.

Shape legend: B = captions, T = tokens.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import GroundingDinoForObjectDetection

# The ids of the tokens that separate phrases. transformers has them in its code and does not ask
# the tokenizer.
SEPARATORS = {"[CLS]": 101, "[SEP]": 102, ".": 1012, "?": 1029}


def correct_text_positions(model: GroundingDinoForObjectDetection) -> None:
    """Hand the right positions to the text backbone and to the encoder.

    Nothing changes in a release that computes the right ones itself.
    """
    model.model.text_backbone.register_forward_pre_hook(_backbone_positions)
    model.model.encoder.register_forward_pre_hook(_encoder_positions, with_kwargs=True)


def phrase_positions(mask_BTT: Tensor) -> Tensor:
    """How many tokens of its own phrase come before each token, B T.

    ``mask_BTT`` is true where a token (row) sees another of its phrase (column).
    """
    return mask_BTT.tril(-1).sum(-1)


def _backbone_positions(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    ids, mask_B1TT, token_types, _ = inputs
    return ids, mask_B1TT, token_types, phrase_positions(mask_B1TT[:, 0])


def _encoder_positions(
    module: Any, inputs: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    # The encoder's mask is true where a token is hidden. The encoder computes sines and cosines in
    # the dtype of the positions, so these get the dtype of the features.
    positions_BT = phrase_positions(~named["text_self_attention_masks"])
    return inputs, named | {"text_position_ids": positions_BT.to(named["text_features"].dtype)}

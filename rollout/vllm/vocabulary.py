"""One vocabulary for both phases, with columns that carry records out of vLLM.

vLLM has one vocabulary. It returns drawn ids, and the values in columns that it is asked for. Our
vocabulary holds the text ids, then the image ids, then an alias of ``<begin_of_image>`` that is
read but never drawn, then one *channel* for each record of a token.

A row of logits holds 1 at the drawn token, the negated records in the channels, and minus infinity
elsewhere. Records are never negative, so a greedy sampler never draws a channel. vLLM is told to
return rows as they are (``logprobs_mode``), so the records come back to the last bit.

Shape legend: R = rows, V = merged vocabulary, K = channels, T = tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from vllm.logprobs import FlatLogprobs

from policy.types import FloatArray, IntArray

# Surprisal (the negated log-prob) and entropy: first conditional, then guided. The last one is the
# unconditional surprisal, or without guidance the conditional one again.
NUM_CHANNELS = 5


@dataclass(frozen=True)
class Vocabulary:
    """The places of each kind of id."""

    num_text: int
    num_codes: int

    @property
    def begin_of_image(self) -> int:
        """The alias. A text that happens to hold the real id is still read as text."""
        return self.num_text + self.num_codes

    @property
    def channels(self) -> list[int]:
        return [self.begin_of_image + 1 + k for k in range(NUM_CHANNELS)]

    @property
    def size(self) -> int:
        return self.begin_of_image + 1 + NUM_CHANNELS

    def image_prompt(self, image_prompt_ids: IntArray) -> list[int]:
        """An image prompt with its last id, ``<begin_of_image>``, replaced by the alias."""
        return [*image_prompt_ids[:-1].tolist(), self.begin_of_image]

    def image_tokens(self, image_ids: IntArray) -> list[int]:
        return (image_ids + self.num_text).tolist()

    def codes(self, token_ids: Sequence[int]) -> IntArray:
        """Image ids of merged ids."""
        return np.asarray(token_ids, dtype=np.int32) - np.int32(self.num_text)

    def rows(self, token_R: Tensor, record_RK: Tensor) -> Tensor:
        """Logits, R V, from which a greedy sampler can only draw ``token_R``."""
        logits_RV = torch.full(
            (len(token_R), self.size), -torch.inf, dtype=torch.float32, device=token_R.device
        )
        logits_RV.scatter_(1, token_R.unsqueeze(1), 1.0)
        logits_RV[:, self.channels[0] :] = -record_RK
        return logits_RV

    def records(self, held: FlatLogprobs) -> FloatArray:
        """The records of a finished request, K T: the inverse of ``rows``.

        Raises ``FloatingPointError`` when one is not finite, as after a sampler drew a channel.
        """
        # For each token vLLM lists the drawn id, and then the channels in the order asked for.
        rows_TK = np.asarray(held.logprobs, dtype=np.float32).reshape(-1, 1 + NUM_CHANNELS)
        if not np.isfinite(rows_TK).all():
            raise FloatingPointError("log-probs or entropies from vLLM are not finite numbers")
        return -rows_TK[:, 1:].T

"""BLIP-VQA, T2I-CompBench's score of colour, shape and texture.

Source: T2I-CompBench 1b709499, ``BLIPvqa_eval/``. Shape legend: B = images, M = questions of one
length, T = tokens, P = image positions, D = features, V = vocabulary.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoTokenizer, BlipImageProcessorPil

from policy.errors import UserError
from policy.resizing import resized
from policy.types import Prompt, RewardFailure, RewardResult, Score
from rewards.models.pretrained import reward_model_folder, torch_device, torch_dtype
from rewards.scorers.blip_text import questions
from rewards.scorers.blip_weights import SIDE, blip_place, load_blip
from rewards.scorers.needed import listed_texts

VOCABULARY = "google-bert/bert-base-uncased"
_YES, _NO = 2748, 2053
# The model's own tokens. BERT's vocabulary has neither; the original program adds them to it.
_DECODE, _ENCODE = 30522, 30523
_MOST_TOKENS = 35


class BlipVqaReward:
    """Product over the prompt's noun chunks of p(yes) / (p(yes) + p(no)) for "chunk?": [0, 1].

    Each p is rounded to 4 digits, the product is taken in float32, and rounded again. A prompt with
    no noun chunk scores 1, as in the original. ``prompt.evaluation`` must have ``chunks``, the list
    of noun chunks that spaCy finds; without it the image gets a failure. The parts ``chunk/1``,
    ``chunk/2`` and so on are the p of each question.
    Options: ``model``, the original file ``model_base_vqa_capfilt_large.pth``, a folder that holds
    it, or a folder in the format of transformers with the same settings; ``tokenizer``, folder or
    Hub id of BERT's vocabulary; ``device`` (``auto``) and ``dtype`` of the weights (``float32``).
    """

    locations = ("model",)

    def __init__(
        self,
        model: str,
        tokenizer: str = VOCABULARY,
        device: str = "auto",
        dtype: str = "float32",
    ) -> None:
        folder = _vocabulary(tokenizer)
        self._model, self.digest = load_blip(
            blip_place(model), torch_device(device), torch_dtype(dtype)
        )
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        for token, number in (("yes", _YES), ("no", _NO)):
            if self._tokenizer.get_vocab().get(token) != number:
                raise UserError(
                    f"checkpoint {folder}: token {token!r} of its tokenizer is not {number}"
                )
        self._image_processor: Any = BlipImageProcessorPil(size={"height": SIDE, "width": SIDE})

    @classmethod
    def check(
        cls,
        model: str,
        tokenizer: str = VOCABULARY,
        device: str = "auto",
        dtype: str = "float32",
    ) -> None:
        """Raise ``UserError`` for options with which the reward cannot be built."""
        torch_device(device), torch_dtype(dtype)
        blip_place(model), _vocabulary(tokenizer)

    def score(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]
    ) -> list[RewardResult]:
        """One ``Score`` in [0, 1] per image, or a failure for a prompt without ``chunks``."""
        chunks = [listed_texts(prompt, "chunks") for prompt in prompts]
        asked = [[] if isinstance(some, RewardFailure) else questions(some) for some in chunks]
        answers = self._answers(images, asked) if any(asked) else [[] for _ in asked]
        return [
            some if isinstance(some, RewardFailure) else _score(probabilities)
            for some, probabilities in zip(chunks, answers, strict=True)
        ]

    @torch.inference_mode()
    def _answers(
        self, images: Sequence[NDArray[np.uint8]], asked: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """p(yes) of yes and no for the questions of each image.

        The decoder of transformers does not hide the padding of a question, which changes p by up
        to 0.15. So only questions of one token length form a batch, and nothing is padded.
        """
        pixels = self._image_processor(
            [resized(image, (SIDE, SIDE)) for image in images], return_tensors="pt"
        ).pixel_values
        image_BPD = self._model.vision_model(
            pixel_values=pixels.to(self._model.device, self._model.dtype)
        ).last_hidden_state
        of_length: dict[int, list[tuple[int, int, list[int]]]] = defaultdict(list)
        for image, some in enumerate(asked):
            for place, question in enumerate(some):
                ids = self._ids(question)
                of_length[len(ids)].append((image, place, ids))
        answers = [[0.0] * len(some) for some in asked]
        for alike in of_length.values():
            for start in range(0, len(alike), len(images)):
                owners, places, rows = zip(*alike[start : start + len(images)], strict=True)
                values = self._yes(torch.tensor(rows), image_BPD[list(owners)])
                for image, place, value in zip(owners, places, values.tolist(), strict=True):
                    answers[image][place] = value
        return answers

    def _yes(self, ids_MT: Tensor, image_MPD: Tensor) -> Tensor:
        """p(yes) of yes and no as the answer's first token, M."""
        device = self._model.device
        question_MTD = self._model.text_encoder(
            input_ids=ids_MT.to(device), encoder_hidden_states=image_MPD
        ).last_hidden_state
        start_M1 = torch.full((len(ids_MT), 1), _DECODE, device=device)
        probability_MV = (
            self._model.text_decoder(input_ids=start_M1, encoder_hidden_states=question_MTD)
            .logits[:, 0]
            .float()
            .softmax(-1)
        )
        yes_M, no_M = probability_MV[:, _YES], probability_MV[:, _NO]
        return (yes_M / (yes_M + no_M)).cpu()

    def _ids(self, question: str) -> list[int]:
        ids = self._tokenizer(question, truncation=True, max_length=_MOST_TOKENS).input_ids
        return [_ENCODE, *ids[1:]]


def _score(probabilities: Sequence[float]) -> Score:
    written = [_four_digits(probability) for probability in probabilities]
    product = np.float32(1.0)
    for value in written:
        product *= np.float32(value)
    parts = {f"chunk/{number}": value for number, value in enumerate(written, start=1)}
    return Score(_four_digits(float(product)), parts)


def _four_digits(value: float) -> float:
    """Rounded through text, as the original program writes and reads its results."""
    return float(f"{value:.4f}")


def _vocabulary(tokenizer: str) -> Any:
    return reward_model_folder(tokenizer, ("tokenizer.json",), weights=False)

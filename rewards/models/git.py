"""GIT, a model that answers questions. It is asked whether the image shows what the prompt names.

Shape legend: B = images that are judged, N = questions about all of them, T = tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer, CLIPImageProcessorPil, GitForCausalLM

from policy.checkpoint.weight_files import weight_files
from policy.errors import UserError
from policy.types import Prompt, RewardResult, Score
from rewards.models.pretrained import (
    load_model,
    reward_model_folder,
    torch_device,
    torch_dtype,
    weights_digest,
)

MODEL = "microsoft/git-large-vqav2"
NEEDED = ("config.json", "tokenizer.json", "preprocessor_config.json")
_NOT_JUDGED = ("spatial", "numeracy")


def questions(prompt: Prompt) -> tuple[str, ...]:
    """One question for each thing that the prompt names, with its attribute if the file has it.

    Empty for spatial and numeracy prompts, which this model does not judge, and for prompts that
    name nothing. (For an empty list of ``attr_nouns``, the public code computes a mean of NaN.)
    """
    if prompt.task_type in _NOT_JUDGED:
        return ()
    return tuple(f"{phrase}?" for phrase in prompt.attr_nouns or prompt.nouns)


class GitReward:
    """Mean over the things named of p(yes) / (p(yes) + p(no)) as the answer's first token: [0, 1].

    As in the public code, spatial and numeracy prompts get 0, and other prompts that name nothing
    get 1. These scores say nothing about the image and are marked as not applicable.
    Options: ``model``, folder or Hub id (``microsoft/git-large-vqav2``); ``device`` (``auto``) and
    ``dtype`` of the weights (``float32``).
    """

    def __init__(self, model: str = MODEL, device: str = "auto", dtype: str = "float32") -> None:
        folder = reward_model_folder(model, NEEDED)
        self.digest = weights_digest(weight_files(folder, pickled=True))
        self._model = load_model(GitForCausalLM, folder, torch_device(device), torch_dtype(dtype))
        self._image_processor = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        vocabulary = self._tokenizer.get_vocab()
        if missing := {"yes", "no", self._tokenizer.cls_token} - vocabulary.keys():
            raise UserError(f"checkpoint {folder}: its tokenizer has no token {missing.pop()!r}")
        self._yes, self._no = vocabulary["yes"], vocabulary["no"]

    @classmethod
    def check(cls, model: str = MODEL, device: str = "auto", dtype: str = "float32") -> None:
        """Raise ``UserError`` for options with which the reward cannot be built."""
        torch_device(device), torch_dtype(dtype)
        reward_model_folder(model, NEEDED)

    def score(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]
    ) -> list[RewardResult]:
        """One ``Score`` in [0, 1] per image."""
        asked = [questions(prompt) for prompt in prompts]
        judged = [index for index, some in enumerate(asked) if some]
        results: list[RewardResult] = [
            Score(0.0 if prompt.task_type in _NOT_JUDGED else 1.0, applicable=False)
            for prompt in prompts
        ]
        if judged:
            answers = self._probabilities(
                [images[index] for index in judged], [asked[index] for index in judged]
            )
            for index, probabilities in zip(judged, answers, strict=True):
                results[index] = Score(float(probabilities.mean()))
        return results

    @torch.inference_mode()
    def _probabilities(
        self, images: list[NDArray[np.uint8]], asked: list[tuple[str, ...]]
    ) -> list[Tensor]:
        """p(yes) of yes and no for the questions of each image. All questions form one batch."""
        ids = [self._question_ids(question) for some in asked for question in some]
        counts = [len(some) for some in asked]
        last_N = torch.tensor([len(question) for question in ids]) - 1
        ids_NT = pad_sequence(ids, batch_first=True)
        mask_NT = torch.arange(ids_NT.shape[1]) <= last_N[:, None]
        owner_N = torch.repeat_interleave(torch.arange(len(asked)), torch.tensor(counts))
        pixels = self._image_processor(images, return_tensors="pt").pixel_values

        device = self._model.device
        # Each image is encoded once. Its features are then repeated for each of its questions.
        with self._model.git.visual_projection.register_forward_hook(
            lambda module, inputs, features: features[owner_N.to(device)]
        ):
            hidden = self._model.git(
                input_ids=ids_NT.to(device),
                attention_mask=mask_NT.long().to(device),
                pixel_values=pixels.to(device, self._model.dtype),
                use_cache=False,
            ).last_hidden_state
        image_tokens = hidden.shape[1] - ids_NT.shape[1]
        # Only the last position's logits are computed: all positions would fill the memory.
        last = self._model.output(hidden[torch.arange(len(ids)), image_tokens + last_N]).float()
        # p(yes) / (p(yes) + p(no)) of a softmax over the vocabulary
        return list((last[:, self._yes] - last[:, self._no]).sigmoid().cpu().split(counts))

    def _question_ids(self, question: str) -> Tensor:
        """Ids of [CLS] and the question. There is no [SEP], because the answer follows."""
        ids = self._tokenizer(question, add_special_tokens=False).input_ids
        return torch.tensor([self._tokenizer.cls_token_id, *ids])

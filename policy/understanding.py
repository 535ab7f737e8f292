"""Asks a Janus policy about an image: the log-probs of given answers.

Janus reads an image through parts that drawing does not use: a vision tower and an aligner, both
frozen in RL. The language model behind them is trained, so RL may change what the policy
understands.

Shape legend: A = answers, L = positions, D = hidden size, H W = pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from policy.encoding import PromptEncoder
from policy.janus import JanusPolicy
from policy.resizing import resized
from policy.templates import Template, template_named

# Janus was tuned to answer after this system prompt and with its special role tokens
# (janus/utils/conversation.py and models/processing_vlm.py of its repository).
_SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual content"
    " that the user provides, and assist the user with a variety of tasks using natural"
    " language.\n\n"
)
_END_OF_IMAGE = "<end_of_image>"
_GREY = (127, 127, 127)  # the border of an image that is not square
_MARK = "\0"  # stands for the image, and is in no prompt


@torch.inference_mode()
def answer_logprobs(
    policy: JanusPolicy,
    encoder: PromptEncoder,
    image: NDArray[np.uint8],
    question: str,
    answers: Sequence[str],
) -> list[float]:
    """The log-prob in nats of each answer and its EOS, after an image (uint8 H W 3) and a question.

    The text in front of the answer is that of Janus's own chats. A tokenizer without
    ``<end_of_image>``, such as that of the embedded world, goes without it.
    """
    before, after = _texts(encoder.template, question)
    tokenizer, device = encoder.tokenizer, policy.device

    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    def embedded(tokens: Sequence[int]) -> Tensor:
        return policy.embed_text(torch.tensor(tokens, dtype=torch.long, device=device))

    end = tokenizer.get_vocab().get(_END_OF_IMAGE)
    start = [encoder.special.bos, *ids(before), encoder.special.begin_of_image]
    rest = ([] if end is None else [end]) + ids(after)
    image_LD = _image_embeddings(policy, image)
    prompt_LD = torch.cat([embedded(start), image_LD, embedded(rest)])
    # Words of the embedded world are separated by blanks, also from the role in front of them.
    tokens_A = [[*ids(f" {answer}"), encoder.special.eos] for answer in answers]
    longest = max(map(len, tokens_A))
    rows = [tokens + [encoder.special.eos] * (longest - len(tokens)) for tokens in tokens_A]
    answer_ALD = embedded([token for row in rows for token in row]).view(len(rows), longest, -1)
    # The padding stands behind the real tokens, where causal attention never looks.
    hidden_ALD = policy.hidden_states(
        torch.cat([prompt_LD.expand(len(rows), -1, -1), answer_ALD], dim=1)
    )
    first = len(prompt_LD) - 1
    logits = policy.text_logits(hidden_ALD[:, first : first + longest])
    logprob_ALV = logits.log_softmax(-1)
    return [
        sum(float(logprob_ALV[place, at, token]) for at, token in enumerate(tokens))
        for place, tokens in enumerate(tokens_A)
    ]


def _texts(template: Template, question: str) -> tuple[str, str]:
    """What stands before the image, and what stands after it, up to the answer."""
    shapes = template.name == "shapes"
    turn = template.turn if shapes else template_named("janus-special").turn
    message = f"{_MARK} {question}" if shapes else f"{_MARK}\n{question}"
    before, _, after = turn.format(message=message).partition(_MARK)
    return (before if shapes else _SYSTEM + before), after


def _image_embeddings(policy: JanusPolicy, image: NDArray[np.uint8]) -> Tensor:
    """The rows that stand for the image, L D."""
    model: Any = policy.model.model
    size = int(model.config.vision_config.image_size)
    pixels = torch.from_numpy(_square(image, size)).permute(2, 0, 1).float() / 127.5 - 1.0
    tower = model.vision_model(pixels[None].to(policy.device, policy.dtype))
    embeddings: Tensor = model.aligner(tower.last_hidden_state)[0]
    return embeddings


def _square(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The image with its longer side resized to ``size`` and grey beside the shorter one."""
    height, width = image.shape[:2]
    longest = max(height, width)
    inner = resized(
        image, (max(1, round(width * size / longest)), max(1, round(height * size / longest)))
    )
    square = np.full((size, size, 3), _GREY, dtype=np.uint8)
    top, left = ((size - length) // 2 for length in inner.shape[:2])
    square[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    return square

"""The judge of WISE: a vision language model behind an HTTP interface like that of OpenAI.

Failure policy. Each image is one request. A try has one deadline, and is repeated after a
connection error, a late answer and the statuses 408, 429 and 5xx, with growing pauses. If the last
try fails in this way, the image fails transiently. Any other status, and an answer that the rules
of ``rewards.judge_answers`` do not fit, is a failure at once: at temperature 0 the same question
gets the same answer. A failure never becomes a score. Nothing here imports torch.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import aiohttp
import numpy as np
from numpy.typing import NDArray

from policy import secrets
from policy.digest import sha256
from policy.errors import UserError
from policy.types import JsonDict, Prompt, RewardFailure, RewardResult, Score
from rewards.judge_answers import legacy_scores, legacy_wiscore, verified_score
from rewards.judge_questions import read_questions
from rewards.remote import TRANSIENT_STATUSES, is_address, pause_s, png_base64

_OPENAI = "api.openai.com"  # no other host is sent its key unless told so
_MAX_TOKENS = {"legacy": 2000, "verified": 500}  # as the authors' programs ask
_jitter = random.Random()  # decides when a request is sent again, never what is scored


class WiseJudge:
    """Asks a model about each image. The value is WiScore, or the one score of WISE verified.

    Options: ``url``, the base address of the interface, such as ``https://api.openai.com/v1``;
    ``model``, the judge's name there; ``protocol``, ``legacy`` or ``verified``; ``questions``, the
    authors' program that holds the texts; ``key_variable``, the environment variable with the key
    (``OPENAI_API_KEY`` for OpenAI's own host, none for another; without a value no key is sent);
    ``extra``, further fields of the request; ``timeout_s``, the deadline of one try (120);
    ``retries``, how many tries follow transient failures (3); ``at_once``, requests of a worker at
    the same time (8).
    """

    locations = ("url", "questions")

    def __init__(
        self,
        url: str,
        model: str,
        questions: str,
        protocol: Literal["legacy", "verified"] = "legacy",
        key_variable: str | None = None,
        extra: dict[str, Any] | None = None,
        timeout_s: float = 120.0,
        retries: int = 3,
        at_once: int = 8,
    ) -> None:
        self.check(
            url, model, questions, protocol, key_variable, extra, timeout_s, retries, at_once
        )
        self._url = f"{url.rstrip('/')}/chat/completions"
        self._model, self._protocol = model, protocol
        self._questions, self._extra = read_questions(Path(questions)), extra or {}
        self._timeout_s, self._retries, self._at_once = timeout_s, retries, at_once
        if key_variable is None and urlsplit(url).hostname == _OPENAI:
            key_variable = "OPENAI_API_KEY"
        key = os.environ.get(key_variable) if key_variable else None
        if key:
            secrets.hide([key])  # a server may repeat it in its answer, which the result quotes
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.digest = sha256(Path(questions))

    @classmethod
    def check(
        cls,
        url: str,
        model: str,
        questions: str,
        protocol: str = "legacy",
        key_variable: str | None = None,
        extra: dict[str, Any] | None = None,
        timeout_s: float = 120.0,
        retries: int = 3,
        at_once: int = 8,
    ) -> None:
        """Raise ``UserError`` for options with which the judge cannot be built."""
        if not is_address(url):
            raise UserError(f"url: {url!r} is not an http or https address")
        if not model:
            raise UserError("model: give the name of the judge")
        if protocol not in _MAX_TOKENS:
            raise UserError(f"protocol: {protocol!r} is neither legacy nor verified")
        if not timeout_s > 0 or retries < 0 or at_once < 1:
            raise UserError("timeout_s must be above 0, retries 0 or more, at_once 1 or more")
        read_questions(Path(questions))

    @classmethod
    def longest_call_s(
        cls,
        url: str,
        model: str,
        questions: str,
        timeout_s: float = 120.0,
        retries: int = 3,
        **others: object,
    ) -> float:
        """Seconds that one ``score()`` of at most ``at_once`` images may take."""
        return (retries + 1) * timeout_s + sum(map(pause_s, range(retries)))

    def score(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]
    ) -> list[RewardResult]:
        """The judge's score of each image."""
        return asyncio.run(self._score(images, prompts))

    async def _score(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]
    ) -> list[RewardResult]:
        turn = asyncio.Semaphore(self._at_once)
        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        async with aiohttp.ClientSession(timeout=timeout, headers=self._headers) as session:
            calls = (
                self._judge(session, turn, image, prompt)
                for image, prompt in zip(images, prompts, strict=True)
            )
            return list(await asyncio.gather(*calls))

    async def _judge(
        self,
        session: aiohttp.ClientSession,
        turn: asyncio.Semaphore,
        image: NDArray[np.uint8],
        prompt: Prompt,
    ) -> RewardResult:
        explanation = (prompt.evaluation or {}).get("explanation")
        if not isinstance(explanation, str):
            return RewardFailure(f"prompt {prompt.id} has no explanation for a judge")
        body = self._body(image, prompt.text, explanation)
        problem = ""
        async with turn:
            for attempt in range(self._retries + 1):
                if attempt:
                    await asyncio.sleep(pause_s(attempt - 1) * _jitter.uniform(0.5, 1.0))
                try:
                    async with session.post(self._url, json=body, allow_redirects=False) as answer:
                        status, content = answer.status, await answer.text()
                except TimeoutError:
                    problem = f"no whole answer within {self._timeout_s:g} s"
                    continue
                except (OSError, aiohttp.ClientError) as error:
                    problem = f"{type(error).__name__}: {error}"
                    continue
                if status not in TRANSIENT_STATUSES:
                    return self._result(status, content)
                problem = f"answered {status}"
        return RewardFailure(f"judge: {problem}", transient=True)

    def _body(self, image: NDArray[np.uint8], prompt: str, explanation: str) -> JsonDict:
        user = self._questions.user(prompt, explanation)
        picture = {"url": f"data:image/png;base64,{png_base64(image)}"}
        return {
            "model": self._model,
            "messages": [
                {"role": "system", "content": [{"type": "text", "text": self._questions.system}]},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": user},
                        {"type": "image_url", "image_url": picture},
                    ],
                },
            ],
            "temperature": 0.0,
            "max_tokens": _MAX_TOKENS[self._protocol],
            **self._extra,
        }

    def _result(self, status: int, content: str) -> RewardResult:
        if status != 200:
            return RewardFailure(f"judge: answered {status}: {content[:200]}")
        try:
            text = json.loads(content)["choices"][0]["message"]["content"]
            if not isinstance(text, str):
                raise ValueError(f"the content is {type(text).__name__}, not text")
            if self._protocol == "verified":
                return Score(verified_score(text))
            scores = legacy_scores(text)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            return RewardFailure(f"judge: {error}")
        return Score(legacy_wiscore(scores), scores)

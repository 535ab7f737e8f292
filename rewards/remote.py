"""A reward behind HTTP: sends images (PNG) and prompts in one JSON request, receives scores.

Failure policy. Every try has one deadline, from its connection to the last byte of the answer. A
server that sends its answer byte by byte gets no more time than a silent one. A try is repeated
after a connection error, an answer that is late or breaks off, and the HTTP statuses 408, 429 and
5xx. Pauses between tries grow and are jittered. If the last try fails in this way, ``score`` raises
``ConnectionError``: the whole request may succeed later. Any other status, an answer that is too
large, and an answer that is not as ``docs/rewards.md`` describes raise ``ValueError`` at once. The
caller then asks about each image alone. Nothing here imports torch.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import re
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from policy.errors import UserError
from policy.types import JsonDict, Prompt, RewardFailure, RewardResult, Score

TRANSIENT_STATUSES = (408, 429, *range(500, 600))
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_LARGEST_ANSWER = 16 * 2**20  # bytes; one result takes a few hundred
_HEADERS = {"Content-Type": "application/json"}
# Random pauses change when a batch is sent again. They never change its scores.
_jitter = random.Random()


class RemoteReward:
    """Asks the server at ``url`` for scores, with one POST per batch.

    Options: ``url`` (http or https); ``timeout_s``, the deadline of one try (60); ``retries``, how
    many further tries follow transient failures (3).
    """

    def __init__(self, url: str, timeout_s: float = 60.0, retries: int = 3) -> None:
        self.check(url, timeout_s, retries)
        self._url, self._timeout_s, self._retries = url, timeout_s, retries

    @classmethod
    def check(cls, url: str, timeout_s: float = 60.0, retries: int = 3) -> None:
        """Raise ``UserError`` for options with which the reward cannot be built."""
        if not is_address(url):
            raise UserError(f"url: {url!r} is not an http or https address")
        if not timeout_s > 0:
            raise UserError(f"timeout_s: {timeout_s} is not above 0")
        if retries < 0:
            raise UserError(f"retries: {retries} is below 0")

    @classmethod
    def longest_call_s(cls, url: str, timeout_s: float = 60.0, retries: int = 3) -> float:
        """Seconds that one ``score()`` may take: the deadlines of all tries and their pauses."""
        return (retries + 1) * timeout_s + sum(map(pause_s, range(retries)))

    def score(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]
    ) -> list[RewardResult]:
        """The server's result for each image. Raises as the failure policy above says."""
        items = [
            {"image_png": png_base64(image), "prompt": asdict(prompt)}
            for image, prompt in zip(images, prompts, strict=True)
        ]
        status, content = self._ask(json.dumps({"items": items}).encode())
        if status != 200:
            raise ValueError(f"{self._url}: answered {status}")
        if len(content) > _LARGEST_ANSWER:
            raise ValueError(f"{self._url}: an answer of more than {_LARGEST_ANSWER} bytes")
        try:
            results = [_result(result) for result in json.loads(content)["results"]]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{self._url}: not an answer of a scorer: {error!r}") from None
        if len(results) != len(images):
            raise ValueError(f"{self._url}: {len(results)} results for {len(images)} images")
        return results

    def _ask(self, body: bytes) -> tuple[int, bytes]:
        """Status and content of the first answer whose status is not transient."""
        problem = ""
        for attempt in range(self._retries + 1):
            if attempt:
                time.sleep(pause_s(attempt - 1) * _jitter.uniform(0.5, 1.0))
            try:
                status, content = asyncio.run(self._try(body))
            except TimeoutError:
                problem = f"no whole answer within {self._timeout_s:g} s"
                continue
            except (OSError, aiohttp.ClientError) as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            if status not in TRANSIENT_STATUSES:
                return status, content
            problem = f"answered {status}"
        raise ConnectionError(f"{self._url}: {problem}")

    async def _try(self, body: bytes) -> tuple[int, bytes]:
        """Status and content. Reading stops one byte after the largest size that is allowed."""
        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=_HEADERS) as session,
            session.post(self._url, data=body, allow_redirects=False) as answer,
        ):
            try:
                content = await answer.content.readexactly(_LARGEST_ANSWER + 1)
            except asyncio.IncompleteReadError as end:
                content = end.partial
            return answer.status, content


def pause_s(attempt: int) -> float:
    """The longest pause in seconds after an attempt. The first attempt is number 0."""
    return min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(attempt, 16))


def is_address(url: str) -> bool:
    """Whether this is an http or https address that a request can be sent to."""
    try:
        parts = urlsplit(url)
        usable = parts.port != 0  # raises ValueError for a port that is no number
    except ValueError:
        return False
    # A request line may hold no other characters.
    printable = re.fullmatch(r"[!-~]+", url) is not None
    return usable and printable and parts.scheme in ("http", "https") and bool(parts.hostname)


def png_base64(image: NDArray[np.uint8]) -> str:
    """The PNG file of an image (uint8 H W 3) in base64."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


def _result(result: JsonDict) -> RewardResult:
    if "failure" in result:
        return RewardFailure(str(result["failure"]))
    detail: dict[str, Any] = result.get("detail") or {}
    value = result["value"]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"value is {value!r}, not a number")
    return Score(
        float(value),
        {name: float(value) for name, value in detail.items()} or None,
        applicable=result.get("applicable", True),
    )

"""A reward behind HTTP: images as PNG and prompts as JSON there, scores back.

Failure policy. Every try has a deadline. Connection errors and the answers 408, 429 and 5xx are
tried again a bounded number of times, with growing, jittered pauses; what then still fails raises
``ConnectionError``, which says that all of the request may succeed later. Any other refusal, and an
answer that is not what ``docs/rewards.md`` describes, is not tried again and raises ``ValueError``,
so that the images are asked about one by one. Nothing here imports torch.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import urllib3
from numpy.typing import NDArray
from PIL import Image

from policy.errors import UserError
from policy.types import JsonDict, Prompt, RewardFailure, RewardResult, Score

TRANSIENT = (408, 429, *range(500, 600))
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0


class RemoteReward:
    """Asks a scorer at ``url`` with one POST per batch.

    Options: ``url`` (http or https); ``timeout_s`` of one try (60); ``retries`` after transient
    failures (3).
    """

    def __init__(self, url: str, timeout_s: float = 60.0, retries: int = 3) -> None:
        self.check(url, timeout_s, retries)
        self._url = url
        self._http = urllib3.PoolManager(
            timeout=urllib3.Timeout(total=timeout_s),
            retries=urllib3.Retry(
                total=retries,
                redirect=0,
                allowed_methods=["POST"],
                status_forcelist=TRANSIENT,
                backoff_factor=_FIRST_PAUSE_S / 2,
                backoff_jitter=_FIRST_PAUSE_S,
                backoff_max=_LONGEST_PAUSE_S,
                # A server's Retry-After would not be bounded by ours.
                respect_retry_after_header=False,
                raise_on_status=False,
            ),
        )

    @classmethod
    def check(cls, url: str, timeout_s: float = 60.0, retries: int = 3) -> None:
        """Raise ``UserError`` for options with which it cannot be built."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"url: {url!r} is not an http or https address")
        if not timeout_s > 0:
            raise UserError(f"timeout_s: {timeout_s} is not above 0")
        if retries < 0:
            raise UserError(f"retries: {retries} is below 0")

    def score(
        self, images: Sequence[NDArray[np.uint8]], prompts: Sequence[Prompt]
    ) -> list[RewardResult]:
        """The scorer's result for each image; raises as the failure policy above says."""
        items = [
            {"image_png": _png(image), "prompt": asdict(prompt)}
            for image, prompt in zip(images, prompts, strict=True)
        ]
        try:
            answer = self._http.request("POST", self._url, json={"items": items})
        except urllib3.exceptions.HTTPError as error:
            raise ConnectionError(f"{self._url}: {_cause(error)}") from None
        if answer.status in TRANSIENT:
            raise ConnectionError(f"{self._url}: answered {answer.status}")
        if answer.status != 200:
            raise ValueError(f"{self._url}: answered {answer.status}")
        try:
            results = [_result(result) for result in answer.json()["results"]]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{self._url}: not an answer of a scorer: {error!r}") from None
        if len(results) != len(images):
            raise ValueError(f"{self._url}: {len(results)} results for {len(images)} images")
        return results


def _png(image: NDArray[np.uint8]) -> str:
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


def _cause(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return f"{type(reason).__name__}: {reason}"

"""Rewards that score an image by its brightness, and what can go wrong with a reward.

Workers are replaced and share no memory, so what happens once is remembered as a file.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from policy.types import Prompt, RewardFailure, RewardResult, Score
from rewards.protocol import TransientRewardError

Images = Sequence[NDArray[np.uint8]]
LONG_S = 600  # longer than any deadline of a test
PATIENCE_S = 300


def brightness(image: NDArray[np.uint8]) -> float:
    """The mean byte."""
    return float(image.mean())


def share(image: NDArray[np.uint8], purpose: str) -> float:
    """A number in [0, 1) that depends on the image and the purpose alone."""
    digest = hashlib.blake2b(purpose.encode() + image.tobytes(), digest_size=4).digest()
    return int.from_bytes(digest) / 2**32


def first_time(mark: Path) -> bool:
    """Whether no process has asked for this mark before."""
    try:
        mark.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


class Brightness:
    """The mean byte; ``detail`` says which process computed it and what SCALE is set to."""

    def score(self, images: Images, prompts: Sequence[Prompt]) -> list[RewardResult]:
        detail = {"pid": float(os.getpid()), "scale": float(os.environ.get("SCALE", "nan"))}
        return [Score(brightness(image), detail) for image in images]


class Square:
    """The square of the mean byte: the same order on another scale."""

    def score(self, images: Images, prompts: Sequence[Prompt]) -> list[RewardResult]:
        return [Score(brightness(image) ** 2) for image in images]


class Remainder:
    """The mean byte modulo 7: another order."""

    def score(self, images: Images, prompts: Sequence[Prompt]) -> list[RewardResult]:
        return [Score(brightness(image) % 7) for image in images]


class Sees:
    """1 where an environment variable has this value (None: is not set), else 0; ``detail`` says
    which process looked."""

    def __init__(self, variable: str, value: str | None) -> None:
        self.variable = variable
        self.value = value

    def score(self, images: Images, prompts: Sequence[Prompt]) -> list[RewardResult]:
        found = float(os.environ.get(self.variable) == self.value)
        return [Score(found, {"pid": float(os.getpid())}) for _ in images]


class Tells:
    """Fails, and says in the reason what it was told in confidence, and its SHA-256."""

    def __init__(self, variable: str, login: str) -> None:
        self.variable = variable
        self.login = login

    def score(self, images: Images, prompts: Sequence[Prompt]) -> list[RewardResult]:
        told = os.environ.get(self.variable, "")
        digest = hashlib.sha256(told.encode()).hexdigest()
        reason = f"http://{self.login}@scorer/ refused {told}, whose SHA-256 is {digest}"
        return [RewardFailure(reason) for _ in images]


class CanImport:
    """1 where a module can be imported, else 0."""

    def __init__(self, module: str) -> None:
        self.module = module

    def score(self, images: Images, prompts: Sequence[Prompt]) -> list[RewardResult]:
        return [Score(float(importlib.util.find_spec(self.module) is not None))] * len(images)


class SlowToBuild:
    """Never done with loading its model; a file in ``folder`` says that it has begun."""

    def __init__(self, folder: str) -> None:
        (Path(folder) / "building").touch()
        time.sleep(LONG_S)

    def score(self, images: Images, prompts: Sequence[Prompt]) -> list[RewardResult]:
        raise AssertionError("it was never built")


class BuiltTogether:
    """Built only while ``others`` rewards like it are: each leaves a file and waits for all."""

    def __init__(self, folder: str, name: str, others: int) -> None:
        (Path(folder) / name).touch()
        wait_for_files(folder, 1 + others)

    def score(self, images: Images, prompts: Sequence[Prompt]) -> list[RewardResult]:
        return [Score(brightness(image)) for image in images]


class NotANumber:
    """The mean byte, and NaN for the images whose mean byte is one of ``values``."""

    def __init__(self, values: Sequence[float]) -> None:
        self.values = values

    def score(self, images: Images, prompts: Sequence[Prompt]) -> list[RewardResult]:
        means = [brightness(image) for image in images]
        return [Score(math.nan if mean in self.values else mean) for mean in means]


class Faulty:
    """Of its calls ``transient`` fail once, of its images ``nan`` are NaN always.

    The call that first sees an image of brightness ``kill_at`` kills its process half done, and
    the one that first sees ``hang_at`` never returns.
    """

    def __init__(
        self, folder: str, transient: float, nan: float, kill_at: int = -1, hang_at: int = -1
    ) -> None:
        self.folder = Path(folder)
        self.transient = transient
        self.nan = nan
        self.kill_at = kill_at
        self.hang_at = hang_at

    def score(self, images: Images, prompts: Sequence[Prompt]) -> list[RewardResult]:
        call = hashlib.blake2b(b"".join(image.tobytes() for image in images)).hexdigest()[:32]
        if share(images[0], "busy") < self.transient and first_time(self.folder / call):
            raise TransientRewardError("503 Service Unavailable")
        results: list[RewardResult] = []
        for image in images:
            value = brightness(image)
            if value == self.kill_at and first_time(self.folder / "killed"):
                os.kill(os.getpid(), signal.SIGKILL)
            if value == self.hang_at and first_time(self.folder / "hung"):
                time.sleep(LONG_S)
            results.append(Score(float("nan") if share(image, "broken") < self.nan else value))
        return results


class Busy:
    """Always too busy."""

    def score(self, images: Images, prompts: Sequence[Prompt]) -> list[RewardResult]:
        raise TransientRewardError("429 Too Many Requests")


class Deadly:
    """Ends its process with every call."""

    def score(self, images: Images, prompts: Sequence[Prompt]) -> list[RewardResult]:
        os._exit(1)


class Marks:
    """Leaves a file in ``folder`` for each call."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def score(self, images: Images, prompts: Sequence[Prompt]) -> list[RewardResult]:
        (self.folder / f"{time.time_ns()}").touch()
        return [Score(brightness(image)) for image in images]


class Wordy:
    """The mean byte, with so many details that an answer is larger than Ray sends at once."""

    def score(self, images: Images, prompts: Sequence[Prompt]) -> list[RewardResult]:
        detail = {f"part {number}": 0.0 for number in range(20_000)}
        return [Score(brightness(image), detail) for image in images]


class WaitsFor:
    """Scores only when ``folder`` holds ``files`` files: when others have done their part."""

    def __init__(self, folder: str, files: int) -> None:
        self.folder = folder
        self.files = files

    def score(self, images: Images, prompts: Sequence[Prompt]) -> list[RewardResult]:
        wait_for_files(self.folder, self.files)
        return [Score(brightness(image)) for image in images]


class Rejects:
    """Cannot score the images of the first ``times`` calls with each of some prompts."""

    def __init__(self, folder: str, prompts: list[str], times: int) -> None:
        self.folder = Path(folder)
        self.prompts = prompts
        self.times = times

    def score(self, images: Images, prompts: Sequence[Prompt]) -> list[RewardResult]:
        rejected = {name for name in {prompt.id for prompt in prompts} if self._rejects(name)}
        return [
            RewardFailure("rejected") if prompt.id in rejected else Score(brightness(image) / 255)
            for image, prompt in zip(images, prompts, strict=True)
        ]

    def _rejects(self, prompt: str) -> bool:
        return prompt in self.prompts and any(
            first_time(self.folder / f"{prompt.replace(':', '-')}-{time}")
            for time in range(self.times)
        )


def wait_for_files(folder: str, files: int) -> None:
    """Block until the folder holds so many files; fail rather than wait for ever."""
    deadline = time.monotonic() + PATIENCE_S
    while len(list(Path(folder).iterdir())) < files:
        if time.monotonic() > deadline:
            raise AssertionError(f"{folder} never held {files} files")
        time.sleep(0.02)


class Particular:
    """The mean byte as a share, its darkness as a detail; of each call it refuses one image."""

    def score(self, images: Images, prompts: Sequence[Prompt]) -> list[RewardResult]:
        lights = [brightness(image) / 255 for image in images]
        scores: list[RewardResult] = [Score(light, {"dark": 1 - light}) for light in lights]
        return [RewardFailure("too particular"), *scores[1:]]

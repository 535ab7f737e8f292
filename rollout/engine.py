"""The interface of a rollout engine: generate groups, load new weights, say what it is.

This module does not import torch, so that a process can read it before it is tuned for torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol

from policy.sampling import Sampling
from policy.types import Group, Prompt

if TYPE_CHECKING:
    from policy.receipt import WeightReceipt
    from policy.weights import WeightBuckets


@dataclass(frozen=True)
class GenerationRequest:
    """One prompt and the seeds of its group, one per trajectory, in group order."""

    prompt: Prompt
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class EngineIdentity:
    """Describes an engine: tells two workers apart, and says what arithmetic they use."""

    engine: str
    torch_version: str
    transformers_version: str
    dtype: str
    device: str
    host: str
    pid: int
    weight_version: int
    num_parameters: int
    num_trained_parameters: int
    text_vocab_size: int
    num_codes: int
    image_grid: tuple[int, int]

    def __str__(self) -> str:
        """One line for the log."""
        return ", ".join(f"{key} {value}" for key, value in asdict(self).items())


class Engine(Protocol):
    """Samples from a policy that it holds. The caller makes one call at a time."""

    def generate(
        self, requests: Sequence[GenerationRequest], sampling: Sampling | None = None
    ) -> list[Group]:
        """Returns one group per request, in order; ``None`` samples as the settings say.

        A trajectory depends only on its prompt, its seed, the weights and ``sampling``, to float
        tolerance. It does not depend on the other requests.
        """
        ...

    def load_weights(self, weights: WeightBuckets, weight_version: int) -> WeightReceipt:
        """Replace the trained part; raises ``ValueError`` and changes nothing if it cannot.

        When it raises ``BucketLost``, a part may be replaced. The caller then asks for nothing else
        before it has loaded a whole version.
        """
        ...

    def sleep(self) -> None:
        """Free the accelerator's memory until ``wake``; no other call may come in between.

        It is for roles that take turns on one GPU. Where nothing can be freed, it does nothing.
        """
        ...

    def wake(self) -> None:
        """Undo ``sleep``: the engine serves the same weight version again."""
        ...

    def identity(self) -> EngineIdentity: ...

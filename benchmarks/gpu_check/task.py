"""The input and the output of a part. It imports no torch, because the session needs none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Size = TypeVar("Size")


@dataclass(frozen=True)
class Task:
    """Where and how large a part measures."""

    device: str  # cpu or cuda
    tiny: bool  # the dry run: the same calls at sizes that a CPU does in moments
    seconds: float  # after which the part is ended
    folder: Path  # the part's own, the only place it writes to; gone when the part ends

    def sized(self, real: Size, tiny: Size) -> Size:
        return tiny if self.tiny else real


@dataclass(frozen=True)
class Measure:
    """One figure. ``what`` is the same at every size, so that machines can stand side by side."""

    what: str
    value: float | str
    unit: str = ""
    shape: str = ""  # the sizes it was measured at

    def shown(self) -> str:
        """The value with its unit, three digits."""
        if isinstance(self.value, str):
            return self.value
        rounded = f"{self.value:,.0f}" if abs(self.value) >= 1000 else f"{self.value:.3g}"
        return f"{rounded} {self.unit}".strip()

"""The settings of ``configs/presets/``, for benchmarks that build an algorithm by themselves."""

from __future__ import annotations

from pathlib import Path

from orchestrator.settings.config_files import merged, read_layers

PRESETS = Path(__file__).parent.parent / "configs" / "presets"


def preset(name: str) -> dict[str, str]:
    """The ``algorithm`` settings of as-code or as-paper."""
    algorithm: dict[str, str] = merged(read_layers(PRESETS / f"{name}.yaml"))["algorithm"]
    return algorithm

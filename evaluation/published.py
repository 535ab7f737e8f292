"""Figures that the EG-GRPO paper prints, for the table of our results.

They are Table 1 (models) and Table 2 (ablations) of its section 6, in percent. The paper measured
T2I-CompBench with ten images of each prompt and the list ``color_val.txt`` of before September
2025, and WISE in its legacy version with a GPT-4o judge. Its Janus-Pro row has no CoT.
"""

from __future__ import annotations

_COLUMNS = {
    "compbench": ("color_2023", "shape", "texture"),
    "wise": ("Culture", "Spatio-temporal", "Science"),
}
_ROWS = {
    "PixArt-α": (66.90, 49.27, 64.77, 45.00, 49.00, 46.33),
    "SD-v1.5": (37.58, 37.13, 41.86, 34.00, 33.50, 26.00),
    "FLUX.1-dev": (74.07, 57.18, 69.22, 48.00, 60.00, 42.67),
    "Emu3": (75.44, 57.06, 71.64, 34.00, 46.50, 37.67),
    "Show-o": (56.00, 41.00, 46.00, 28.00, 44.00, 35.33),
    "Janus-Pro-7B": (63.59, 35.28, 49.36, 30.00, 43.00, 34.67),
    "T2I-R1*": (82.58, 58.67, 76.94, 48.00, 55.50, 45.00),
    "EG-GRPO": (84.11, 60.88, 77.38, 49.00, 56.00, 46.33),
    "EG-GRPO, only sem": (81.29, 55.68, 74.10, 47.00, 56.00, 43.67),
    "EG-GRPO, only tok": (79.25, 53.73, 72.46, 45.00, 56.00, 43.00),
}


def published_rows(suite: str) -> dict[str, dict[str, float]]:
    """The published figures of a suite: by model, then by the name of the column."""
    if suite not in _COLUMNS:
        return {}
    start = 0 if suite == "compbench" else 3
    return {
        model: dict(zip(_COLUMNS[suite], figures[start : start + 3], strict=True))
        for model, figures in _ROWS.items()
    }

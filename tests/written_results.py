"""Results of evaluations as ``result.json`` holds them, for tests of tables."""

from __future__ import annotations

from typing import Any

import numpy as np

COLUMN = {"name": "color", "weights": {"color": 1.0}, "scale": 100.0, "not_comparable": ""}


def result(values: dict[str, dict[str, float]], **changed: Any) -> dict[str, Any]:
    """A result of these values with one column for each stratum."""
    columns = [
        {**COLUMN, "name": name, "weights": {name: 1.0},
         "value": 100 * float(np.mean(list(of_prompts.values())))}
        for name, of_prompts in values.items()
    ]  # fmt: skip
    return {
        "suite": "compbench", "prompts": 4, "whole": True, "prompts_sha256": "abc", "lists": {},
        "images_per_prompt": 10, "scorers": [], "digests": {}, "columns": columns, "failures": {},
        "values": values, "model": "m", "weights": "0123456789abcdef", "template": "janus-plain",
        "cot": True, "max_cot_tokens": 256, "guidance_scale": 5.0, "temperature": 1.0, "seed": 0,
        "engine": "transformers", "dtype": "float32", "instruction": "Think of {}.",
    } | changed  # fmt: skip

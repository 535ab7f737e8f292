"""Compares results of one suite prompt by prompt, and says whether they may be compared.

Intervals come from a bootstrap over prompts. The images of one prompt are not independent, so a
prompt is drawn with all of its images. Each stratum is drawn from by itself, because a column gives
its strata fixed weights. Two results have the same prompts. A difference is computed from one draw
of prompts for both, which removes what the prompts have in common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policy.types import JsonDict

RESAMPLES, SEED = 10_000, 0
_BLOCK = 500  # resamples at a time, which bounds memory
# What must be equal for the figures of two results to be comparable, and in words.
_SAME = {
    "suite": "suite",
    "prompts_sha256": "prompts",
    "images_per_prompt": "images per prompt",
    "analysed_by": "version of spaCy or of its model",
    "scorers": "scorers",
    "digests": "weights of a scorer",
}
# The key of the options of each scorer that say where it finds something. They may differ, but a
# table tells of another server.
LOCATIONS = "locations"
# The key of what is known of given images: how another program, or another evaluation, drew them.
DRAWN_BY = "drawn_by"
# Another version of these may score the same images in another way, or round in another way.
LIBRARIES = ("torch", "transformers")
# What may differ, because it is what one compares; a table prints it.
SHOWN = (
    *("template", "cot", "max_cot_tokens", "guidance_scale", "temperature"),
    *("images_per_prompt", "seed", "engine", "dtype"),
)


@dataclass(frozen=True)
class Interval:
    """A number of a table column with its 95 % interval, both in the column's scale."""

    value: float
    low: float
    high: float


def differences_of_protocol(first: JsonDict, other: JsonDict) -> list[str]:
    """Why two results cannot be compared, in words; none if they can."""
    return [words for key, words in _SAME.items() if first.get(key) != other.get(key)]


def other_libraries(first: JsonDict, other: JsonDict) -> list[str]:
    """The libraries that scored ``other`` in another version than ``first``, with both versions.

    Builds for CPU and for GPU, which differ after a plus sign, are the same version.
    """
    found = []
    for name in LIBRARIES:
        versions = [str(result.get("versions", {}).get(name)) for result in (first, other)]
        before, after = (version.partition("+")[0] for version in versions)
        if before != after:
            found.append(f"{name} {after} and not {before}")
    return found


def other_instruction(first: JsonDict, other: JsonDict) -> bool:
    """Whether both were drawn with a CoT, and ``other`` was asked for it in other words."""
    asked = [{**result.get(DRAWN_BY, {}), **result}.get("instruction") for result in (first, other)]
    return None not in asked and asked[0] != asked[1]


def other_servers(first: JsonDict, other: JsonDict) -> list[str]:
    """The scorers that asked a server at another address for ``other``, with both addresses.

    A server names its model as it likes, and no digest of its weights is known. So the same name at
    another address may be another model.
    """
    found = []
    for scorer, places in other.get(LOCATIONS, {}).items():
        for option, after in places.items():
            before = first.get(LOCATIONS, {}).get(scorer, {}).get(option)
            if before != after and str(after).startswith(("http://", "https://")):
                found.append(f"{scorer} at {after} and not at {before}")
    return found


def column_interval(result: JsonDict, column: JsonDict) -> Interval | None:
    """A column of a result with its interval; None if the result has no such value.

    The value of a column with ``decimals`` is of means that were rounded, as a paper printed it;
    the interval is of the means before that.
    """
    if column["value"] is None:
        return None
    samples = _resampled(result["values"], column)
    return Interval(float(column["value"]), *_percentiles(samples))


def paired_interval(first: JsonDict, other: JsonDict, column: JsonDict) -> Interval | None:
    """``other`` minus ``first`` in a column of both; None if one has no value there.

    No mean is rounded before the difference is taken: two decimals of WiScore are a whole point of
    the table, more than what many a change amounts to.
    """
    values = {stratum: _differences(first, other, stratum) for stratum in column["weights"]}
    if not all(values.values()):
        return None
    samples = _resampled(values, column)
    return Interval(_column(values, column), *_percentiles(samples))


def _differences(first: JsonDict, other: JsonDict, stratum: str) -> dict[str, float]:
    """The change of each prompt's value. Both results have the same prompts."""
    before, after = first["values"].get(stratum, {}), other["values"].get(stratum, {})
    return {prompt: after[prompt] - value for prompt, value in before.items() if prompt in after}


def _column(values: Mapping[str, Mapping[str, float]], column: JsonDict) -> float:
    means = {stratum: np.mean(list(values[stratum].values())) for stratum in column["weights"]}
    total = sum(weight * means[stratum] for stratum, weight in column["weights"].items())
    return float(column["scale"] * total)


def _resampled(values: Mapping[str, Mapping[str, float]], column: JsonDict) -> NDArray[np.float64]:
    """The column of each resample; NaN if a stratum has one prompt, which shows no spread."""
    total = np.zeros(RESAMPLES)
    for number, (stratum, weight) in enumerate(column["weights"].items()):
        known = np.array([values[stratum][prompt] for prompt in sorted(values[stratum])])
        if len(known) < 2:
            return np.full(RESAMPLES, np.nan)
        rng = np.random.default_rng((SEED, number))  # strata are drawn independently
        for start in range(0, RESAMPLES, _BLOCK):
            chosen = rng.integers(len(known), size=(_BLOCK, len(known)))
            total[start : start + _BLOCK] += weight * known[chosen].mean(axis=1)
    return np.asarray(column["scale"] * total)


def _percentiles(samples: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(low), float(high)


def standardised(results: Sequence[JsonDict], strata: Sequence[str]) -> list[Interval | None]:
    """The mean z-score of each result over several strata, such as three measures of quality.

    Each stratum is standardised by the mean and the standard deviation (n - 1) of the first
    result's prompts: the first result has 0, and 1 is one such deviation. So the others have their
    paired difference from the first, in this scale; None where a stratum is missing. The interval
    is that of the paired difference. Raises ``ValueError`` when a stratum of the first result does
    not vary.
    """
    weights = {}
    for stratum in strata:
        values = list(results[0]["values"].get(stratum, {}).values())
        if len(values) < 2 or np.std(values) == 0:
            raise ValueError(f"{stratum} does not vary over the prompts of the first result")
        weights[stratum] = 1 / (len(strata) * float(np.std(values, ddof=1)))
    # The strata have the same prompts. So each prompt gets one value, and is drawn with all of it.
    first, *others = (_combined(result, weights) for result in results)
    column = {"weights": {"all": 1.0}, "scale": 1.0}
    return [paired_interval(first, result, column) for result in (first, *others)]


def _combined(result: JsonDict, weights: Mapping[str, float]) -> JsonDict:
    """A result whose only stratum has the weighted sum of those of each prompt."""
    strata = [result["values"].get(stratum, {}) for stratum in weights]
    prompts = [prompt for prompt in strata[0] if all(prompt in values for values in strata)]
    sums = {
        prompt: sum(w * values[prompt] for w, values in zip(weights.values(), strata, strict=True))
        for prompt in prompts
    }
    return {"values": {"all": sums}}

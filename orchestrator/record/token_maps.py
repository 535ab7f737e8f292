"""The entropies of a sample's tokens in the rows of samples/*.jsonl, packed for a page.

A row's ``tokens`` has one object for each modality, ``cot`` and ``image``:

    mean     mean of the normalised entropies h, with all digits
    entropy  base64 of one byte for each token: round(255 h), with h cut to 0 to 1
    sets     one letter for each token: l (low set), h (high set) or - (neither)
    pieces   the text that each token adds; only CoT tokens have it

So a token costs about 2.3 bytes and its text: an image of Janus-Pro with its 576 tokens 1.4 kB.
"""

from __future__ import annotations

import base64

import numpy as np
from numpy.typing import NDArray

from policy.types import FloatArray, JsonDict

_LETTERS = np.frombuffer(b"-lh", dtype=np.uint8)


def packed_map(
    entropy_T: FloatArray, low_T: NDArray[np.bool_], high_T: NDArray[np.bool_]
) -> JsonDict:
    """The object of one modality, without ``pieces``; ``entropy_T`` is normalised.

    An entropy that is not finite is packed as 0, and the mean is then None.
    """
    known = np.isfinite(entropy_T)
    levels = np.rint(255 * np.clip(np.where(known, entropy_T, 0.0), 0.0, 1.0)).astype(np.uint8)
    mean = float(entropy_T.mean(dtype=np.float64)) if len(entropy_T) and known.all() else None
    return {
        "mean": mean,
        "entropy": base64.b64encode(levels.tobytes()).decode(),
        "sets": _LETTERS[low_T + 2 * high_T].tobytes().decode(),
    }

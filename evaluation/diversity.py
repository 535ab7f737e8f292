"""The Vendi score: how many different images a set effectively holds.

Source: Friedman and Dieng, The Vendi Score, TMLR 2023; vendi-score c791c30d, ``score_X``.
Shape legend: N = images, D = features.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def vendi(features_ND: NDArray[np.floating]) -> float:
    """exp of the entropy of the eigenvalues of K / N, K the cosines of the N images: [1, N].

    N equal images give 1, and N orthogonal ones N. A row of zeros has no direction: its cosines are
    zero, and it counts in N. Raises ``ValueError`` for anything but a matrix of finite numbers that
    has a row.
    """
    return vendi_of_cosines(cosines(features_ND))


def cosines(features_ND: NDArray[np.floating]) -> NDArray[np.float64]:
    """The cosines of all pairs of rows, N N; zero for a row of zeros, also with itself.

    Raises ``ValueError`` as ``vendi`` does.
    """
    features = np.asarray(features_ND, dtype=np.float64)
    if features.ndim != 2 or not len(features) or not np.isfinite(features).all():
        raise ValueError(f"expected a row of finite numbers per image, got shape {features.shape}")
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    unit_ND = features / np.where(lengths > 0, lengths, 1.0)
    return np.asarray(unit_ND @ unit_ND.T)


def vendi_of_cosines(cosine_NN: NDArray[np.float64]) -> float:
    """The Vendi score of N images from the cosines of all pairs."""
    eigenvalues = np.linalg.eigvalsh(cosine_NN / len(cosine_NN))
    positive = eigenvalues[eigenvalues > 0]  # rounding makes some of the zeros negative
    return float(np.exp(-(positive * np.log(positive)).sum()))

"""The Vendi score by its closed forms, and by a value of vendi-score."""

from __future__ import annotations

import numpy as np
import pytest

from evaluation.diversity import vendi


def test_equal_images_count_as_one() -> None:
    """K / N has the one eigenvalue 1, whatever the lengths of the rows are."""
    assert vendi(np.array([[3.0, 4.0], [6.0, 8.0], [0.3, 0.4]])) == pytest.approx(1.0, abs=1e-12)


def test_orthogonal_images_count_each() -> None:
    """Four axes: four eigenvalues of 1 / 4."""
    assert vendi(np.eye(4) * [1, 2, 3, 4]) == pytest.approx(4.0, abs=1e-12)


def test_two_images_at_an_angle() -> None:
    """With cosine 0.6 the eigenvalues are 0.8 and 0.2: exp(0.8 ln 1.25 + 0.2 ln 5)."""
    assert vendi(np.array([[1.0, 0.0], [0.6, 0.8]])) == pytest.approx(1.6493848884661177, abs=1e-12)


def test_a_value_of_the_original() -> None:
    """``score_X`` of vendi-score 0.0.3 with scipy 1.10.1 and scikit-learn 1.2.2."""
    rows = [[1.0, 2.0, 0.0], [0.5, -1.0, 3.0], [2.0, 2.0, 2.0], [-1.0, 0.0, 1.0]]
    assert vendi(np.array(rows)) == pytest.approx(2.630848749876585, abs=1e-12)


def test_a_row_of_zeros_counts_in_n() -> None:
    """One image and a zero row: the one eigenvalue is 1 / 2, and exp(0.5 ln 2) is sqrt(2)."""
    assert vendi(np.array([[1.0, 0.0], [0.0, 0.0]])) == pytest.approx(2**0.5, abs=1e-12)


def test_float32_features_are_computed_in_float64() -> None:
    """Features of a model come as float32: rounding them is the only difference."""
    features = np.random.RandomState(0).standard_normal((20, 64))
    assert vendi(features.astype(np.float32)) == pytest.approx(vendi(features), abs=1e-5)


@pytest.mark.parametrize("features", [np.zeros((0, 3)), np.zeros(3), np.full((2, 2), np.nan)])
def test_what_is_no_matrix_of_numbers_is_refused(features: np.ndarray) -> None:  # type: ignore[type-arg]
    """With its shape."""
    with pytest.raises(ValueError, match="a row of finite numbers per image"):
        vendi(features)

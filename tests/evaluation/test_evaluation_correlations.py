"""Correlations, centring and the bootstrap over prompts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import pearsonr, rankdata, spearmanr

from evaluation.bootstrap import Interval, bootstrap
from evaluation.correlations import centred, pearson, ranks, spearman

# Sixteenths: sums and differences of a few of them are exact, so that ties stay ties.
NUMBERS = st.integers(-800, 800).map(lambda n: n / 16)
COLUMN = arrays(np.float64, st.integers(2, 30), elements=NUMBERS)


def test_literal_correlations() -> None:
    """Pearson of (1,2), (2,4), (3,7): covariance 5/3, variances 2/3 and 38/9. Spearman: 1."""
    x, y = np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 7.0])
    assert pearson(x, y) == pytest.approx((5 / 3) / math.sqrt(2 / 3 * 38 / 9))
    assert spearman(x, y) == 1.0
    assert spearman(x, -y) == -1.0
    assert ranks(np.array([5.0, 1.0, 5.0, 9.0])).tolist() == [2.5, 1.0, 2.5, 4.0]


@given(COLUMN, st.integers(0, 2**32 - 1))
def test_agrees_with_scipy(x: np.ndarray, seed: int) -> None:
    """Also with ties; a constant side has no correlation here, and NaN there."""
    y = np.random.default_rng(seed).permutation(x) + x
    assert ranks(x).tolist() == rankdata(x).tolist()
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert math.isnan(pearson(x, y))
        assert math.isnan(spearman(x, y))
        return
    assert pearson(x, y) == pytest.approx(pearsonr(x, y).statistic, abs=1e-9)
    assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic, abs=1e-9)


@given(arrays(np.float64, st.integers(2, 30), elements=NUMBERS, unique=True))
def test_spearman_of_a_rising_function_is_one(x: np.ndarray) -> None:
    """Whatever the function: here the cube plus the exponential of a part."""
    assert spearman(x, x**3 + np.exp(x / 20)) == pytest.approx(1.0)


def test_too_few_values_have_no_correlation() -> None:
    """One value, and none."""
    for count in (0, 1):
        assert math.isnan(pearson(np.ones(count), np.ones(count)))
        assert math.isnan(spearman(np.ones(count), np.ones(count)))


@given(COLUMN, st.integers(0, 2**32 - 1))
def test_centring_removes_what_prompts_add(x: np.ndarray, seed: int) -> None:
    """A constant added to all values of a prompt changes nothing, and each prompt's mean is 0."""
    generator = np.random.default_rng(seed)
    prompts = generator.integers(0, 4, len(x))
    added = generator.integers(-100, 100, 4).astype(float)
    found = centred(x, prompts)
    np.testing.assert_allclose(centred(x + added[prompts], prompts), found, atol=1e-9)
    for prompt in np.unique(prompts):
        assert found[prompts == prompt].mean() == pytest.approx(0, abs=1e-9)


def test_a_correlation_over_prompts_is_not_one_within_them() -> None:
    """Two prompts with means (0, 0) and (10, 10); within each, x and y run against each other."""
    prompts = np.array([0, 0, 1, 1])
    x, y = np.array([-1.0, 1, 9, 11]), np.array([1.0, -1, 11, 9])
    assert pearson(x, y) > 0.9
    assert pearson(centred(x, prompts), centred(y, prompts)) == pytest.approx(-1)


def test_resamples_keep_prompts_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every resample has as many prompts as there are, and all rows of each prompt equally often.

    The second sample has the same prompts as the first in each resample. Prompt 9, which is in one
    sample only, is in none.
    """
    first, second = np.array([4, 5, 4, 6, 6, 6]), np.array([6, 9, 5, 4])
    seen = []

    def statistic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        counts = [int((a == row).sum()) for row in range(6)]
        assert counts[0] == counts[2]
        assert counts[3] == counts[4] == counts[5]
        assert counts[0] + counts[1] + counts[3] == 3
        assert [int((b == row).sum()) for row in range(4)] == [counts[3], 0, counts[1], counts[0]]
        seen.append(tuple(counts))
        return np.zeros(1)

    monkeypatch.setattr("evaluation.bootstrap.RESAMPLES", 200)
    bootstrap(statistic, first, second)
    assert len(seen) == 201
    assert len(set(seen)) == 10  # the multisets of three prompts


def test_the_interval_of_a_mean() -> None:
    """100 prompts with three equal values each, of standard deviation 1: the interval is that of
    100 values and not of 300, the mean plus and minus 1.96 / 10, to the noise of 1000 resamples.
    """
    generator = np.random.default_rng(0)
    values = np.repeat(generator.standard_normal(100), 3)
    values = (values - values.mean()) / values.std()
    prompts = np.repeat(np.arange(100), 3)
    (found,) = bootstrap(lambda rows: np.array([values[rows].mean()]), prompts)
    assert found.value == pytest.approx(0)
    assert found.high == pytest.approx(0.196, rel=0.12)
    assert found.low == pytest.approx(-0.196, rel=0.12)
    (again,) = bootstrap(lambda rows: np.array([values[rows].mean()]), prompts)
    assert again == found


def test_one_prompt_has_no_interval() -> None:
    """Nor has a number that is NaN. A resample that gives NaN does not count."""
    (alone,) = bootstrap(lambda rows: np.array([2.0]), np.array([7, 7]))
    assert (alone.value, math.isnan(alone.low), math.isnan(alone.high)) == (2.0, True, True)
    (unknown,) = bootstrap(lambda rows: np.array([np.nan]), np.arange(3))
    assert math.isnan(unknown.low)
    (some,) = bootstrap(
        lambda rows: np.array([np.nan if len(set(rows)) < 2 else 1.0]), np.arange(3)
    )
    assert some == Interval(1.0, 1.0, 1.0)

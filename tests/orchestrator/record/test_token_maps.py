"""Token entropies are packed into one byte each, with their set and their exact mean."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from orchestrator.record.token_maps import packed_map


def test_entropies_are_packed_with_their_sets() -> None:
    """0, 0.5 and 1 become 0, 128 and 255; the mean keeps its digits."""
    entropy = np.array([0.0, 0.5, 1.0], dtype=np.float32)
    low, high = np.array([True, False, False]), np.array([False, False, True])
    packed = packed_map(entropy, low, high)
    assert packed == {
        "mean": 0.5,
        "entropy": base64.b64encode(b"\0\x80\xff").decode(),
        "sets": "l-h",
    }


def test_what_is_out_of_range_is_packed_at_the_end_of_the_range() -> None:
    """A value above 1 by rounding becomes 255. NaN becomes 0 and leaves no mean."""
    none = np.zeros(2, dtype=bool)
    packed = packed_map(np.array([1.0001, np.nan], dtype=np.float32), none, none)
    assert base64.b64decode(packed["entropy"]) == b"\xff\0"
    assert packed["mean"] is None
    assert packed_map(np.zeros(0, dtype=np.float32), none[:0], none[:0])["mean"] is None
    assert packed_map(np.float32([0.25]), none[:1], none[:1])["mean"] == pytest.approx(0.25)

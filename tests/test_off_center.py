"""Tests of benchmarks/off_center.py."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.off_center import window  # noqa: E402


@pytest.mark.parametrize(
    "center, expected",
    [
        pytest.param([2, 0, 0], [1, 2, 3, 4], id="inside"),
        pytest.param([0, 0, 0], [-1, -1, 1, 2], id="before the first voxel"),
        pytest.param([4, 0, 0], [3, 4, 5, -1], id="behind the last voxel"),
        pytest.param([9, 0, 0], [-1, -1, -1, -1], id="beyond the volume"),
        pytest.param([-5, 0, 0], [-1, -1, -1, -1], id="before the volume"),
    ],
)
def test_a_window_is_filled_beyond_the_volume(center: list[int], expected: list[int]) -> None:
    volume = np.arange(1, 6)[:, None, None]
    assert window(volume, np.array(center), np.array([4, 1, 1]), -1).ravel().tolist() == expected

"""The order of voxels in memory."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.files.memory_order import in_c_order, in_fortran_order

VOLUME = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
volumes = pytest.mark.parametrize(
    "volume",
    [VOLUME, np.asfortranarray(VOLUME), VOLUME[::-1, :, ::-1], VOLUME[0], VOLUME[..., None]],
    ids=["c", "fortran", "flipped", "two axes", "four axes"],
)


@volumes
def test_values_stay_and_the_last_axis_runs_fastest(volume: np.ndarray) -> None:
    laid_out = in_c_order(volume)
    assert laid_out.flags.c_contiguous and laid_out.dtype == volume.dtype
    np.testing.assert_array_equal(laid_out, volume)


@volumes
def test_values_stay_and_the_first_axis_runs_fastest(volume: np.ndarray) -> None:
    laid_out = in_fortran_order(volume)
    assert laid_out.flags.f_contiguous and laid_out.dtype == volume.dtype
    np.testing.assert_array_equal(laid_out, volume)


def test_what_is_laid_out_so_is_not_copied() -> None:
    assert in_c_order(VOLUME) is VOLUME
    fortran = np.asfortranarray(VOLUME)
    assert np.shares_memory(in_fortran_order(fortran), fortran)

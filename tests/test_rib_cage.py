"""The mask of a rib cage on other grids."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from scripts.anatomy.rib_cage import RibCage


def cage():
    """Voxels of 2 mm; the id tells the place."""
    mask = np.arange(1, 4 * 3 * 2 + 1, dtype=np.uint8).reshape(4, 3, 2)
    return RibCage(mask, np.diag([2.0, 2.0, 2.0, 1.0]))


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "SLA"])
def test_other_orientations_of_the_grid(axcodes):
    turned = nib.Nifti1Image(cage().mask, cage().affine)
    turned = turned.as_reoriented(nib.orientations.axcodes2ornt(tuple(axcodes)))
    assert np.array_equal(cage().on_grid(turned.affine, turned.shape), np.asarray(turned.dataobj))


def test_a_finer_grid_that_reaches_beyond():
    affine = np.diag([1.0, 1.0, 1.0, 1.0])
    affine[:3, 3] = (-2.5, 0.5, 0.4)  # along the first axis at -2.5, -1.5 ... 3.5 mm
    found = cage().on_grid(affine, (7, 2, 3))
    assert found.dtype == np.uint8
    # -2.5 and -1.5 lie outside; -0.5 and 0.5 in voxel 0, 1.5 and 2.5 in voxel 1, 3.5 in voxel 2, of 6 ids each
    assert found[:, 0, 0].tolist() == [0, 0, 1, 1, 7, 7, 13]
    assert found[2, :, 0].tolist() == [1, 3]  # 0.5 mm in voxel 0, 1.5 mm in voxel 1, of 2 ids
    assert found[2, 0].tolist() == [1, 2, 2]  # 0.4 mm in voxel 0, 1.4 and 2.4 mm in voxel 1


def test_a_tilted_grid():
    turn = np.radians(30)
    tilt = np.array(
        [[np.cos(turn), -np.sin(turn), 0, 0], [np.sin(turn), np.cos(turn), 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    )
    found = cage().on_grid(tilt @ cage().affine, (4, 3, 2))
    # voxel (2, 0) lies where (1.73, 1) would, (1, 1) where (0.37, 1.37) would, and (0, 2) at (-1, 1.73), outside
    assert (found[2, 0, 0], found[1, 1, 0], found[0, 2, 0], found[0, 0, 1]) == (15, 3, 0, 2)

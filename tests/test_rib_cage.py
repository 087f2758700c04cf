"""The mask of a rib cage on other grids, and where in a scan a rib can be."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from rib_cages import thorax

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


def where(cage, distance_mm=9.0, affine=None, shape=(40, 20, 100), places_mm=None):
    affine = cage.affine if affine is None else affine
    near = cage.surroundings(affine, shape, distance_mm, places_mm)
    assert near.dtype == bool and near.shape == shape
    return lambda x, y, z: bool(near[tuple(np.rint(np.linalg.solve(affine, [x, y, z, 1.0])[:3]).astype(int))])


def test_near_the_ribs_of_a_whole_cage():
    near = where(thorax())
    # rib 5 on the left: 40 mm, 190 mm; half a cell of 5.2 mm is added to the distance
    assert near(40, 30, 190) and near(40 - 4 - 9, 30, 190) and not near(40 - 4 - 18, 30, 190)
    assert not near(60, 30, 190)  # 20 mm off the ribs of both sides
    assert not near(40, 30, 297) and not near(40, 30, 6)  # above the first and below the twelfth
    assert not near(80, 57, 190) and near(80, 51, 190)


def test_near_places_on_the_ribs():
    near = where(thorax(), places_mm=np.array([[40.0, 30.0, 190.0], [40.0, 30.0, 999.0]]))  # one is not in the scan
    assert near(40, 30, 190) and near(40, 39, 190) and not near(40, 48, 190)
    assert not near(80, 30, 190) and not near(40, 30, 190 - 22)
    assert not where(thorax(), places_mm=np.empty((0, 3)))(40, 30, 190)


def test_where_a_rib_may_have_been_missed_places_do_not_count():
    near = where(thorax(range(3, 13)), places_mm=np.empty((0, 3)))
    assert near(10, 30, 297) and not near(10, 30, 170)


@pytest.mark.parametrize(
    "left, above, below, between, other_side",
    [
        pytest.param(range(1, 13), False, False, False, False, id="all"),
        pytest.param(range(3, 13), True, False, False, False, id="the upper ones are not in the scan"),
        pytest.param(range(1, 10), False, True, False, False, id="the lower ones are not in the scan"),
        pytest.param([*range(1, 6), *range(7, 13)], True, True, True, False, id="one was missed"),
        pytest.param(range(1, 8), True, True, True, False, id="too few"),
        pytest.param([], True, True, True, True, id="none on the side: where it begins is not known"),
    ],
)
def test_where_a_rib_may_have_been_missed(left, above, below, between, other_side):
    near = where(thorax(left))
    assert near(10, 30, 297) == above and near(10, 30, 3) == below
    assert near(10, 30, 170) == between  # 26 mm off every rib
    assert near(110, 30, 297) == near(110, 30, 3) == near(110, 30, 170) == other_side
    assert near(80, 30, 190)


def test_without_ribs_they_can_be_anywhere():
    assert RibCage(np.zeros((4, 4, 4), dtype=np.uint8), np.eye(4)).surroundings(np.eye(4), (5, 6, 7), 1.0).all()


@pytest.mark.parametrize("axcodes", ["LPS", "SLA"])
def test_surroundings_on_a_finer_grid_of_another_orientation(axcodes):
    finer = nib.Nifti1Image(np.zeros((120, 60, 299), dtype=np.uint8), np.diag([1.0, 1.0, 1.0, 1.0]))
    turned = finer.as_reoriented(nib.orientations.axcodes2ornt(tuple(axcodes)))
    near, coarse = where(thorax(), affine=turned.affine, shape=turned.shape), where(thorax())
    points = np.random.default_rng(0).uniform((3, 3, 3), (115, 55, 290), (500, 3))
    agreeing = [near(*point) == coarse(*point) for point in points]
    assert np.mean(agreeing) > 0.95  # they differ in where cells begin, by a voxel of 3 mm

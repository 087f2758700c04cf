"""Grids compared, and masks brought to the grid of a picture's image."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import lps_affine
from monai.data import MetaTensor
from monai.transforms import Orientation

from scripts.images.grids import corner_shift_mm, grid_difference, on_grid_of


@pytest.mark.parametrize(
    "first, step",
    [
        pytest.param((0, 0, 0), (1, 1, 1), id="turned"),
        pytest.param((2, 1, 3), (1, 1, 1), id="cropped"),
        pytest.param((2, 1, 3), (1, 1, 2), id="cropped, every second slice"),
    ],
)
def test_a_mask_is_brought_to_the_grid_of_its_image(first, step):
    """No two voxels of the mask are alike; the image is a part of the scan in RAS axes."""
    ids = np.arange(7 * 6 * 9, dtype=np.int32).reshape(1, 7, 6, 9)
    mask = MetaTensor(torch.from_numpy(ids), affine=torch.as_tensor(lps_affine()))
    turned = Orientation("RAS", labels=None)(mask)
    part = (0, *(slice(start, None, every) for start, every in zip(first, step)))
    affine = turned.affine.numpy() @ np.vstack([np.column_stack([np.diag(step), first]), [0, 0, 0, 1]])
    image = MetaTensor(torch.zeros(1, *turned.numpy()[part].shape), affine=torch.as_tensor(affine))
    np.testing.assert_array_equal(on_grid_of(image, mask), turned.numpy()[part])


SHAPE = (512, 5, 4)
# Spacings of 0.7, 0.8 and 1.25 mm: a tenth of the smallest side is 0.07 mm.
AFFINE = np.array([[-0.7, 0, 0, 90.0], [0, -0.8, 0, 80.0], [0, 0, 1.25, -700.0], [0, 0, 0, 1]])
TURN = np.array([[np.cos(0.3), -np.sin(0.3), 0, 0], [np.sin(0.3), np.cos(0.3), 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def changed(*entries):
    affine = AFFINE.copy()
    for row, column, value in entries:
        affine[row, column] += value
    return affine


@pytest.mark.parametrize(
    "other, shift_mm",
    [
        pytest.param(AFFINE, 0.0, id="the same"),
        pytest.param(changed((0, 3, 3.0), (1, 3, 4.0)), 5.0, id="moved by 3 and 4 mm"),
        pytest.param(changed((0, 0, 0.01)), 5.11, id="511 steps of 0.01 mm"),
        # at the voxels (511, 0, 0) and (0, 4, 0) of the x axis: 5.11 and -2 mm; at both at once 3.11 mm
        pytest.param(changed((0, 0, 0.01), (0, 1, -0.5)), 5.11, id="columns of opposite signs"),
        # 5.11 mm less 3 mm at the far corner, 3 mm at the first
        pytest.param(changed((0, 0, 0.01), (0, 3, -3.0)), 3.0, id="most at the first corner"),
        # the origin lies at the other end: 511 steps of 0.7 mm
        pytest.param(AFFINE @ np.array([[-1, 0, 0, 511], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), 357.7, id="flip"),
    ],
)
def test_the_shift_is_that_of_the_corner_that_moves_most(other, shift_mm):
    assert corner_shift_mm(AFFINE, other, SHAPE) == pytest.approx(shift_mm)
    assert corner_shift_mm(other, AFFINE, SHAPE) == pytest.approx(shift_mm)


@pytest.mark.parametrize(
    "other, difference",
    [
        pytest.param(changed((2, 3, 0.069)), None, id="under a tenth of 0.7 mm"),
        pytest.param(changed((2, 3, 0.071)), "their corners lie up to 0.071 mm apart", id="over a tenth of 0.7 mm"),
        # 0.65 mm is then the smallest side, and a tenth of it 0.065 mm: 3 steps of 0.6 mm are 1.8 mm
        pytest.param(changed((2, 2, -0.6)), "their corners lie up to 1.8 mm apart", id="thinner slices"),
        pytest.param(changed((0, 3, np.nan)), "their corners lie up to nan mm apart", id="not a number"),
    ],
)
def test_grids_are_one_up_to_a_tenth_of_the_smallest_side_of_a_voxel(other, difference):
    assert grid_difference(SHAPE, AFFINE, SHAPE, other) == difference


def test_grids_of_other_shapes_differ():
    assert grid_difference((6, 5, 4), AFFINE, (6, 5, 3), AFFINE) == "their shapes are 6 x 5 x 4 and 6 x 5 x 3"


@pytest.mark.parametrize("turned", [False, True])
def test_a_grid_stored_as_sform_and_as_quaternion_is_one(turned):
    """Both are stored as float32."""
    affine = TURN @ AFFINE if turned else AFFINE
    stored = {}
    for form, codes in (("sform", (1, 0)), ("qform", (0, 1))):
        image = nib.Nifti1Image(np.zeros(SHAPE, np.uint8), affine)
        image.set_sform(affine, codes[0])
        image.set_qform(affine, codes[1])
        stored[form] = nib.Nifti1Image.from_bytes(image.to_bytes()).affine
    assert grid_difference(SHAPE, stored["sform"], SHAPE, stored["qform"]) is None

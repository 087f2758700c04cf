"""Masks brought to the grid of a picture's image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import lps_affine
from monai.data import MetaTensor
from monai.transforms import Orientation

from scripts.grids import on_grid_of


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

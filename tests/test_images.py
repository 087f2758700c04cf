"""An image is checked as it is loaded."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from scripts.transforms import CheckImaged


def image(volume):
    return {"image": MetaTensor(volume, meta={"filename_or_obj": "/data/a.nii.gz"})}


def test_a_sound_image_passes():
    data = image(torch.zeros(1, 4, 4, 4))
    assert CheckImaged("image")(data)["image"] is data["image"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_refused(value):
    data = image(torch.zeros(1, 4, 4, 4))
    data["image"][0, 1, 2, :2] = value
    with pytest.raises(ValueError, match="/data/a.nii.gz: 2 voxels"):
        CheckImaged("image")(data)


@pytest.mark.parametrize("shape", [(2, 4, 4, 4), (1, 4, 4), (1, 4, 4, 4, 2)], ids=["channels", "2-D", "4-D"])
def test_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="one channel and three axes"):
        CheckImaged("image")(image(torch.zeros(shape)))

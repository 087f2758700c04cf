"""An image is checked as it is loaded, and cropped to the patient."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from scripts.transforms import CheckImaged, CropBodyd, SpacingOnlyd


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


def test_the_box_around_the_patient_is_kept():
    data = image(torch.full((1, 9, 8, 7), -1000.0))
    data["image"][0, 2:5, 3:4, 1:6] = torch.tensor([-900.0, -499.0, -499.0, -900.0, 40.0])
    crop = CropBodyd("image")
    cropped = crop(data)["image"]
    # from slice 2 (-499 HU) to slice 5 (40 HU); air between them stays
    assert cropped.shape == (1, 3, 1, 4) and cropped[0, 0, 0].tolist() == [-499, -499, -900, 40]
    assert cropped.affine[:3, 3].tolist() == [2, 3, 2]
    back = crop.inverse({"image": cropped})["image"]
    assert back.shape == (1, 9, 8, 7) and back[0, 3, 3, 5] == 40 and back[0, 8, 7, 6] == 0


def test_a_label_is_cropped_like_its_image():
    data = image(torch.full((1, 6, 6, 6), -1000.0)) | {"label": MetaTensor(torch.arange(216).reshape(1, 6, 6, 6))}
    data["image"][0, 1:3, 2:5, 4] = 0
    assert torch.equal(CropBodyd(["image", "label"])(data)["label"], data["label"][:, 1:3, 2:5, 4:5])


def test_a_scan_without_a_patient_is_refused():
    with pytest.raises(ValueError, match="/data/a.nii.gz: no voxel above -500 HU"):
        CropBodyd("image")(image(torch.full((1, 4, 4, 4), -500.0)))


def test_resampling_leaves_other_entries_alone():
    """MONAI Label puts the image's path beside it as ``image_path``, on which MONAI's ``Spacingd`` fails."""
    volume = MetaTensor(torch.zeros(1, 9, 8, 7), meta={"filename_or_obj": "/data/a.nii.gz"})
    data = {"image": volume, "image_path": "/data/a.nii.gz", "image_scores": {"a": 1}}
    resample = SpacingOnlyd("image", pixdim=(2.0, 1.0, 1.0))
    resampled = resample(data)
    # voxel centers from 0 to 8 mm: 5 at 2 mm
    assert resampled["image"].shape == (1, 5, 8, 7) and resampled["image"].pixdim.tolist() == [2, 1, 1]
    assert (resampled["image_path"], resampled["image_scores"]) == ("/data/a.nii.gz", {"a": 1})
    assert resample.inverse(resampled)["image"].shape == (1, 9, 8, 7)

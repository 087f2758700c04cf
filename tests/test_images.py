"""An image is checked as it is loaded, and cropped to the patient."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from nibabel.nifti1 import Nifti1Image

from scripts.anatomy.rib_cage import RibCage
from scripts.transforms import CheckImaged, CropBodyd, QualityNotesd


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


def test_a_scan_whose_offset_is_missing_is_refused():
    data = image(torch.full((1, 8, 8, 8), 24.0))
    data["image"][0, 2:6, 2:6] = 1064  # a quarter of it
    with pytest.raises(
        ValueError, match=r"/data/a\.nii\.gz: 25% of the voxels are above 800, .* offset \(mostly -1024"
    ):
        CheckImaged("image")(data)


LUNGS, NO_LUNGS = np.zeros((34, 3)), np.full((34, 3), np.nan)
BONE = "no voxel above 300 HU, so no bone: is it in HU?"
CHEST = "no lungs found: is it a chest CT?"
CUT = "the field of view cuts the lungs, so levels and parts are left empty."
MIDLINE = "the midline is not surely in view, so sides, levels and parts are left empty: is the field of view narrow?"
PLANE, NO_PLANE = np.array([1.0, 0.0, 0.0, 2.0]), np.full(4, np.nan)
# the heights of the centers alone, as of lungs that are cut
CUT_LUNGS = NO_LUNGS.copy()
CUT_LUNGS[1:-1, 2] = 0.0
# neither apex nor base
SLAB = LUNGS.copy()
SLAB[[0, -1]] = np.nan


@pytest.mark.parametrize(
    "highest, axis, plane, notes",
    [
        pytest.param(300, LUNGS, PLANE, "", id="nothing"),
        pytest.param(299, LUNGS, PLANE, BONE, id="no bone"),
        pytest.param(300, NO_LUNGS, PLANE, CHEST, id="no lungs"),
        pytest.param(299, NO_LUNGS, PLANE, f"{BONE} {CHEST}", id="neither"),
        pytest.param(300, SLAB, PLANE, "", id="a slab"),
        pytest.param(300, CUT_LUNGS, PLANE, CUT, id="a part of the lungs"),
        pytest.param(300, CUT_LUNGS, NO_PLANE, MIDLINE, id="no midline"),
        pytest.param(300, NO_LUNGS, NO_PLANE, f"{CHEST} {MIDLINE}", id="no midline and no lungs"),
    ],
)
def test_what_is_doubtful_is_noted(highest, axis, plane, notes):
    data = image(torch.zeros(1, 4, 4, 4)) | {"thorax_axis": axis, "midsagittal_plane": plane}
    data["image"][0, 1, 1, 1] = highest
    assert QualityNotesd("image")(data)["image"].meta["notes"] == notes


def test_what_is_doubtful_of_the_ribs_is_noted():
    data = image(torch.zeros(1, 4, 4, 4)) | {"thorax_axis": LUNGS, "midsagittal_plane": PLANE}
    data["image"][0, 1, 1, 1] = 300
    data["rib_cage"] = RibCage(np.zeros((1, 1, 1), np.uint8), np.eye(4), notes=("two ribs touch", "rib 1 is cut"))
    assert QualityNotesd("image")(data)["image"].meta["notes"] == "two ribs touch. rib 1 is cut."


def test_what_is_doubtful_in_the_header_is_noted_too(tmp_path):
    scan = Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4))
    scan.set_qform(np.diag([1, 1, 2, 1]), 1)  # 3 steps of 1 and of 2 mm
    nib.save(scan, tmp_path / "a.nii.gz")
    data = {"image": MetaTensor(torch.full((1, 4, 4, 4), 400.0), meta={"filename_or_obj": str(tmp_path / "a.nii.gz")})}
    notes = QualityNotesd("image")(data | {"thorax_axis": LUNGS, "midsagittal_plane": PLANE})["image"].meta["notes"]
    assert notes == "its sform and its qform lie up to 3 mm apart; the sform is used."

"""Checks of an annotation's ids, and the crop to the slices that it marks."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Orientationd

from scripts.transforms.labels import CheckLabeld, CropLabelSlicesd

# voxel axes to R, A, S; 0.7, 0.8 and 1.25 mm
RAS_AFFINE = torch.tensor([[0.7, 0, 0, -90.0], [0, 0.8, 0, -80.0], [0, 0, 1.25, -700.0], [0, 0, 0, 1]])


def volume(values: list, affine: torch.Tensor = RAS_AFFINE, name: str = "RibFrac7-label.nii.gz") -> MetaTensor:
    """Make a (1, 2, 2, D) volume whose slice d holds values[d] in one corner and else 0."""
    array = torch.zeros(1, 2, 2, len(values))
    array[0, 1, 0] = torch.tensor(values, dtype=torch.float32)
    return MetaTensor(array, affine=affine, meta={"filename_or_obj": name})


# ---- CheckLabeld ----


@pytest.mark.parametrize(
    "values, dtype",
    [
        pytest.param([0.0, 0.0], torch.uint8, id="no fracture"),
        pytest.param([0.0, 255.0], torch.uint8, id="highest id of 8 bits"),
        pytest.param([1.0, 256.0], torch.int16, id="one more"),
        pytest.param([1.0, 32767.0], torch.int16, id="highest id of 16 bits"),
        pytest.param([1.0, 32768.0], torch.int32, id="one more than that"),
        pytest.param([1.0, 65536.0], torch.int32, id="beyond 16 bits without a sign"),
        pytest.param([1.0, 16777215.0], torch.int32, id="highest id"),
    ],
)
def test_ids_become_the_smallest_integer_type(values: list, dtype: torch.dtype) -> None:
    label = CheckLabeld("label")({"label": volume(values)})["label"]
    assert label.dtype == dtype
    assert label[0, 1, 0].tolist() == values
    assert torch.equal(label.affine, RAS_AFFINE.to(label.affine.dtype))


@pytest.mark.parametrize(
    "values, codes, message",
    [
        pytest.param([0.0, 0.5], {}, "not whole numbers", id="half"),
        pytest.param([0.0, float("nan")], {}, "not whole numbers", id="not a number"),
        pytest.param([0.0, float("inf")], {}, "not whole numbers", id="infinite"),
        pytest.param([0.0, 1e10], {}, "value 10000000000; ids go up to 16777215", id="beyond 32 bits"),
        pytest.param([0.0, 2.0**24], {}, "ids go up to 16777215", id="beyond what float32 tells apart"),
        pytest.param([1.0, -1.0], {1: 2}, "negative value -1", id="negative"),
        pytest.param([1.0, float("-inf")], {1: 2}, "negative value -inf", id="infinitely negative"),
        pytest.param([1.0, 2.0, 4.0], {1: 3}, r"ids \[2, 4\] have no row", id="ids without a row"),
        pytest.param([1.0, 2.0], {}, r"ids \[1, 2\] have no row", id="table of a scan without fractures"),
        pytest.param(
            [0.0, 2.0], {1: 3, 2: -1}, r"ids \[1\] of the scan's table have no voxels", id="row without voxels"
        ),
    ],
)
def test_wrong_label_names_its_file(values: list, codes: dict, message: str) -> None:
    data: dict[Hashable, Any] = {"label": volume(values), "label_codes": codes}
    with pytest.raises(ValueError, match=f"RibFrac7-label.nii.gz: .*{message}"):
        CheckLabeld("label")(data)


def test_label_that_fits_its_table_passes() -> None:
    data: dict[Hashable, Any] = {"label": volume([2.0, 0.0, 1.0]), "label_codes": {1: 3, 2: -1}}
    assert CheckLabeld("label")(data)["label"][0, 1, 0].tolist() == [2, 0, 1]


def test_without_a_table_any_ids_pass() -> None:
    assert CheckLabeld("label")({"label": volume([0.0, 5.0])})["label"][0, 1, 0].tolist() == [0, 5]


def test_plain_tensor_is_named_by_its_key() -> None:
    with pytest.raises(ValueError, match="^label: holds the negative"):
        CheckLabeld("label")({"label": torch.tensor([[[[-1.0]]]])})


def test_file_name_comes_from_the_loader(tmp_path: Path) -> None:
    path = tmp_path / "RibFrac9-label.nii.gz"
    nib.save(nib.Nifti1Image(np.full((3, 4, 5), 0.25, np.float32), np.diag([-0.7, -0.8, 1.25, 1])), path)
    chain = Compose([LoadImaged("label"), EnsureChannelFirstd("label")])
    with pytest.raises(ValueError, match="RibFrac9-label.nii.gz: holds values"):
        CheckLabeld("label")(chain({"label": str(path)}))


# ---- CropLabelSlicesd ----


@pytest.mark.parametrize(
    "values, margin, kept",
    [
        pytest.param([0, 0, 1, 0, 2, 0], 0, (2, 5), id="from the first to the last, with what is between"),
        pytest.param([0, 0, 1, 0, 0, 0], 0, (2, 3), id="one slice"),
        pytest.param([0, 0, 1, 0, 2, 0], 1, (1, 6), id="margin on both sides"),
        pytest.param([0, 0, 1, 0, 2, 0], 9, (0, 6), id="margin ends with the scan"),
        pytest.param([1, 0, 0, 0, 0, 2], 0, (0, 6), id="marked at both ends"),
        pytest.param([0, 0, 0, 0, 0, 0], 0, (0, 6), id="no fracture: whole"),
        pytest.param([0, 0, 0, 0, 0, 0], 2, (0, 6), id="no fracture, margin: whole"),
    ],
)
def test_slices_kept(values: list, margin: int, kept: tuple[int, int]) -> None:
    image = volume([10, 11, 12, 13, 14, 15])
    data = CropLabelSlicesd(["image", "label"], margin_voxels=margin)({"image": image, "label": volume(values)})
    assert data["image"][0, 1, 0].tolist() == list(range(10 + kept[0], 10 + kept[1]))
    assert data["label"][0, 1, 0].tolist() == values[kept[0] : kept[1]]
    assert data["image"].shape[:3] == (1, 2, 2)


def test_affine_follows_the_crop() -> None:
    data: dict[Hashable, Any] = CropLabelSlicesd("label")({"label": volume([0, 0, 1, 2])})
    # two slices of 1.25 mm lie below what is kept
    assert data["label"].affine[:3, 3].tolist() == pytest.approx([-90.0, -80.0, -700.0 + 2 * 1.25])


def test_inverse_puts_the_slices_back() -> None:
    crop = CropLabelSlicesd(["image", "label"])
    cropped: dict[Hashable, Any] = crop({"image": volume([1, 2, 3, 4, 5]), "label": volume([0, 0, 1, 1, 0])})
    crop({"image": volume([1, 2, 3, 4, 5]), "label": volume([0, 1, 0, 0, 0])})  # another scan in between
    back = crop.inverse(cropped)
    assert back["image"][0, 1, 0].tolist() == [0, 0, 3, 4, 0]
    assert back["image"].affine[2, 3] == pytest.approx(-700.0)


def test_lazy_compose_sees_the_label_as_it_stands() -> None:
    flipped = RAS_AFFINE @ torch.diag(torch.tensor([1.0, 1.0, -1.0, 1.0]))  # slices run head to foot
    chain = [Orientationd(["image", "label"], axcodes="RAS", labels=None), CropLabelSlicesd(["image", "label"])]
    data = {"image": volume([1, 2, 3, 4], flipped), "label": volume([0, 1, 0, 0], flipped)}
    results = [Compose(chain, lazy=lazy)(data)["image"][0, 1, 0].tolist() for lazy in (False, True)]
    assert results == [[2], [2]]


def test_image_without_a_label_of_its_own_is_cropped_alone() -> None:
    data = CropLabelSlicesd("image")({"image": volume([1, 2, 3]), "label": volume([0, 1, 0])})
    assert data["image"].shape[-1] == 1
    assert data["label"].shape[-1] == 3


def test_slices_along_another_axis_are_refused() -> None:
    turned = RAS_AFFINE[:, [2, 0, 1, 3]]  # axes S, R, A
    with pytest.raises(ValueError, match="RibFrac7-label.nii.gz: the last axis does not run along the body"):
        CropLabelSlicesd("label")({"label": volume([0, 1], turned)})


@pytest.mark.parametrize("error", [1e-7, -1e-4, 9e-4])
def test_ids_that_a_slope_has_moved_are_whole_numbers(error: float) -> None:
    label = torch.tensor([[[[0.0, 1.0 + error, 2.0 - error, 255.0 + error]]]])
    checked = CheckLabeld("label")({"label": label, "label_codes": {1: 3, 2: -1, 255: 2}})["label"]
    assert checked.dtype == torch.uint8 and checked.tolist() == [[[[0, 1, 2, 255]]]]


@pytest.mark.parametrize("value", [1.002, 0.5, -0.002])
def test_ids_that_are_further_off_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not whole numbers|negative"):
        CheckLabeld("label")({"label": torch.tensor([[[[0.0, value]]]])})

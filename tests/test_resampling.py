"""Tests of resampling along the axes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Spacingd

from scripts.transforms import SpacingOnlyd

PIXDIM = (0.74, 0.74, 1.25)


def scan(affine: np.ndarray, shape: tuple[int, ...] = (1, 23, 31, 11)) -> MetaTensor:
    values = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 3000 - 1000
    return MetaTensor(values, affine=torch.as_tensor(affine, dtype=torch.float64))


def affine(spacing: tuple[float, ...], flips: tuple[int, ...] = (1, 1, 1)) -> np.ndarray:
    matrix = np.diag([*np.multiply(spacing, flips), 1.0])
    matrix[:3, 3] = (-17.3, 204.1, -90.7)
    return matrix


def both(image: MetaTensor, **settings) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Resample there and back, ours and MONAI's."""
    results = []
    for resample in (SpacingOnlyd("image", PIXDIM, **settings), Spacingd("image", PIXDIM, **settings)):
        there = resample({"image": image.clone()})
        results.append([there["image"], resample.inverse(there)["image"]])
    return results[0], results[1]


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, -1, 1), (1, -1, -1)])
@pytest.mark.parametrize("spacing", [(0.9, 0.9, 5.0), (0.4, 0.6, 0.5), (0.74, 0.74, 3.0)])
def test_values_and_grid_are_those_of_monai_there_and_back(spacing, flips):
    ours, theirs = both(scan(affine(spacing, flips)), dtype=torch.float32)
    for mine, other in zip(ours, theirs):
        assert mine.shape == other.shape and mine.dtype == other.dtype == torch.float32
        assert torch.allclose(mine.affine, other.affine)
        assert torch.allclose(mine.as_tensor(), other.as_tensor(), atol=0.05)  # HU
        assert len(mine.applied_operations) == len(other.applied_operations)


def test_nearest_takes_voxels_of_the_scan():
    image = scan(affine((0.9, 0.9, 2.9)))  # no place halfway between two slices
    ours, theirs = both(image, mode="nearest")
    assert set(ours[0].unique().tolist()) <= set(image.unique().tolist())
    assert (ours[0].as_tensor() == theirs[0].as_tensor()).float().mean() > 0.99


def test_axes_that_are_turned_are_left_to_monai():
    turned = affine((0.9, 0.9, 3.0))
    turned[1, 2] = 0.4  # a tilted gantry
    ours, theirs = both(scan(turned))
    assert all(torch.equal(mine, other) for mine, other in zip(ours, theirs))


def test_a_place_beyond_the_border_has_its_value():
    image = MetaTensor(torch.arange(4.0).reshape(1, 1, 1, 4).expand(1, 2, 2, 4).contiguous())
    resampled = SpacingOnlyd("image", (1.0, 1.0, 0.8))({"image": image})["image"]
    assert resampled[0, 0, 0].tolist() == pytest.approx([0.0, 0.8, 1.6, 2.4, 3.0])  # voxels at 0, 0.8 ... 3.2


def test_other_numbers_of_channels_are_resampled_alike():
    image = scan(affine((0.9, 0.9, 3.0)), (2, 9, 8, 7))
    both_channels = SpacingOnlyd("image", PIXDIM)({"image": image})["image"]
    second = SpacingOnlyd("image", PIXDIM)({"image": image[1:]})["image"]
    assert torch.equal(both_channels[1:].as_tensor(), second.as_tensor())


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


def test_without_a_spacing_nothing_is_resampled_there_and_back():
    volume = MetaTensor(torch.rand(1, 9, 8, 7))
    resample = SpacingOnlyd("image", pixdim=None, min_pixdim=(2.0, 2.0, 2.0), max_pixdim=(3.0, 3.0, 3.0))
    kept = resample({"image": volume})
    assert torch.equal(kept["image"], volume) and torch.equal(resample.inverse(kept)["image"], volume)

"""Candidates brought back to the scan's own grid, where some lie between its voxels."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from conftest import lps_affine
from monai.data import MetaTensor
from monai.transforms import Compose, Orientationd

from scripts.candidates import describe_candidates
from scripts.transforms import InvertCandidatesd, SeparateCandidatesd, SpacingOnlyd

# Slices of 5 mm are predicted at 1.25 mm: slice s of the scan is slice 4 s of the prediction.
SHAPE, SPACING_MM = (12, 10, 4), (0.75, 0.75, 5.0)
SCORES = (0.9, 0.8, 0.7, 0.6)


@pytest.fixture
def steps() -> Compose:
    return Compose(
        [Orientationd("image", axcodes="RAS", labels=None), SpacingOnlyd("image", pixdim=(0.75, 0.75, 1.25))]
    )


def inverted(steps: Compose, *parts: tuple[slice, slice, slice]) -> dict:
    """Candidates 1..n, given on the prediction's grid (its axes run to the right, to the front, up), brought back."""
    scan = MetaTensor(torch.zeros(1, *SHAPE), affine=torch.as_tensor(lps_affine(SPACING_MM)), meta={"scan": "A"})
    image = steps({"image": scan})["image"]
    assert image.shape == (1, 12, 10, 13)
    ids = torch.zeros(image.shape, dtype=torch.int32)
    for number, part in enumerate(parts, start=1):
        ids[0][part] = number
    scores = torch.tensor(SCORES[: len(parts)])
    data = {
        "image": image,
        "pred": MetaTensor(ids, meta=image.meta),
        "label_scores": scores,
        "mean_probabilities": scores / 2,
    }
    output = InvertCandidatesd("pred", steps, "image")(data)
    assert output["pred"].dtype == torch.int32 and output["pred"].shape == (1, *SHAPE)
    np.testing.assert_allclose(output["pred"].affine, lps_affine(SPACING_MM))
    return output


def scans_part(output: dict, number: int) -> list[list[int]]:
    """First and last voxel of a candidate on the scan's grid."""
    where = np.argwhere(output["pred"][0].numpy() == number)
    return [where.min(axis=0).tolist(), where.max(axis=0).tolist(), len(where)]


WIDE = np.s_[1:3, 2:5, 3:10]  # holds slices 4 and 8, that is 1 and 2 of the scan
BETWEEN = np.s_[6:8, 2:5, 7:8]  # 8.75 mm up, nearest to slice 2 at 10 mm


def test_without_a_loss_all_stays(steps: Compose, caplog: pytest.LogCaptureFixture) -> None:
    output = inverted(steps, WIDE)
    # 1 and 2 from the right are 10 and 9 from the left of 12, 2 to 4 from the back 7 to 5 from the front of 10
    assert scans_part(output, 1) == [[9, 5, 1], [10, 7, 2], 2 * 3 * 2]
    assert output["label_scores"].tolist() == pytest.approx([0.9]) and not caplog.records


def test_a_candidate_between_the_slices_gets_the_nearest_voxels(
    steps: Compose, caplog: pytest.LogCaptureFixture
) -> None:
    output = inverted(steps, WIDE, BETWEEN)
    assert scans_part(output, 1) == [[9, 5, 1], [10, 7, 2], 2 * 3 * 2]
    assert scans_part(output, 2) == [[4, 5, 2], [5, 7, 2], 2 * 3]
    assert output["label_scores"].tolist() == pytest.approx([0.9, 0.8])
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert (
        record.message
        == "A: a candidate of score 0.80 lies between the scan's voxels; it is marked by the nearest ones."
    )


def test_a_candidate_whose_place_is_taken_goes_with_its_score(steps: Compose, caplog: pytest.LogCaptureFixture) -> None:
    taken = np.s_[6:8, 2:5, 8:9]  # has the voxels of slice 2 that are nearest to BETWEEN
    output = inverted(steps, WIDE, BETWEEN, taken)
    assert output["pred"].unique().tolist() == [0, 1, 2]
    assert scans_part(output, 2) == [[4, 5, 2], [5, 7, 2], 2 * 3]
    assert output["label_scores"].tolist() == pytest.approx([0.9, 0.7])
    assert output["mean_probabilities"].tolist() == pytest.approx([0.45, 0.35])
    assert [record.message for record in caplog.records] == [
        "A: a candidate of score 0.80 lies between the scan's voxels; it is dropped: others have its place."
    ]
    assert [candidate.score for candidate in describe_candidates(output["pred"], output["label_scores"])] == [0.9, 0.7]


def test_of_two_at_one_place_the_one_of_the_higher_score_stays(steps: Compose) -> None:
    beside = np.s_[6:8, 2:5, 9:10]  # 11.25 mm up, nearest to slice 2, too
    output = inverted(steps, BETWEEN, beside)
    assert output["pred"].unique().tolist() == [0, 1] and output["label_scores"].tolist() == pytest.approx([0.9])


def test_what_is_free_of_a_place_is_marked(steps: Compose) -> None:
    taken = np.s_[6:7, 2:5, 8:9]
    output = inverted(steps, taken, BETWEEN)
    # 6 from the right is 5 from the left, and taken; 7 from the right is 4 from the left, and free
    assert scans_part(output, 1) == [[5, 5, 2], [5, 7, 2], 3] and scans_part(output, 2) == [[4, 5, 2], [4, 7, 2], 3]


def test_all_may_lie_between_the_slices(steps: Compose) -> None:
    output = inverted(steps, np.s_[1:2, 1:2, 1:2], np.s_[6:7, 2:3, 5:7], np.s_[9:10, 8:9, 11:12])
    assert output["pred"].unique().tolist() == [0, 1, 2, 3] and len(output["label_scores"]) == 3
    # 1.25 mm up is nearest to slice 0, 13.75 mm to slice 3
    assert scans_part(output, 1)[0] == [10, 8, 0] and scans_part(output, 3)[0] == [2, 1, 3]


def test_no_candidate_is_none(steps: Compose) -> None:
    output = inverted(steps)
    assert not output["pred"].any() and output["label_scores"].shape == (0,)


def test_candidates_that_touch_are_parted_at_the_cost_of_the_later_one() -> None:
    ids = torch.zeros(1, 9, 5, 3, dtype=torch.int32)
    ids[0, 0:3], ids[0, 3:6], ids[0, 7:9] = 2, 1, 3
    affine = torch.diag(torch.tensor([1.0, 1.0, 3.0, 1.0], dtype=torch.float64))
    parted = SeparateCandidatesd("pred")({"pred": MetaTensor(ids, affine=affine)})["pred"]
    assert parted[0, :, 0, 0].tolist() == [2, 2, 0, 1, 1, 1, 0, 3, 3]
    assert torch.equal(parted.affine, affine) and ids[0, 2, 0, 0] == 2  # what was given stays


def test_a_candidate_is_not_parted_away() -> None:
    ids = torch.ones(1, 3, 3, 3, dtype=torch.int32)
    ids[0, 1, 1, 1] = 2
    assert torch.equal(SeparateCandidatesd("pred")({"pred": MetaTensor(ids)})["pred"].as_tensor(), ids)

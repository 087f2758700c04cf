"""From probabilities to candidates, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import SPACING_MM, lps_affine
from monai.data import MetaTensor

from scripts.transforms import FilterCandidatesd, LabelCandidatesd

VOXEL_MM3 = SPACING_MM[0] * SPACING_MM[1] * SPACING_MM[2]  # 0.703125


def probabilities(*blocks, shape=(12, 10, 8)):
    """A volume of zeros with blocks (slices, probability)."""
    volume = torch.zeros(1, *shape)
    for place, value in blocks:
        volume[0, *place] = value
    return {"pred": MetaTensor(volume, affine=torch.as_tensor(lps_affine()))}


LOW = (np.s_[0:2, 0:2, 0:2], 0.7)  # 8 voxels
HIGH = (np.s_[5:8, 5:8, 5:7], 0.9)  # 18 voxels


def test_ids_by_falling_score():
    output = LabelCandidatesd("pred", threshold=0.5)(probabilities(LOW, HIGH))
    assert output["pred"].unique(return_counts=True)[1].tolist() == [960 - 26, 18, 8]
    assert (output["pred"][0, 5:8, 5:8, 5:7] == 1).all() and (output["pred"][0, 0:2, 0:2, 0:2] == 2).all()
    assert torch.equal(output["pred"].affine, torch.as_tensor(lps_affine()))


@pytest.mark.parametrize(
    "score, expected",
    [
        pytest.param("mean", [0.9, 0.7], id="the report's mean"),
        pytest.param("mean_above_threshold", [0.8, 0.4], id="(0.9 - 0.5) / 0.5 and (0.7 - 0.5) / 0.5"),
    ],
)
def test_scores(score, expected):
    output = LabelCandidatesd("pred", threshold=0.5, score=score)(probabilities(LOW, HIGH))
    assert output["label_scores"].tolist() == pytest.approx(expected)
    assert output["mean_probabilities"].tolist() == pytest.approx([0.9, 0.7])


def test_pieces_that_touch_at_a_corner_are_one():
    corner = (np.s_[2:4, 2:4, 2:4], 0.9)
    output = LabelCandidatesd("pred", threshold=0.5)(probabilities(LOW, corner))
    # 8 voxels of 0.7 and 8 of 0.9
    assert output["mean_probabilities"].tolist() == pytest.approx([0.8])


@pytest.mark.parametrize(
    "threshold, count",
    [
        pytest.param(0.64, 1, id="between"),
        pytest.param(0.5, 1, id="a probability at the threshold does not count"),
        pytest.param(0.25, 2, id="under both"),
        pytest.param(0.75, 0, id="over both"),
    ],
)
def test_threshold(threshold, count):
    data = probabilities((LOW[0], 0.5), (HIGH[0], 0.75))
    output = LabelCandidatesd("pred", threshold=threshold)(data)
    assert len(output["label_scores"]) == output["pred"].max() == count


def test_a_single_slice_full_of_small_candidates():
    # Every other voxel in both axes: 20 by 4 pieces, the last in reading order with the highest probability.
    volume = torch.zeros(1, 40, 7, 1)
    volume[0, ::2, ::2, 0] = torch.linspace(0.7, 0.9, 80).reshape(20, 4)
    output = LabelCandidatesd("pred", threshold=0.5)({"pred": volume})
    assert output["pred"][0, ::2, ::2, 0].flatten().tolist() == list(range(80, 0, -1))


def test_candidates_of_one_score_are_numbered_in_reading_order():
    # permuted, so that memory holds the volume in another order
    volume = torch.zeros(1, 4, 5, 6).permute(0, 3, 2, 1)
    volume[0, 0, 4, 0] = volume[0, 5, 0, 0] = volume[0, 0, 0, 3] = 0.75
    output = LabelCandidatesd("pred", threshold=0.5)({"pred": volume})
    assert [int(output["pred"][0, i, j, k]) for i, j, k in ((0, 0, 3), (0, 4, 0), (5, 0, 0))] == [1, 2, 3]


def test_nothing_found():
    output = FilterCandidatesd("pred", 10, 0.5)(LabelCandidatesd("pred", threshold=0.5)(probabilities()))
    assert output["pred"].max() == 0 and output["label_scores"].shape == (0,)


@pytest.mark.parametrize(
    "min_mm3, left",
    [
        pytest.param(8 * VOXEL_MM3, 2, id="as large as the limit stays"),
        pytest.param(8 * VOXEL_MM3 + 0.01, 1, id="a little smaller goes"),
        pytest.param(18 * VOXEL_MM3 + 0.01, 0, id="all go"),
    ],
)
def test_small_candidates_go(min_mm3, left):
    labelled = LabelCandidatesd("pred", threshold=0.5)(probabilities(LOW, HIGH))
    output = FilterCandidatesd("pred", min_volume_mm3=min_mm3, min_mean_probability=0)(labelled)
    assert output["pred"].max() == len(output["label_scores"]) == left


def test_improbable_candidates_go_and_the_others_are_numbered_again():
    middle = (np.s_[9:11, 0:2, 0:2], 0.8)
    labelled = LabelCandidatesd("pred", threshold=0.5, score="mean")(probabilities(LOW, middle, HIGH))
    small_first = FilterCandidatesd("pred", min_volume_mm3=0, min_mean_probability=0.75)(labelled)
    assert small_first["label_scores"].tolist() == pytest.approx([0.9, 0.8])
    assert (small_first["pred"][0, 9:11, 0:2, 0:2] == 2).all() and (small_first["pred"][0, 0:2, 0:2, 0:2] == 0).all()


def test_the_first_goes():
    tiny = (np.s_[11:12, 9:10, 7:8], 0.95)
    labelled = LabelCandidatesd("pred", threshold=0.5, score="mean")(probabilities(LOW, tiny))
    output = FilterCandidatesd("pred", min_volume_mm3=5, min_mean_probability=0)(labelled)
    assert output["label_scores"].tolist() == pytest.approx([0.7])
    assert output["pred"].unique(return_counts=True)[1].tolist() == [952, 8]


@pytest.mark.parametrize("threshold", [-0.1, 1.0])
def test_wrong_threshold_is_refused(threshold):
    with pytest.raises(ValueError, match="threshold"):
        LabelCandidatesd("pred", threshold=threshold)


def test_more_than_one_channel_is_refused():
    with pytest.raises(ValueError, match="shape"):
        LabelCandidatesd("pred")({"pred": torch.zeros(2, 4, 4, 4)})


def test_a_volume_without_affine_is_refused():
    labelled = LabelCandidatesd("pred")({"pred": torch.ones(1, 4, 4, 4)})
    with pytest.raises(ValueError, match="affine"):
        FilterCandidatesd("pred", 1, 0)(labelled)

"""From probabilities to candidates, counted by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import BUNDLE_ROOT, SPACING_MM, lps_affine
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from rib_cages import SHAPE, ball, made_cage

from scripts.anatomy.rib_cage import RibCage
from scripts.transforms import FilterCandidatesd, FindCandidatesd, LabelCandidatesd
from scripts.transforms.candidates import CalibrateScoresd, label_candidates, local_means

VOXEL_MM3 = SPACING_MM[0] * SPACING_MM[1] * SPACING_MM[2]  # 0.703125


def probabilities(*blocks, shape=(12, 10, 8)):
    """A volume of zeros with blocks (slices, probability)."""
    volume = torch.zeros(1, *shape)
    for place, value in blocks:
        volume[0, *place] = value
    return {"pred": MetaTensor(volume, affine=torch.as_tensor(lps_affine()))}


LOW = (np.s_[0:2, 0:2, 0:2], 0.7)  # 8 voxels
HIGH = (np.s_[5:8, 5:8, 5:7], 0.9)  # 18 voxels


def test_local_means_of_candidates_are_those_of_the_scan() -> None:
    rng = np.random.default_rng(0)
    probability, ids = rng.random((30, 20, 25)).astype(np.float32), np.zeros((30, 20, 25), dtype=np.int32)
    ids[:4, 5:9, 20:], ids[10:15, 3:8, 10:12], ids[14:18, 7:12, 11:14] = 1, 2, 3  # one at the ends, two side by side
    whole, part = (local_means(probability, (0.7, 0.7, 1.2), given) for given in (None, ids))
    assert np.allclose(part[ids > 0], whole[ids > 0], atol=1e-6)
    assert not part[25:].any()


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


# Two cubes of 8 by 8 by 5 voxels (6.0, 6.0, 6.25 mm), their centers 16 voxels (12 mm) apart, and a thin bridge.
BLOBS = (np.s_[4:12, 4:12, 2:7], np.s_[20:28, 4:12, 2:7])
BRIDGE = np.s_[12:20, 7:9, 4:5]


def two_that_touch(shape=(32, 16, 9)):
    return probabilities((BLOBS[0], 0.95), (BLOBS[1], 0.9), (BRIDGE, 0.85), shape=shape)


@pytest.mark.parametrize(
    "distance_mm, pieces",
    [
        pytest.param(0.0, 1, id="off"),
        pytest.param(10.0, 2, id="peaks farther apart than the distance"),
        pytest.param(14.0, 1, id="peaks nearer than the distance"),
    ],
)
def test_candidates_that_touch_are_split(distance_mm, pieces):
    output = LabelCandidatesd("pred", threshold=0.5, split_distance_mm=distance_mm)(two_that_touch())
    ids = output["pred"][0]
    assert len(output["label_scores"]) == ids.max() == pieces
    # no voxel is lost: 2 cubes of 320 and a bridge of 8 * 2
    assert (ids > 0).sum() == 656
    assert ids[BLOBS[0]].unique().tolist() == [1] and ids[BLOBS[1]].unique().tolist() == [pieces]


def test_a_bridge_is_divided_between_its_ends():
    output = LabelCandidatesd("pred", threshold=0.5, split_distance_mm=10)(two_that_touch())
    bridge = output["pred"][0][BRIDGE]
    assert (bridge[:3] == 1).all() and (bridge[-3:] == 2).all()


def test_distances_are_in_mm_along_every_axis():
    # centers 10 slices apart
    volume = np.zeros((16, 16, 24), dtype=np.float32)
    volume[4:12, 4:12, 3:9] = volume[4:12, 4:12, 13:19] = 0.9
    volume[7:9, 7:9, 9:13] = 0.9
    counts = [label_candidates(volume, 0.5, (0.75, 0.75, slices_mm), 10.0).max() for slices_mm in (1.25, 0.75)]
    assert counts == [2, 1], "12.5 mm apart, and 7.5 mm"


def test_one_long_fracture_stays_one():
    # 42 mm; its middle third is a little fainter
    bar = probabilities((np.s_[4:60, 4:12, 2:7], 0.92), (np.s_[22:42, 4:12, 2:7], 0.89), shape=(64, 16, 9))
    assert len(LabelCandidatesd("pred", threshold=0.5, split_distance_mm=8)(bar)["label_scores"]) == 1


def test_the_pieces_scores_are_their_own():
    output = LabelCandidatesd("pred", threshold=0.5, score="mean", split_distance_mm=10)(two_that_touch())
    # half the bridge each: 16 voxels of 0.85 would shift the mean of 320 by 0.005 at most
    assert output["label_scores"].tolist() == pytest.approx([0.95, 0.9], abs=0.005)
    assert (output["label_scores"] < torch.tensor([0.95, 0.9])).all()


@pytest.mark.parametrize(
    "peak_share, voxels",
    [
        pytest.param(0.0, [400, 464, 704], id="nothing is parted"),
        pytest.param(0.5, [192, 256, 400, 464], id="a component of two cores becomes these, all others stay"),
        pytest.param(0.2, [400, 464, 704], id="no weak part between the cores"),
    ],
)
def test_a_component_is_parted_at_a_share_of_its_peak(peak_share, voxels):
    # 0.703 mm3 a voxel, so that 100 mm3 are 142.2 voxels
    first, between, second = (np.s_[2:10, 2:6, 0:8], 0.9), (np.s_[10:18, 2:6, 0:8], 0.3), (np.s_[18:24, 2:6, 0:8], 0.8)
    # one core of 200 voxels with a speck, and a weak one alone
    speck = (np.s_[2:10, 10:15, 0:5], 0.9), (np.s_[10:16, 10:15, 0:8], 0.3), (np.s_[16:19, 10:14, 0:2], 0.9)
    weak = (np.s_[30:40, 2:10, 0:5], 0.2)
    volume = probabilities(first, between, second, *speck, weak, shape=(44, 16, 9))
    output = LabelCandidatesd("pred", threshold=0.1, peak_share=peak_share)(volume)
    ids = output["pred"].numpy()
    assert sorted(np.bincount(ids[ids > 0])[1:].tolist()) == voxels
    assert len(output["label_scores"]) == len(voxels)


@pytest.mark.parametrize(
    "low_threshold, min_volume_mm3, voxels",
    [
        pytest.param(0.0, 50.0, [64, 128], id="off"),
        # 0.703 mm3 a voxel: the speck of 64 voxels has 45 mm3, the block of 128 has 90
        pytest.param(0.2, 50.0, [128, 192, 256], id="weak pieces without a candidate, and in place of a small one"),
        pytest.param(0.2, 40.0, [64, 128, 192], id="the small one is large enough"),
        pytest.param(0.35, 50.0, [64, 128, 192], id="a threshold above the small one's surroundings"),
        pytest.param(0.2, 100.0, [192, 256, 384], id="no candidate is large enough"),
    ],
)
def test_weak_components_without_a_candidate_count(low_threshold, min_volume_mm3, voxels):
    clear = (np.s_[2:10, 2:6, 0:4], 0.9), (np.s_[10:18, 2:10, 0:4], 0.3)
    small = (np.s_[2:6, 12:16, 0:4], 0.8), (np.s_[6:18, 12:16, 0:4], 0.3)
    weak = (np.s_[26:38, 2:6, 0:4], 0.4)
    volume = probabilities(*clear, *small, weak, shape=(44, 18, 6))
    label = LabelCandidatesd("pred", 0.5, "mean", low_threshold=low_threshold, min_volume_mm3=min_volume_mm3)
    output = label(volume)
    ids = output["pred"].numpy()
    assert sorted(np.bincount(ids[ids > 0])[1:].tolist()) == voxels
    assert len(output["label_scores"]) == len(voxels) and output["label_scores"].diff().max() < 0, "by falling score"


def test_scores_are_spread_above_the_lower_threshold():
    volume = probabilities((np.s_[2:6, 2:6, 0:4], 0.8), (np.s_[10:14, 2:6, 0:4], 0.4), shape=(18, 8, 6))
    output = LabelCandidatesd("pred", 0.5, low_threshold=0.2)(volume)
    assert output["label_scores"].tolist() == pytest.approx([0.6 / 0.8, 0.2 / 0.8])


def test_a_low_threshold_that_is_not_below_the_other_adds_nothing():
    volume = probabilities((np.s_[2:6, 2:6, 0:4], 0.8), (np.s_[10:14, 2:6, 0:4], 0.4), shape=(18, 8, 6))
    for low_threshold in (0.5, 0.6):
        output = LabelCandidatesd("pred", 0.5, low_threshold=low_threshold, min_volume_mm3=1000.0)(volume)
        assert output["label_scores"].tolist() == pytest.approx([0.3 / 0.5])


@pytest.mark.parametrize("low_threshold", [1.0, -0.1])
def test_a_low_threshold_that_is_no_probability_is_refused(low_threshold):
    with pytest.raises(ValueError, match="low_threshold must be in"):
        LabelCandidatesd("pred", 0.5, low_threshold=low_threshold)


def test_max_is_the_highest_mean_over_5_mm():
    # the window is 7 by 7 by 5 voxels: 5.25, 5.25 and 6.25 mm
    block, voxel = (np.s_[1:8, 1:8, 1:6], 0.75), (np.s_[20, 12, 4], 0.98)
    output = LabelCandidatesd("pred", threshold=0.5, score="max")(probabilities(block, voxel, shape=(24, 16, 9)))
    assert output["label_scores"].tolist() == pytest.approx([0.75, 0.98 / 245])
    assert output["mean_probabilities"].tolist() == pytest.approx([0.75, 0.98])


@pytest.mark.parametrize(
    "setting",
    [pytest.param({"score": "max"}, id="max"), pytest.param({"split_distance_mm": 5.0}, id="split")]
    + [pytest.param({"low_threshold": 0.1}, id="weak")],
)
def test_lengths_need_an_affine(setting):
    with pytest.raises(ValueError, match="affine"):
        LabelCandidatesd("pred", **setting)({"pred": torch.ones(1, 4, 4, 4)})


def test_a_share_of_the_peak_above_one_is_refused():
    with pytest.raises(ValueError, match="peak_share must be in"):
        LabelCandidatesd("pred", peak_share=1.0)


def test_negative_distance_is_refused():
    with pytest.raises(ValueError, match="split_distance_mm is -1"):
        LabelCandidatesd("pred", split_distance_mm=-1)


@pytest.mark.parametrize(
    "slope, intercept, expected",
    [
        pytest.param(2.0, 0.0, [16 / 17, 1 / 2, 1 / 17], id="odds are squared"),
        pytest.param(1.0, float(np.log(4)), [16 / 17, 4 / 5, 1 / 2], id="odds times four"),
        pytest.param(0.5, 0.0, [2 / 3, 1 / 2, 1 / 3], id="root of the odds"),
    ],
)
def test_calibration(slope, intercept, expected):
    # odds of 4, 1 and 1/4
    data = {"label_scores": torch.tensor([0.8, 0.5, 0.2]), "other": 1}
    output = CalibrateScoresd("label_scores", slope, intercept)(data)
    assert output["label_scores"].tolist() == pytest.approx(expected)
    assert output["label_scores"].dtype == torch.float32 and output["other"] == 1


def test_calibration_by_default_changes_nothing():
    scores = torch.tensor([1.0, 0.3, 0.1, 0.0])
    assert torch.equal(CalibrateScoresd()({"label_scores": scores})["label_scores"], scores)


@pytest.mark.parametrize("slope, intercept", [(1.0, -3.0), (0.3, 2.0), (1.2, 0.1)])
def test_calibration_keeps_the_order_from_0_to_1(slope, intercept):
    scores = torch.tensor([1.0, 0.999, 0.5, 0.4999, 1e-4, 0.0])
    output = CalibrateScoresd("label_scores", slope, intercept)({"label_scores": scores})["label_scores"]
    assert (output.diff() < 0).all() and output.max() < 1 and output.min() > 0


def test_calibration_of_no_candidate():
    assert CalibrateScoresd("label_scores", 2.0)({"label_scores": torch.zeros(0)})["label_scores"].shape == (0,)


@pytest.mark.parametrize("slope", [0.0, -1.0, float("nan")])
def test_a_slope_that_turns_the_order_is_refused(slope):
    with pytest.raises(ValueError, match="above 0"):
        CalibrateScoresd("label_scores", slope)


# ---- candidates off the ribs ----
ON_RIB, AMONG_RIBS = (-70.0, 20.0, 55.0), (-30.0, 20.0, 55.0)  # the second one 30 mm inside of that rib's inner side
LEFT, RIGHT = [("left", number) for number in range(3, 11)], [("right", number) for number in (8, 9, 10)]


@pytest.fixture(scope="module")
def cage() -> RibCage:
    """Eight ribs on the left, from 25 mm up, and three on the right."""
    return made_cage(LEFT + RIGHT)


def balls(cage: RibCage, *centers: tuple[float, float, float]) -> dict[str, object]:
    """A candidate of 6 mm radius at each place, the first one with the highest score."""
    ids = np.zeros(SHAPE, dtype=np.int32)
    for number, center in enumerate(centers, start=1):
        ids[ball(cage, center)] = number
    scores = torch.linspace(0.9, 0.8, len(centers))
    pred = MetaTensor(torch.from_numpy(ids)[None], affine=torch.as_tensor(cage.affine))
    return {"pred": pred, "label_scores": scores, "mean_probabilities": scores, "rib_cage": cage}


def kept(data: dict[str, object], max_rib_mm: float | None = 10.0) -> int:
    output = FilterCandidatesd("pred", 0, 0, max_rib_mm=max_rib_mm)(data)
    assert len(output["label_scores"]) == len(output["mean_probabilities"]) == output["pred"].max()
    return len(output["label_scores"])


def test_a_candidate_off_the_ribs_goes_and_one_on_a_rib_stays(cage: RibCage) -> None:
    data = balls(cage, AMONG_RIBS, ON_RIB)
    output = FilterCandidatesd("pred", 0, 0, max_rib_mm=10.0)(data)
    assert output["label_scores"].tolist() == pytest.approx([0.8])
    assert torch.equal(output["pred"] == 1, data["pred"] == 2) and output["pred"].max() == 1


# from the middle to the centerline 40 mm, less 5 mm of the rib and 6 mm of the candidate: 29 mm, and a voxel's 2 mm
@pytest.mark.parametrize("max_rib_mm, left", [(27.0, 0), (32.0, 1), (None, 1)])
def test_the_distance_is_in_mm_between_nearest_voxels(cage: RibCage, max_rib_mm: float | None, left: int) -> None:
    assert kept(balls(cage, AMONG_RIBS), max_rib_mm) == left


@pytest.mark.parametrize(
    "center",
    [
        pytest.param((-30.0, 20.0, 8.0), id="below the lowest rib"),
        pytest.param((30.0, 20.0, 55.0), id="on a side with three ribs"),
    ],
)
def test_a_candidate_stays_where_ribs_may_be_missing(cage: RibCage, center: tuple[float, float, float]) -> None:
    assert kept(balls(cage, center)) == 1


def test_a_candidate_stays_where_the_numbers_leave_out_a_rib(cage: RibCage) -> None:
    lacking = [replace(rib, number=rib.number - 1) if rib.number < 6 else rib for rib in cage.ribs]
    assert kept(balls(cage, AMONG_RIBS) | {"rib_cage": replace(cage, ribs=tuple(lacking))}) == 1


def test_without_ribs_all_candidates_stay(cage: RibCage) -> None:
    data = balls(cage, AMONG_RIBS, ON_RIB)
    none = RibCage(np.zeros((1, 1, 1), dtype=np.uint8), cage.affine, (), ("ribs were not found: no bone",))
    assert kept(data | {"rib_cage": none}) == 2
    del data["rib_cage"]
    assert kept(data) == 2


def test_the_settings_of_a_config_drop_candidates_off_the_ribs(cage: RibCage) -> None:
    probability = np.where(ball(cage, AMONG_RIBS) | ball(cage, ON_RIB), 0.9, 0.0).astype(np.float32)
    pred = MetaTensor(torch.from_numpy(probability)[None], affine=torch.as_tensor(cage.affine))
    candidates = ConfigParser.load_config_file(BUNDLE_ROOT / "configs" / "inference.yaml")["candidates"]
    found = FindCandidatesd("pred", candidates | {"min_score": 0.0, "min_volume_mm3": 0.0}).find
    assert len(found({"pred": pred})["label_scores"]) == 2
    assert len(found({"pred": pred, "rib_cage": cage})["label_scores"]) == 1


def test_a_distance_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="max_rib_mm is -1"):
        FilterCandidatesd("pred", 0, 0, max_rib_mm=-1)

"""Regions of one probability: places on the ribs, and what the windows see elsewhere."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from rib_cages import RIB_HU, WAY_MM, ball, image_of, made_cage, on_rib
from scipy import ndimage
from scipy.special import expit, logit

from scripts.anatomy.straight_ribs import RibBlocks
from scripts.networks import ResUNet, StraightRibNet
from scripts.transforms import FindCandidatesd, LabelCandidatesd, PoolRegionsd, StraightenRibsd, least_look
from scripts.transforms.rib_regions import RibPeak, rib_peaks

STEP_MM, BEYOND_MM = 6.4, 10.0
CANDIDATES: dict[str, Any] = {
    "threshold": 0.6,
    "low_threshold": 0.2,
    "min_volume_mm3": 100.0,
    "split_distance_mm": 0.0,
    "peak_share": 0.0,
}
KEPT: dict[str, Any] = {
    **CANDIDATES,
    "postprocess": True,
    "spine_margin_mm": 0.0,
    "score": "mean_above_threshold",
    "score_slope": 0.66,
    "score_intercept": -2.08,
    "min_score": 0.0,
    "min_mean_probability": 0.0,
    "max_rib_mm": None,
}
QUIET = -9.0


@pytest.fixture(scope="module")
def cage():
    return made_cage([("left", 5), ("left", 6), ("right", None)])


@pytest.fixture(scope="module")
def straightened(cage):
    """The scan, as it comes from the first steps in HU, scaled, and its blocks without logits; the ribs by number."""
    affine = torch.as_tensor(cage.affine)
    image = MetaTensor(torch.as_tensor(image_of(cage))[None], affine=affine)
    data = StraightenRibsd("image")({"image": image, "rib_cage": cage})
    return {**data, "image": ((image + 200) / 600 - 1).clamp(-1, 1)}


def data_of(straightened, cage, marks=(), logits=()) -> dict:
    """
    A prediction: marks (ball, probability) of the windows, and logits (number of the rib or None, way in mm, logit) of
    the look, each of one step.
    """
    probability = np.zeros(cage.mask.shape, dtype=np.float32)
    for where, value in marks:
        probability[where] = value
    blocks: RibBlocks = straightened["rib_blocks"]
    looked = np.full((len(blocks.ribs), blocks.values.shape[1] // 8), QUIET)
    for number, way_mm, value in logits:
        rib = [of.rib.number for of in blocks.ribs].index(number)
        looked[rib, int((way_mm + BEYOND_MM) // STEP_MM)] = value
    pred = MetaTensor(torch.as_tensor(probability)[None], affine=torch.as_tensor(cage.affine))
    return {**straightened, "pred": pred, "rib_blocks": replace(blocks, logits=looked)}


def regions_of(data: dict, weight: float = 0.5, **settings: Any) -> tuple[np.ndarray, np.ndarray]:
    """Ids and probabilities of the candidates that a prediction makes of the regions."""
    pooled = PoolRegionsd("pred", None, {**CANDIDATES, **settings}, weight)(data)
    labeling = {**CANDIDATES, **settings, "score": "mean_above_threshold"}
    found = LabelCandidatesd("pred", **labeling)(pooled)
    return found["pred"].numpy()[0], found["label_scores"].numpy()


# ---- peaks ----


def peaks_of(data: dict) -> list[RibPeak]:
    return rib_peaks(data["rib_blocks"].logits, data["rib_blocks"].lengths)


def test_peaks_are_the_highest_places_by_their_height(straightened, cage):
    data = data_of(straightened, cage, logits=[(5, 40, 1.0), (5, 120, 3.0), (6, 40, -1.0), (None, 40, -3.5)])
    peaks = peaks_of(data)
    numbers = [data["rib_blocks"].ribs[peak.rib].rib.number for peak in peaks]
    assert numbers == [5, 5, 6] and [peak.logit for peak in peaks] == [3.0, 1.0, -1.0]  # -3.5 is less than 0.05
    assert all(peak.to_mm - peak.from_mm == pytest.approx(STEP_MM + 2 * 2.0) for peak in peaks)
    assert peaks[0].from_mm < 120 < peaks[0].to_mm


@pytest.mark.parametrize("height, fall_per_step, steps", [(-1.0, 1.0, 3), (-1.0, 1.6, 1), (5.0, 1.5, 5), (5.0, 0.1, 7)])
def test_a_peak_reaches_as_far_as_the_logit_stays_near_it(straightened, cage, height, fall_per_step, steps):
    """By 1.5 from one below even odds, by 4 from a sure one, and no more than three steps on either side."""
    slope = [(6, WAY_MM + STEP_MM * step, height - fall_per_step * abs(step)) for step in range(-5, 6)]
    peak = peaks_of(data_of(straightened, cage, logits=slope))[0]
    assert peak.logit == height and peak.to_mm - peak.from_mm == pytest.approx(steps * STEP_MM + 4.0)


# ---- regions ----


def test_a_place_that_the_windows_do_not_see_is_bone_and_what_is_around_it(straightened, cage):
    data = data_of(straightened, cage, logits=[(6, WAY_MM, 5.0)])
    ids, scores = regions_of(data, weight=0.9)
    assert scores == pytest.approx([expit(0.9 * 5.0 + 0.1 * logit(1e-5))], abs=1e-5)
    places = np.argwhere(ids == 1) @ cage.affine[:3, :3].T + cage.affine[:3, 3]
    assert np.linalg.norm(places.mean(axis=0) - on_rib(25.0)) < 4.0
    assert np.linalg.norm(places - places.mean(axis=0), axis=1).max() < 16.0
    beyond = ndimage.distance_transform_edt(cage.mask == 0, sampling=(2.0, 2.5, 3.0))[ids == 1]
    assert beyond.max() <= 2.0 and (beyond > 0).any()


@pytest.mark.parametrize("looks, found", [([(6, WAY_MM, 5.0)], 1), ([], 0)])
def test_windows_that_see_nothing_at_all(straightened, cage, looks, found):
    """As in a healthy scan."""
    settings = {**KEPT, "peak_share": 0.8, "split_distance_mm": 20.0, "max_rib_mm": 15.0}
    data = PoolRegionsd("pred", None, settings, 0.9)(data_of(straightened, cage, logits=looks))
    data = FindCandidatesd("pred", settings)(data)
    assert len(data["label_scores"]) == len(np.unique(data["pred"].numpy())) - 1 == found


def test_both_looks_are_weighed_in_the_logit(straightened, cage):
    there = ball(cage, on_rib(25.0), 9.0)
    data = data_of(straightened, cage, [(there, 0.9)], [(6, WAY_MM, -1.0)])
    before = data["pred"].clone()
    ids, scores = regions_of(data, weight=0.25)
    assert scores == pytest.approx([expit(0.75 * logit(0.9) + 0.25 * -1.0)], abs=1e-3)
    assert ids[there].max() == 1 and torch.equal(data["pred"], before)


def test_what_the_windows_see_elsewhere_is_a_region_too(straightened, cage):
    on_a_rib, off = ball(cage, on_rib(55.0), 9.0), ball(cage, (0.0, 40.0, 60.0), 9.0)
    data = data_of(straightened, cage, [(on_a_rib, 0.9), (off, 0.95)])
    ids, scores = regions_of(data)
    expected = [expit((logit(0.95) + logit(0.05)) / 2), expit((logit(0.9) + QUIET) / 2)]  # off the ribs it is 0.05
    assert scores == pytest.approx(expected, abs=1e-3)
    assert (ids[off] == 1).all() and (ids[on_a_rib] == 2).all()


@pytest.mark.parametrize("score", ["mean_above_threshold", "mean"])
@pytest.mark.parametrize("min_score, weight", [(0.45, 0.8), (0.3, 0.8), (0.9, 0.5), (0.7, 1.0)])
def test_below_the_least_look_sure_windows_do_not_make_a_candidate(straightened, cage, score, min_score, weight):
    settings = {**KEPT, "score": score}
    least = logit(least_look(settings, weight, min_score))
    found = {}
    for name, of_look in {"below": least - 0.02, "above": least + 0.02}.items():
        there = (ball(cage, on_rib(25.0), 14.0), 1.0)  # it covers the whole place on the rib
        data = PoolRegionsd("pred", None, settings, weight)(
            data_of(straightened, cage, [there], [(6, WAY_MM, of_look)])
        )
        found[name] = len(FindCandidatesd("pred", settings, min_score=min_score)(data)["label_scores"])
    assert found == {"below": 0, "above": 1}


@pytest.mark.parametrize(
    "changed, weight, min_score",
    [
        pytest.param({}, 0.8, 0.0, id="all candidates are kept"),
        pytest.param({}, 0.0, 0.45, id="the look does not count"),
        pytest.param({"postprocess": "false"}, 0.8, 0.45, id="no filter"),
        pytest.param({}, 0.8, 0.1, id="one off the ribs reaches it"),
        pytest.param({}, 0.8, None, id="the settings' own score, 0"),
        pytest.param({"score": "max"}, 0.8, 0.45, id="a score that is not the region's probability"),
        pytest.param({"score": "mean", "score_intercept": 2.0}, 0.8, 0.3, id="every region reaches it"),
    ],
)
def test_the_least_look_is_the_given_one_where_scores_tell_nothing(changed, weight, min_score):
    assert least_look({**KEPT, **changed}, weight, min_score, at_least=0.03) == 0.03


@pytest.mark.parametrize("at_least", [-0.1, 1.5])
def test_a_least_look_that_is_no_probability_is_refused(at_least):
    with pytest.raises(ValueError, match=f"min_rib_probability is {at_least}: give a probability, 0 to 1"):
        least_look(KEPT, at_least=at_least)


def test_neighbors_do_not_become_one(straightened, cage):
    near = [(6, WAY_MM - 26.0, 3.0), (6, WAY_MM - 13.0, 1.0), (6, WAY_MM, 4.0), (6, WAY_MM + 20.0, 2.0)]
    ids, scores = regions_of(data_of(straightened, cage, logits=near), weight=1.0)
    assert scores == pytest.approx(expit([4.0, 3.0, 2.0]), abs=1e-5)
    grown = [ndimage.binary_dilation(ids == number, np.ones((3, 3, 3))) for number in (1, 2, 3)]
    assert not any((ids[of] > 0).sum() > (ids == number).sum() for number, of in enumerate(grown, start=1))


@pytest.mark.parametrize("flipped", [(0,), (1,), (2,), (0, 1, 2)])
def test_flipped_axes_give_the_same_regions(straightened, cage, flipped):
    data = data_of(straightened, cage, [(ball(cage, on_rib(55.0), 9.0), 0.9)], [(6, WAY_MM, 3.0)])
    ids, scores = regions_of(data)
    affine = data["pred"].affine.clone()
    for axis in flipped:
        affine[:3, 3] += affine[:3, axis] * (cage.mask.shape[axis] - 1)
        affine[:3, axis] *= -1
    turned = {
        key: MetaTensor(data[key].as_tensor().flip([axis + 1 for axis in flipped]), affine=affine)
        for key in ("image", "pred")
    }
    other_ids, other_scores = regions_of({**data, **turned})
    assert other_scores == pytest.approx(scores, abs=1e-5)
    assert np.array_equal(np.flip(other_ids, flipped), ids)


def test_a_rib_at_the_border_of_the_scan(straightened, cage):
    data = data_of(straightened, cage, logits=[(6, 0.0, 4.0), (6, 168.0, 4.0), (None, 0.0, 2.0)])
    _, scores = regions_of(data, weight=1.0)
    assert scores[:2] == pytest.approx(expit([4.0, 4.0]), abs=1e-5)


# ---- without the look ----


def test_without_weight_the_prediction_stays(straightened, cage):
    data = data_of(straightened, cage, [(ball(cage, on_rib(55.0)), 0.9)])
    assert PoolRegionsd("pred", None, CANDIDATES, weight=0.0)(data)["pred"] is data["pred"]
    with pytest.raises(ValueError, match="weight"):
        PoolRegionsd("pred", None, CANDIDATES, weight=2)


def test_without_ribs_or_training_the_prediction_stays(straightened, cage, caplog):
    data = data_of(straightened, cage, [(ball(cage, on_rib(55.0)), 0.9)])
    untrained = PoolRegionsd("pred", ResUNet(channels=(2, 3), straight_ribs=True), CANDIDATES)
    without_logits = {**data, "rib_blocks": straightened["rib_blocks"]}
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert untrained(without_logits)["pred"] is data["pred"]
        assert untrained({**data, "rib_blocks": None})["pred"] is data["pred"]
    assert caplog.text.count("no network along the ribs") == 1


class Sure(StraightRibNet):
    """It says yes everywhere."""

    def __init__(self) -> None:
        super().__init__(channels=(1, 1, 1))
        torch.nn.init.ones_(self.head.weight)

    def forward(self, ribs: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return self.pool_positions(positions)[:, :1] * 0 + 4.0


def test_the_network_within_a_network_looks_where_nothing_did_before(straightened, cage):
    whole = ResUNet(channels=(2, 3), straight_ribs=True)
    whole.straight_ribs = Sure()
    data = {**data_of(straightened, cage), "rib_blocks": straightened["rib_blocks"]}
    pooled = PoolRegionsd("pred", whole, CANDIDATES, weight=1.0)(data)["pred"].numpy()
    assert pooled.max() == pytest.approx(0.2 + 0.8 * expit(4.0), abs=1e-4)
    assert whole.straight_ribs.training and (image_of(cage)[pooled[0] > 0] == RIB_HU).any()

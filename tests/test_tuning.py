"""Tests of scripts/metrics/tuning.py and calibration.py: search, choice and calibration, counted on paper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, replace

import numpy as np
import pytest
import torch

from scripts.metrics.calibration import fit_calibration
from scripts.metrics.froc import ScanResult
from scripts.metrics.tuning import Outcome, Setting, coordinate_search, operating_score, outcome_of, ranked
from scripts.metrics.tuning import scores_and_hits as samples_of
from scripts.transforms.candidates import CalibrateScoresd

SETTING = Setting(0.5, 0.0, 0.0, 0.0, 0.0, 0.0, "mean")


def outcome(average_recall: float, candidates: float, setting: Setting = SETTING) -> Outcome:
    return Outcome(setting, 1.0, 0.0, average_recall, candidates, 0.0)


# ---- settings ----


@pytest.mark.parametrize(
    "outcomes, first",
    [
        pytest.param([outcome(0.6, 9), outcome(0.7, 9)], 1, id="the highest recall"),
        pytest.param([outcome(0.7, 9), outcome(0.7, 8)], 1, id="a tie: fewer candidates"),
        pytest.param([outcome(0.7004, 9), outcome(0.7001, 8)], 1, id="a tie to three digits"),
        pytest.param([outcome(0.7014, 9), outcome(0.7001, 8)], 0, id="no tie to three digits"),
        pytest.param([outcome(0.7, 9), outcome(0.7, 9)], 0, id="alike in both: the first"),
    ],
)
def test_the_best_setting(outcomes: list[Outcome], first: int) -> None:
    assert ranked(outcomes)[0] is outcomes[first]


@pytest.mark.parametrize(
    "changed, plain",
    [
        pytest.param({"low_threshold": 0.6}, {"low_threshold": 0.0}, id="a low threshold that is not lower"),
        pytest.param({"low_threshold": 0.2}, {"low_threshold": 0.2}, id="a lower one"),
        pytest.param({"peak_share": 0.6}, {"peak_share": 0.0}, id="a share that is not above the threshold"),
        pytest.param({"peak_share": 0.8}, {"peak_share": 0.8}, id="a share above it"),
        pytest.param({"min_mean_probability": 0.6}, {"min_mean_probability": 0.0}, id="a mean that all have"),
        pytest.param(
            {"min_mean_probability": 0.6, "low_threshold": 0.2},
            {"min_mean_probability": 0.6, "low_threshold": 0.2},
            id="a mean that those above the low threshold lack",
        ),
    ],
)
def test_values_that_change_nothing_are_zero(changed: dict[str, float], plain: dict[str, float]) -> None:
    setting = replace(SETTING, threshold=0.6)
    assert replace(setting, **changed).plain == replace(setting, **plain)


class Asked:
    """Settings that were scored, by a function of them."""

    def __init__(self, recall: Callable[[Setting], float]) -> None:
        self.recall = recall
        self.settings: list[Setting] = []

    def __call__(self, setting: Setting) -> Outcome:
        self.settings.append(setting)
        return outcome(self.recall(setting), 1.0, setting)


def test_the_search_ends_when_no_single_change_helps() -> None:
    # the best volume depends on the threshold: 100 mm3 at 0.7, but 0 at 0.5, where the search begins
    def recall(setting: Setting) -> float:
        return (
            0.5 + (setting.threshold == 0.7) * 0.2 + (setting.min_volume_mm3 == 100 * (setting.threshold == 0.7)) * 0.1
        )

    asked = Asked(recall)
    outcomes = coordinate_search(asked, [SETTING], {"min_volume_mm3": [50.0, 100.0], "threshold": [0.5, 0.7]}, most=99)
    best = ranked(outcomes)[0]
    assert (best.setting.threshold, best.setting.min_volume_mm3) == (0.7, 100.0)
    assert best.average_recall == pytest.approx(0.8)
    # the start; 50 and 100 at 0.5; 0 at 0.7; in the second round 50 and 100 at 0.7
    assert len(asked.settings) == len(set(asked.settings)) == len(outcomes) == 6


def test_a_tie_keeps_the_present_value() -> None:
    outcomes = coordinate_search(
        Asked(lambda setting: 0.7), [SETTING], {"threshold": [0.3, 0.7], "min_volume_mm3": [9.0]}, most=99
    )
    assert ranked(outcomes)[0].setting == SETTING and len(outcomes) == 4


def test_of_settings_that_tie_the_one_with_the_fewest_changes_is_chosen() -> None:
    # all others find more than the present one, and alike; fewer candidates do not outweigh a change more
    outcomes = [outcome(0.6, 9.0, SETTING)]
    outcomes += [outcome(0.7, 1.0, replace(SETTING, threshold=0.005, min_volume_mm3=50.0))]
    outcomes += [outcome(0.7, 5.0, replace(SETTING, threshold=0.3)), outcome(0.7, 4.0, replace(SETTING, threshold=0.2))]
    assert [outcomes.index(its) for its in ranked(outcomes)] == [3, 2, 1, 0]


@pytest.mark.parametrize("candidates", [0.0, 1.0, 2.0], ids=["fewer candidates", "as many", "more"])
def test_a_tie_in_recall_keeps_the_present_setting(candidates: float) -> None:
    outcomes = [outcome(0.7, 1.0, SETTING), outcome(0.7004, candidates, replace(SETTING, threshold=0.005))]
    assert ranked(outcomes)[0].setting == SETTING


def test_the_search_returns_to_a_value_of_the_start() -> None:
    # a volume of 9 helps at 0.5 alone, and 0.7 is better than it: there the start's volume is better again
    gains = {(0.5, 0.0): 0.5, (0.5, 9.0): 0.6, (0.7, 9.0): 0.7, (0.7, 0.0): 0.8}
    asked = Asked(lambda setting: gains[setting.threshold, setting.min_volume_mm3])
    outcomes = coordinate_search(asked, [SETTING], {"min_volume_mm3": [9.0], "threshold": [0.7]}, most=99)
    assert ranked(outcomes)[0].average_recall == 0.8


def test_a_second_start_finds_what_two_changes_at_once_would() -> None:
    # 0.7 and 9 mm3 help together alone
    asked = Asked(lambda setting: 0.8 if (setting.threshold, setting.min_volume_mm3) == (0.7, 9.0) else 0.7)
    other, values = replace(SETTING, threshold=0.9, min_volume_mm3=9.0), {"threshold": [0.7], "min_volume_mm3": [9.0]}
    assert ranked(coordinate_search(asked, [SETTING], values, most=99))[0].setting == SETTING
    best = ranked(coordinate_search(asked, [SETTING, other], values, most=99))[0].setting
    assert (best.threshold, best.min_volume_mm3) == (0.7, 9.0)


def test_the_search_stops_at_the_most_settings() -> None:
    asked = Asked(lambda setting: setting.threshold)
    outcomes = coordinate_search(asked, [SETTING], {"threshold": [0.51, 0.52, 0.53, 0.54]}, most=3)
    assert [each.setting.threshold for each in outcomes] == [0.5, 0.51, 0.52] and len(asked.settings) == 3


def test_what_changes_nothing_is_not_scored_again() -> None:
    asked = Asked(lambda setting: 0.7)
    coordinate_search(asked, [SETTING], {"peak_share": [0.0, 0.1, 0.4, 0.5, 0.6]}, most=99)
    assert [setting.peak_share for setting in asked.settings] == [0.0, 0.6]


def test_a_value_without_effect_does_not_bar_the_way() -> None:
    # at 0.9 a share of 0.8 parts nothing, which costs no change of its own
    start = replace(SETTING, peak_share=0.8)
    outcomes = coordinate_search(Asked(lambda setting: setting.threshold), [start], {"threshold": [0.9]}, most=99)
    assert astuple(ranked(outcomes)[0].setting) == astuple(replace(SETTING, threshold=0.9))


# ---- calibration ----


def test_calibrated_scores_are_the_shares_of_hits() -> None:
    # of 40 candidates with the score 0.9, 30 are hits; of 40 with 0.6, 10 are
    scores = np.repeat([0.9, 0.6], 40)
    is_hit = np.tile(np.arange(40), 2) < np.repeat([30, 10], 40)
    slope, intercept = fit_calibration(scores, is_hit)
    calibrated = CalibrateScoresd("s", slope, intercept)({"s": torch.tensor([0.9, 0.6])})["s"]
    assert calibrated.tolist() == pytest.approx([3 / 4, 1 / 4], abs=2e-3)


@pytest.mark.parametrize(
    "hits, misses", [pytest.param(9, 50, id="nine hits"), pytest.param(50, 9, id="nine misses"), (0, 0)]
)
def test_too_few_candidates_are_not_calibrated(hits: int, misses: int) -> None:
    assert fit_calibration(np.full(hits + misses, 0.5), np.arange(hits + misses) < hits) is None


@pytest.mark.parametrize(
    "hit_score, miss_score",
    [
        pytest.param(0.2, 0.9, id="misses score higher"),
        pytest.param(0.9, 0.2, id="scores that part them wholly"),
        pytest.param(1.0, 0.0, id="scores of 0 and 1"),
    ],
)
def test_the_slope_is_positive_and_finite(hit_score: float, miss_score: float) -> None:
    is_hit = np.arange(40) < 20
    slope, intercept = fit_calibration(np.where(is_hit, hit_score, miss_score), is_hit)
    assert 0 < slope < 20 and abs(intercept) < 20


# ---- outcomes ----


def scan(scores: list[float], hits: list[int], missed: int = 0) -> ScanResult:
    """A scan of these candidates, of which some (by index) hit a fracture each, and fractures that none hits."""
    best_fracture = np.full(len(scores), -1)
    best_fracture[hits] = np.arange(len(hits))
    return ScanResult(
        fracture_codes=np.full(len(hits) + missed, -1),
        candidate_codes=np.full(len(scores), -1),
        label_scores=np.array(scores, dtype=float),
        best_fracture=best_fracture,
        best_overlap=(best_fracture >= 0).astype(float),
        candidate_voxels=len(scores),
        fracture_voxels=len(hits) + missed,
        shared_voxels=len(hits),
    )


def test_an_outcome_counted_by_hand() -> None:
    # one hit at 0.9 and a false one at 0.8, and a scan without a fracture that has 3 candidates
    sets = [[scan([0.9, 0.8], [0]), scan([0.7, 0.7, 0.7], [])]]
    # recall is 1 from 0 false positives on
    assert outcome_of(SETTING, sets) == Outcome(SETTING, 1.0, 0.0, pytest.approx(1.0), 2.5, 3.0)


def test_sets_count_alike_and_the_worst_ones_false_candidates_count() -> None:
    found, missed = [scan([0.9], [0]), scan([0.9], [])], [scan([], [], missed=1), scan([], []), scan([], [])]
    result = outcome_of(SETTING, [found, missed])
    assert result.average_recall == pytest.approx(1 / 2)
    assert result.candidates_per_scan == 2 / 5 and result.false_candidates_per_scan == 1.0


def test_where_all_scans_have_fractures_candidates_that_hit_none_are_false() -> None:
    sets = [[scan([0.9, 0.8, 0.7], [1]), scan([0.9], [0])]]
    assert outcome_of(SETTING, sets).false_candidates_per_scan == 2 / 2


@pytest.mark.parametrize(
    "most, score",
    [
        pytest.param(3.0, 0.0, id="all"),
        pytest.param(2.0, 0.61, id="the least score above the third one"),
        pytest.param(0.0, 0.83, id="none"),
        pytest.param(-1.0, None, id="cannot be"),
    ],
)
def test_the_score_from_which_on_candidates_are_written(most: float, score: float | None) -> None:
    # 3 false candidates in the scan without a fracture; those of the other do not count
    sets = [[scan([0.9, 0.8], [0]), scan([0.605, 0.705, 0.825], [])]]
    assert operating_score(sets, outcome_of(SETTING, sets, (1.0, 0.0)), most) == score


def test_what_is_less_likely_a_fracture_than_not_is_not_written_where_scores_are_calibrated() -> None:
    sets = [[scan([0.9, 0.8], [0]), scan([0.605], [])]]
    calibrated = outcome_of(SETTING, sets, (2.0, 0.0))
    assert operating_score(sets, calibrated, 2.0) == 0.5 and operating_score(sets, calibrated, 2.0, 0.3) == 0.3
    # 0.605 becomes 1 / (1 + (0.395 / 0.605)^2) = 0.701
    assert operating_score(sets, calibrated, 0.0) == 0.71


# Ten hits of scores in one step of 0.01, and ten misses below them in the same step, in one scan.
CROWDED = scan([0.9991 + 0.00004 * i for i in range(20)], list(range(10, 20)))


def test_crowded_scores_are_spread() -> None:
    sets = [[CROWDED, scan([], [])]]
    plain, fitted = outcome_of(SETTING, sets, (1.0, 0.0)), outcome_of(SETTING, sets)
    # all 20 pass every threshold up to 0.99: the curve is one point, 10 false positives in 2 scans, right of 4
    assert plain.average_recall == pytest.approx(1 / 5)
    assert fitted.slope != 1 and fitted.average_recall > 0.8


def test_a_calibration_that_would_lower_the_recall_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    # most misses score higher than hits, so the fit's slope is the least one: it puts hits of 0.60 and misses of 0.58,
    # 3 and 5 false positives per scan, into one step, between which lies the recall at 4
    mixed = scan([0.9] * 30 + [0.6 + 0.01 * i for i in range(20)] + [0.58] * 20, list(range(30, 50)))
    sets = [[mixed, *[scan([], [])] * 9]]
    slope, _ = fit_calibration(*samples_of(sets))
    result = outcome_of(SETTING, sets)
    assert slope == 0.05 and (result.slope, result.intercept) == (1.0, 0.0)
    monkeypatch.setattr("scripts.metrics.tuning.CALIBRATION_COST", 1.0)
    assert outcome_of(SETTING, sets).slope == 0.05

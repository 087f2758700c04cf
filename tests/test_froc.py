"""Tests of scripts/metrics/froc.py: every expected number is counted on paper; the counts stand beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pytest
from scipy import ndimage

from scripts.data.ribfrac import CHALLENGE_THRESHOLDS
from scripts.metrics.froc import (
    ScanResult,
    bootstrap_intervals,
    challenge_scores,
    classification_scores,
    detection_scores,
    froc_curve,
    instance_overlaps,
    recall_at,
    score_scan,
    segmentation_scores,
)

# The evaluator's 1e-8 in each sum moves a ratio of small numbers by no more.
TOLERANCE = 1e-7


def line(ids: str) -> np.ndarray:
    """A row of voxels, an id each, as a volume ``(n, 1, 1)``."""
    return np.array([int(voxel) for voxel in ids], dtype=np.uint8)[:, None, None]


def scan(
    codes: Sequence[int] = (),
    candidates: Sequence[tuple[float, int, float]] = (),
    candidate_codes: Sequence[int] | None = None,
    voxels: tuple[int, int, int] = (0, 0, 0),
) -> ScanResult:
    """A scan's result from its fractures' codes and its candidates as (score, best fracture or -1, overlap)."""
    scores, best, overlap = (np.array([candidate[i] for candidate in candidates]) for i in range(3))
    return ScanResult(
        fracture_codes=np.array(codes, dtype=int),
        candidate_codes=np.array([-1] * len(candidates) if candidate_codes is None else candidate_codes, dtype=int),
        label_scores=scores.astype(float),
        best_fracture=best.astype(int),
        best_overlap=overlap.astype(float),
        candidate_voxels=voxels[0],
        fracture_voxels=voxels[1],
        shared_voxels=voxels[2],
    )


# ---- overlaps ----


@pytest.mark.parametrize(
    "label, pred, expected",
    [
        pytest.param("01111000", "00011110", [[2 / 6]], id="two shared voxels of a union of six"),
        pytest.param("11100", "00111", [[1 / 5]], id="one shared voxel of a union of five is 0.2"),
        pytest.param("11111111", "01101110", [[3 / 8]], id="of two shared pieces the last counts, here the larger"),
        pytest.param("11111111", "01110110", [[2 / 8]], id="of two shared pieces the last counts, here the smaller"),
        pytest.param(
            "11112222", "00111110", [[5 / 8, 0]], id="a piece across two fractures counts for its first voxel"
        ),
        pytest.param("11111111", "01112220", [[6 / 8], [0]], id="touching candidates share one piece"),
        pytest.param("11100000", "11100222", [[3 / 3], [0]], id="a candidate elsewhere is no part of the union"),
        pytest.param("11100000", "11122200", [[3 / 6], [0]], id="a candidate that touches is part of the union"),
        pytest.param("1110222", "0011100", [[1 / 7, 1 / 7]], id="two pieces in thin volumes, one voxel each"),
        pytest.param("11100022", "00000000", np.zeros((0, 2)), id="nothing predicted"),
        pytest.param("00000000", "01102200", np.zeros((2, 0)), id="nothing annotated"),
        pytest.param("11100000", "00002200", [[0]], id="nothing shared"),
    ],
)
def test_overlap_counted_on_a_row_of_voxels(label: str, pred: str, expected: Sequence[Sequence[float]]) -> None:
    np.testing.assert_allclose(instance_overlaps(line(pred), line(label)).overlap, expected, atol=TOLERANCE)


def test_voxels_that_touch_at_a_corner_are_one_piece() -> None:
    label = np.zeros((3, 3, 3), np.uint8)
    label[0, 0, 0] = label[1, 1, 1] = label[2, 2, 2] = 1
    pred = label * (np.arange(3) > 0)
    assert instance_overlaps(pred, label).overlap[0, 0] == pytest.approx(2 / 3)


def test_ids_above_255_stay_distinct() -> None:
    # As uint8, 300 and 256 would read 44 and 0.
    label, pred = np.zeros((2, 9, 2, 1), np.uint16)
    label[:3], label[4:6], label[7:] = 44, 300, 256
    pred[:3], pred[7:] = 256, 300
    found = instance_overlaps(pred, label)
    assert found.candidate_ids.tolist() == [256, 300]
    assert found.fracture_ids.tolist() == [44, 256, 300]
    # Candidate 256 is fracture 44, candidate 300 is fracture 256; fracture 300 is missed.
    np.testing.assert_allclose(found.overlap, [[1, 0, 0], [0, 1, 0]], atol=TOLERANCE)


def overlap_by_loops(pred: np.ndarray, label: np.ndarray, candidates: int, fractures: int) -> np.ndarray:
    """The rule once more, plainly."""
    neighbors = np.ones((3, 3, 3))
    union, _ = ndimage.label((pred > 0) | (label > 0), neighbors)
    shared, pieces = ndimage.label((pred > 0) & (label > 0), neighbors)
    voxels = np.argwhere(shared > 0).tolist()
    first = {piece: next(tuple(v) for v in voxels if shared[tuple(v)] == piece) for piece in range(1, pieces + 1)}
    overlap = np.zeros((candidates, fractures))
    for piece, anchor in sorted(first.items(), key=lambda item: item[1]):
        overlap[pred[anchor] - 1, label[anchor] - 1] = (shared == piece).sum() / (union == union[anchor]).sum()
    return overlap


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("seed", range(5))
def test_overlap_equals_plain_loops_in_either_memory_order(seed: int, order: Literal["C", "F"]) -> None:
    rng = np.random.default_rng(seed)
    volumes = []
    for n in (7, 5):
        ids = np.zeros((16, 14, 12), np.int16)
        for instance in range(1, n + 1):
            start = rng.integers(0, 8, 3)
            ids[tuple(slice(a, a + b) for a, b in zip(start, rng.integers(2, 6, 3)))] = instance
        ids[rng.random(ids.shape) < 0.35] = 0
        volumes.append(np.asarray(ids, order=order))
    pred, label = volumes
    assert set(np.unique(pred)) == set(range(8)) and set(np.unique(label)) == set(range(6))
    expected = overlap_by_loops(pred, label, 7, 5)
    assert (expected > 0).any()
    np.testing.assert_allclose(instance_overlaps(pred, label).overlap, expected, atol=TOLERANCE)


@pytest.mark.parametrize(
    "pred, label, message",
    [
        pytest.param(line("011"), line("01"), "shape", id="another grid"),
        pytest.param(-line("011").astype(int), line("011"), "candidate id -1 is negative", id="negative id"),
    ],
)
def test_overlap_refuses(pred: np.ndarray, label: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        instance_overlaps(pred, label)


# ---- one scan ----


def test_best_match_is_the_first_of_equal_fractures() -> None:
    # The candidate shares a voxel with each fracture in a union of seven.
    result = score_scan(line("1110222"), line("1110222"), {1: 0.5, 2: 0.25}, {1: 2, 2: 0}, {1: 3, 2: -1})
    assert result.best_fracture.tolist() == [0, 1]
    assert result.candidate_codes.tolist() == [2, 0] and result.fracture_codes.tolist() == [3, -1]
    tied = score_scan(line("0011100"), line("1110222"), {1: 0.5})
    # Pieces at voxel 2 (fracture 1) and voxel 4 (fracture 2), each 1 of 7.
    assert tied.best_fracture.tolist() == [0] and tied.best_overlap[0] == pytest.approx(1 / 7)
    assert (tied.candidate_voxels, tied.fracture_voxels, tied.shared_voxels) == (3, 6, 2)


@pytest.mark.parametrize(
    "scores, pred_codes, label_codes, message",
    [
        pytest.param({}, None, None, "holds candidate 1, the table has no row", id="candidate without a score"),
        pytest.param(
            {1: 0.5, 2: 0.5}, None, None, "candidate 2, the volume has no voxel", id="score without a candidate"
        ),
        pytest.param({1: 0.5}, None, {}, "holds fracture 1, the table has no row", id="fracture without a code"),
        pytest.param({1: 0.5}, None, {1: 1, 2: 1}, "fracture 2, the volume has no voxel", id="code without a fracture"),
        pytest.param({1: 1.5}, None, None, "score 1.5", id="score above 1"),
        pytest.param({1: float("nan")}, None, None, "score nan", id="score not a number"),
        pytest.param({1: 0.5}, {1: 7}, None, "candidate 1 has the class code 7", id="unknown class of a candidate"),
        pytest.param({1: 0.5}, None, {1: 0}, "fracture 1 has the class code 0", id="a fracture is no background"),
    ],
)
def test_scan_refuses_tables_that_do_not_fit(
    scores: Mapping[int, float],
    pred_codes: Mapping[int, int] | None,
    label_codes: Mapping[int, int] | None,
    message: str,
) -> None:
    with pytest.raises(ValueError, match=message):
        score_scan(line("0110"), line("0011"), scores, pred_codes, label_codes)


# ---- FROC curve ----

HIT = 0.5


@pytest.mark.parametrize(
    "results, thresholds, fp, recall",
    [
        pytest.param([scan([1, 1])], [0], [0], [0], id="nothing predicted"),
        pytest.param([scan([], [(0.5, -1, 0)]), scan()], [0], [1 / 2], [1], id="nothing annotated: recall is 1"),
        pytest.param([scan([1, 1], [(0.9, 0, 1), (0.8, 1, 1)])], [0, 0.85], [0, 0], [1, 1 / 2], id="everything hit"),
        pytest.param([scan([1, 1], [(0.9, -1, 0)])], [0], [1], [0], id="no candidate hits"),
        pytest.param(
            [scan([1, 1], [(0.9, 0, HIT), (0.3, 0, HIT)])],
            [0, 0.5],
            [0, 0],
            [1 / 2, 1 / 2],
            id="a second candidate on a fracture is neither true nor false",
        ),
        pytest.param(
            [scan([1], [(0.3, 0, HIT), (0.9, 0, HIT)])], [0.5], [0], [1], id="a fracture counts at its best score"
        ),
        pytest.param(
            [scan([1], [(0.5, 0, HIT)])], [0.5, 0.51], [0, 0], [1, 0], id="a score at the threshold takes part"
        ),
        pytest.param([scan([1], [(0.5, 0, 0.2)])], [0], [1], [0], id="an overlap of 0.2 is no hit"),
        pytest.param([scan([1], [(0.5, 0, 0.2001)])], [0], [0], [1], id="an overlap above 0.2 is a hit"),
        pytest.param(
            [scan([1], [(0.5, 0, HIT), (0.5, -1, 0)])],
            [0.4, 0.5, 0.6],
            [1, 1, 0],
            [1, 1, 0],
            id="tied candidates come and go together",
        ),
        pytest.param(
            [scan([1, 2], [(0.9, 0, HIT), (0.6, -1, 0)]), scan(), scan([3], [(0.7, -1, 0)])],
            [0, 0.65, 0.8],
            [2 / 3, 1 / 3, 0],
            [1 / 3, 1 / 3, 1 / 3],
            id="false positives are a mean over all scans, the empty one included",
        ),
    ],
)
def test_curve_counted_on_paper(
    results: Sequence[ScanResult], thresholds: Sequence[float], fp: Sequence[float], recall: Sequence[float]
) -> None:
    found_fp, found_recall = froc_curve(results, np.array(thresholds))
    np.testing.assert_allclose(found_fp, fp, atol=TOLERANCE)
    np.testing.assert_allclose(found_recall, recall, atol=TOLERANCE)


def test_candidate_of_a_twice_overlapped_scan_from_voxels_to_curve() -> None:
    # Fracture 1 has 6 voxels, candidates 1 and 2 take 3 each of its two ends: both touch, one piece of 6 of 6, counted
    # for candidate 1; candidate 2 hits nothing and is a false positive.
    touching = score_scan(line("1112220"), line("1111110"), {1: 0.9, 2: 0.8})
    np.testing.assert_allclose(np.ravel(froc_curve([touching], np.array([0.0]))), [1, 1], atol=TOLERANCE)
    # Apart, with a voxel between them, each has 3 of 7: both hit, none is a false positive.
    apart = score_scan(line("1110222"), line("1111111"), {1: 0.9, 2: 0.8})
    np.testing.assert_allclose(np.ravel(froc_curve([apart], np.array([0.0]))), [0, 1], atol=TOLERANCE)


def test_thresholds_are_the_challenges() -> None:
    assert len(CHALLENGE_THRESHOLDS) == 100
    assert CHALLENGE_THRESHOLDS[[0, 25, 99]].tolist() == pytest.approx([0, 0.25, 0.99])


@pytest.mark.parametrize(
    "fp, recall, key, expected",
    [
        pytest.param([3, 1], [0.8, 0.4], 2, 0.6, id="halfway between two points"),
        pytest.param([3, 1], [0.8, 0.4], 3, 0.8, id="on a point"),
        pytest.param([3, 1], [0.8, 0.4], 0.5, 0, id="the curve starts to the right"),
        pytest.param([3, 1], [0.8, 0.4], 8, 0.8, id="the curve ends to the left"),
        pytest.param([3, 2, 1], [0.5, 0.7, 0.4], 8, 0.7, id="beyond the end the maximum counts, not the last"),
        pytest.param([1, 1, 3], [0.4, 0.2, 0.8], 2, 0.6, id="from the top of a vertical step on the left"),
        pytest.param([1, 3, 3], [0.4, 0.8, 0.6], 2, 0.5, id="to the foot of a vertical step on the right"),
        pytest.param([1], [0.4], 1, 0.4, id="a single point"),
    ],
)
def test_recall_between_points(fp: Sequence[float], recall: Sequence[float], key: float, expected: float) -> None:
    assert recall_at(np.array(fp, float), np.array(recall, float), [key])[0] == pytest.approx(expected, abs=TOLERANCE)


def test_four_false_positives_in_eight_scans_lie_right_of_a_half() -> None:
    # The evaluator's 1e-8 makes 4/8 a little more than 0.5, so that the curve starts to the right of that point.
    results = [scan([1], [(1.0, 0, HIT)])] + [scan([], [(1.0, -1, 0)])] * 4 + [scan()] * 3
    detection = detection_scores(results)
    assert detection["key_recall"] == pytest.approx([0, 1, 1, 1, 1], abs=TOLERANCE)
    assert detection["average_recall"] == pytest.approx(4 / 5, abs=TOLERANCE)
    assert detection["average_fp_at_max_recall"] == pytest.approx(1 / 2, abs=TOLERANCE)


@pytest.mark.parametrize(
    "results, average, maximum",
    [
        pytest.param([scan([1]), scan()], 0, 0, id="nothing predicted"),
        pytest.param([scan(), scan()], 1, 1, id="nothing annotated, nothing predicted"),
        pytest.param([scan([1, 2], [(0.9, 0, 1), (0.4, 1, 1)])], 1, 1, id="everything hit, no false positive"),
        # One scan with 3 false positives and a hit, all at one score: a single point at 3 and, above it, one at 0.
        # Recall at 0.5, 1, 2 is 1/6, 1/3, 2/3, then 1 and 1: 19/30 on average.
        pytest.param([scan([1], [(0.5, 0, 1)] + [(0.5, -1, 0)] * 3)], 19 / 30, 1, id="a tie between hit and misses"),
    ],
)
def test_detection_scores(results: Sequence[ScanResult], average: float, maximum: float) -> None:
    detection = detection_scores(results)
    assert detection["average_recall"] == pytest.approx(average, abs=TOLERANCE)
    assert detection["max_recall"] == pytest.approx(maximum, abs=TOLERANCE)


def test_exact_thresholds_keep_recall_between_steps() -> None:
    # The hit scores above the miss, both between 0.99 and 1: the challenge's steps cannot part them.
    results = [scan([1], [(0.996, 0, 1), (0.994, -1, 0)])]
    details = challenge_scores(results, exact_thresholds=True, bootstrap=0)
    assert details["detection"]["key_recall"] == pytest.approx([0, 1, 1, 1, 1], abs=TOLERANCE)
    exact = details["detection_exact_thresholds"]
    assert exact["thresholds"] == [0, 0.994, 0.996]
    assert exact["key_recall"] == pytest.approx([1, 1, 1, 1, 1], abs=TOLERANCE)
    assert "bootstrap" not in details


def test_exact_thresholds_add_no_origin() -> None:
    # A hit and a miss at one score. The challenge's steps go beyond it, to (0, 0), and half a recall lies between.
    details = challenge_scores([scan([1], [(0.5, 0, 1), (0.5, -1, 0)])], exact_thresholds=True, bootstrap=0)
    assert details["detection"]["key_recall"] == pytest.approx([1 / 2, 1, 1, 1, 1], abs=TOLERANCE)
    exact = details["detection_exact_thresholds"]
    assert exact["fp"] == pytest.approx([1, 1], abs=TOLERANCE)
    assert exact["key_recall"] == pytest.approx([0, 1, 1, 1, 1], abs=TOLERANCE)


def test_no_scan_is_an_error() -> None:
    with pytest.raises(ValueError, match="no scan"):
        challenge_scores([])


# ---- classification and segmentation ----


def test_confusion_matrix_counted_on_paper() -> None:
    result = scan(
        codes=[1, 2, -1, 3],
        candidates=[(0.9, 0, 0.05), (0.9, -1, 0), (0.9, 1, HIT), (0.9, 2, HIT), (0.0, -1, 0)],
        candidate_codes=[1, 2, -1, 4, 1],
    )
    scores = classification_scores([result, scan([2])])
    assert scores["confusion_matrix"] == {
        "rows": ["Buckle", "Displaced", "Nondisplaced", "Segmental", "FN"],
        "columns": ["Buckle", "Displaced", "Nondisplaced", "Segmental", "FP", "Ignore"],
        # Displaced: one on its fracture (however little), one on nothing; nondisplaced: on nothing; segmental: on the
        # fracture of unknown type; the candidate without a class fills no cell. Buckle, and the second scan's, missed.
        "values": [[0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 1, 0], [0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1], [1, 0, 1, 0, 0, 0]],
    }
    # Displaced: precision 1/2, recall 1, F1 2/3; the others 0; the mean is over four classes.
    assert scores["macro_average_F1"] == pytest.approx(2 / 3 / 4, abs=TOLERANCE)
    assert scores["target_aware_F1"] == pytest.approx(1 / 4, abs=TOLERANCE)
    assert scores["prediction_aware_F1"] == pytest.approx(1 / 4, abs=TOLERANCE)


def test_prediction_aware_f1_leaves_missed_fractures_out() -> None:
    # Two displaced fractures, one found: recall 1/2, F1 2/3; without the missed one 1.
    scores = classification_scores([scan([1, 1], [(0.9, 0, HIT)], [1])])
    assert scores["target_aware_F1"] == pytest.approx(2 / 3 / 4, abs=TOLERANCE)
    assert scores["prediction_aware_F1"] == pytest.approx(1 / 4, abs=TOLERANCE)


def test_candidates_without_class_leave_only_missed_fractures() -> None:
    scores = classification_scores([scan([1, 4, 4], [(0.9, 1, HIT), (0.8, -1, 0)])])
    matrix = np.array(scores["confusion_matrix"]["values"])
    assert matrix[:4].sum() == 0 and matrix[4].tolist() == [0, 1, 0, 1, 0, 0]
    assert [scores[key] for key in scores if key.endswith("F1")] == [0, 0, 0]


@pytest.mark.parametrize(
    "voxels, dice, iou",
    [
        pytest.param([(6, 4, 2), (2, 0, 0)], 4 / 12, 2 / 10, id="voxels of all scans together"),
        pytest.param([(0, 0, 0)], 0, 0, id="neither candidate nor fracture"),
        pytest.param([(5, 5, 5)], 1, 1, id="the same voxels"),
    ],
)
def test_segmentation_scores(voxels: Sequence[tuple[int, int, int]], dice: float, iou: float) -> None:
    scores = segmentation_scores([scan(voxels=counts) for counts in voxels])
    assert scores == pytest.approx({"dice": dice, "iou": iou}, abs=TOLERANCE)


# ---- bootstrap ----


@pytest.mark.parametrize("scans", [1, 2, 5])
@pytest.mark.parametrize("fractures", [[1], [1, 1]], ids=["all found", "half found"])
def test_scans_that_are_all_alike_have_no_interval(scans: int, fractures: list[int]) -> None:
    details = challenge_scores([scan(fractures, [(1.0, 0, HIT)])] * scans, bootstrap=50)
    assert details["bootstrap"] is None


def test_bootstrap_of_one_good_and_one_bad_scan_spans_everything() -> None:
    # One draw in four takes the good scan twice, one in four the bad one twice: both ends lie inside the 95 %.
    results = [scan([1], [(1.0, 0, HIT)]), scan([1])]
    intervals = bootstrap_intervals(results, draws=400, seed=3)
    assert intervals is not None
    assert intervals["max_recall"] == pytest.approx([0, 1], abs=TOLERANCE)
    assert intervals["curve"]["recall_upper"][-1] == pytest.approx(1, abs=TOLERANCE)
    assert intervals == bootstrap_intervals(results, draws=400, seed=3)


def test_bootstrap_leaves_out_draws_without_a_fracture() -> None:
    # A draw of the empty scan alone would have recall 1, though the only fracture is never found.
    # With it the average recall would spread from 0 to 1; without it, it is 0 in all draws, which are no interval.
    assert bootstrap_intervals([scan([1]), scan()], draws=400) is None
    assert bootstrap_intervals([scan(), scan()]) is None

"""
The RibFrac challenge's score of detected rib fractures, on arrays.

The rule is the one of the challenge's public evaluator (github.com/M3DV/RibFrac-Challenge), implemented anew. MONAI's
``compute_froc_curve_data`` has no rule of overlap and drops the lowest score, so it cannot stand in. Two cases differ
from the evaluator on purpose: instance ids above 255 stay distinct (it reads masks as uint8, so that 257 becomes 1),
and an id that neither the volume nor the table holds is no fracture (it counts fractures by the largest id).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

from scripts.anatomy.components import connected_components
from scripts.data.ribfrac import (
    CHALLENGE_THRESHOLDS,
    CLASS_NAMES,
    KEY_FALSE_POSITIVES,
    MATRIX_CODES,
    MIN_OVERLAP,
    UNKNOWN_CLASS,
)

__all__ = [
    "InstanceOverlaps",
    "ScanResult",
    "bootstrap_intervals",
    "challenge_scores",
    "classification_scores",
    "detection_scores",
    "froc_curve",
    "instance_overlaps",
    "recall_at",
    "score_scan",
    "segmentation_scores",
]

# Added to its counts against division by zero. It belongs to the rule: with it, 4 false positives in 8 scans lie just
# right of 0.5, and recall where nothing is annotated is 1.
EPSILON = 1e-8


class InstanceOverlaps(NamedTuple):
    """
    How the candidates of one scan overlap its fractures.

    Args:
        candidate_ids: ids of the candidates, ascending, shape ``(candidates,)``.
        fracture_ids: ids of the fractures, ascending, shape ``(fractures,)``.
        overlap: overlap in [0, 1], shape ``(candidates, fractures)``.
        candidate_voxels: number of voxels in all candidates.
        fracture_voxels: number of voxels in all fractures.
        shared_voxels: number of voxels in both.
    """

    candidate_ids: np.ndarray
    fracture_ids: np.ndarray
    overlap: np.ndarray
    candidate_voxels: int
    fracture_voxels: int
    shared_voxels: int


@dataclass(frozen=True)
class ScanResult:
    """
    What one scan adds to the scores; every score can be computed from a list of these.

    Args:
        fracture_codes: class code of each fracture, 1 to 4 or -1 for unknown, shape ``(fractures,)``.
        candidate_codes: class code of each candidate, 1 to 4, or -1 or 0 for none, shape ``(candidates,)``.
        label_scores: score of each candidate, in [0, 1], shape ``(candidates,)``.
        best_fracture: index of the fracture that each candidate overlaps most, -1 where it overlaps none.
        best_overlap: that overlap, in [0, 1], shape ``(candidates,)``.
        candidate_voxels: number of voxels in all candidates.
        fracture_voxels: number of voxels in all fractures.
        shared_voxels: number of voxels in both.
        fracture_ids: id of each fracture, ascending, shape ``(fractures,)``; None where no score needs them.
    """

    fracture_codes: np.ndarray
    candidate_codes: np.ndarray
    label_scores: np.ndarray
    best_fracture: np.ndarray
    best_overlap: np.ndarray
    candidate_voxels: int
    fracture_voxels: int
    shared_voxels: int
    fracture_ids: np.ndarray | None = None


def _foreground(volume: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the coordinates of the voxels that are not 0, found in the order in which memory holds them."""
    order: Literal["F", "C"] = "F" if volume.flags.f_contiguous else "C"
    return np.unravel_index(np.flatnonzero(volume.ravel(order=order) != 0), volume.shape, order=order)


def _pieces(coordinates: tuple[np.ndarray, ...]) -> np.ndarray:
    """Return for each voxel of a mask, given by its coordinates, the number of its connected piece, from 1."""
    lower = [axis.min() for axis in coordinates]
    inside = tuple(axis - low for axis, low in zip(coordinates, lower))
    mask = np.zeros([axis.max() + 1 for axis in inside], dtype=bool)
    mask[inside] = True
    return connected_components(mask)[inside].astype(np.int64)


def instance_overlaps(pred: np.ndarray, label: np.ndarray) -> InstanceOverlaps:
    """
    Measure how the candidates of a scan overlap its fractures, by the challenge's rule.

    Each connected piece of what candidates and fractures share (26 neighbors) counts for the candidate and the
    fracture at its first voxel in C order. Its overlap is its size, divided by the size of the connected component
    of all candidates and fractures together that holds it. Where a pair shares several pieces, the last one in C
    order counts. The order of pieces is that of the array, so a flipped scan may differ in such pairs.

    Args:
        pred: ids of the candidates, integer, 0 is background, shape ``(H, W, D)``.
        label: ids of the fractures, likewise.

    Returns:
        Ids, overlaps and numbers of voxels.

    Raises:
        ValueError: when the shapes differ or an id is negative.
    """
    if pred.shape != label.shape:
        raise ValueError(f"candidates have shape {pred.shape}, fractures {label.shape}: predict on the scan's own grid")
    candidate_at, fracture_at = _foreground(pred), _foreground(label)
    candidate_ids = np.unique(pred[candidate_at]).astype(np.int64)
    fracture_ids = np.unique(label[fracture_at]).astype(np.int64)
    for what, ids in (("candidate", candidate_ids), ("fracture", fracture_ids)):
        if ids.size and ids[0] < 0:
            raise ValueError(f"{what} id {ids[0]} is negative: ids are 1 and above, 0 is background")
    overlap = np.zeros((len(candidate_ids), len(fracture_ids)))
    also_fracture = label[candidate_at] != 0
    shared_at = tuple(axis[also_fracture] for axis in candidate_at)
    counts = len(candidate_at[0]), len(fracture_at[0]), len(shared_at[0])
    if counts[2] == 0:
        return InstanceOverlaps(candidate_ids, fracture_ids, overlap, *counts)

    only_fracture_at = tuple(axis[pred[fracture_at] == 0] for axis in fracture_at)
    component = _pieces(tuple(np.concatenate(axes) for axes in zip(candidate_at, only_fracture_at)))
    component_voxels = np.bincount(component)
    shared_component = component[: counts[0]][also_fracture]

    in_c_order = np.argsort(np.ravel_multi_index(shared_at, pred.shape))
    _, first, piece_voxels = np.unique(_pieces(shared_at)[in_c_order], return_index=True, return_counts=True)
    for place in np.argsort(first):
        anchor = in_c_order[first[place]]
        at = tuple(axis[anchor] for axis in shared_at)
        pair = np.searchsorted(candidate_ids, pred[at]), np.searchsorted(fracture_ids, label[at])
        overlap[pair] = piece_voxels[place] / (component_voxels[shared_component[anchor]] + EPSILON)
    return InstanceOverlaps(candidate_ids, fracture_ids, overlap, *counts)


def score_scan(
    pred: np.ndarray,
    label: np.ndarray,
    label_scores: Mapping[int, float],
    pred_codes: Mapping[int, int] | None = None,
    label_codes: Mapping[int, int] | None = None,
) -> ScanResult:
    """
    Match the candidates of one scan with its fractures.

    Args:
        pred: ids of the candidates, integer, 0 is background, shape ``(H, W, D)``.
        label: ids of the fractures, likewise.
        label_scores: score of each candidate by its id, in [0, 1].
        pred_codes: class code of each candidate by its id, 1 to 4, -1 or 0 for none; all -1 without it.
        label_codes: class code of each fracture by its id, 1 to 4 or -1 for unknown; all -1 without it.

    Returns:
        What the scan adds to the scores.

    Raises:
        ValueError: when the ids in a volume and in its table differ, or a score or a code is out of range.
    """
    found = instance_overlaps(pred, label)
    candidate_ids, fracture_ids = found.candidate_ids.tolist(), found.fracture_ids.tolist()
    _check_ids("candidate", candidate_ids, label_scores)
    for instance, score in label_scores.items():
        if not 0 <= score <= 1:
            raise ValueError(f"candidate {instance} has the score {score}: scores lie in [0, 1]")
    codes = []
    for what, ids, table, allowed in (
        ("candidate", candidate_ids, pred_codes, (UNKNOWN_CLASS, 0, *CLASS_NAMES)),
        ("fracture", fracture_ids, label_codes, (UNKNOWN_CLASS, *CLASS_NAMES)),
    ):
        table = dict.fromkeys(ids, UNKNOWN_CLASS) if table is None else table
        _check_ids(what, ids, table)
        codes.append(np.array([int(table[instance]) for instance in ids], dtype=np.int64))
        wrong = [instance for instance, code in zip(ids, codes[-1]) if code not in allowed]
        if wrong:
            raise ValueError(f"{what} {wrong[0]} has the class code {table[wrong[0]]}: codes are {allowed}")
    if fracture_ids:
        best_overlap, best_fracture = found.overlap.max(axis=1), found.overlap.argmax(axis=1)
    else:
        best_overlap, best_fracture = np.zeros(len(candidate_ids)), np.zeros(len(candidate_ids), dtype=np.int64)
    return ScanResult(
        fracture_codes=codes[1],
        candidate_codes=codes[0],
        label_scores=np.array([float(label_scores[instance]) for instance in candidate_ids]),
        best_fracture=np.where(best_overlap > 0, best_fracture, -1),
        best_overlap=best_overlap,
        candidate_voxels=found.candidate_voxels,
        fracture_voxels=found.fracture_voxels,
        shared_voxels=found.shared_voxels,
        fracture_ids=found.fracture_ids,
    )


def _check_ids(what: str, volume_ids: Sequence[int], table: Mapping[int, Any]) -> None:
    """Raise ``ValueError`` when a volume holds other ids than its table."""
    without_row = sorted(set(volume_ids) - set(table))
    if without_row:
        raise ValueError(f"the volume holds {what} {without_row[0]}, the table has no row for it: add the row")
    without_voxel = sorted(set(table) - set(volume_ids))
    if without_voxel:
        raise ValueError(f"the table has a row for {what} {without_voxel[0]}, the volume has no voxel of it: remove it")


def _counts(results: Sequence[ScanResult], thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return true and false positives, each ``(scans, thresholds)``, and fractures ``(scans,)``."""
    true_positives = np.zeros((len(results), len(thresholds)), dtype=np.int64)
    false_positives = np.zeros_like(true_positives)
    for row, result in enumerate(results):
        is_hit = result.best_overlap > MIN_OVERLAP
        # A fracture counts from the threshold on at which its best scored hit appears.
        found_at = np.full(len(result.fracture_codes), -np.inf)
        np.maximum.at(found_at, result.best_fracture[is_hit], result.label_scores[is_hit])
        for total, scores in (
            (true_positives, found_at[np.isfinite(found_at)]),
            (false_positives, result.label_scores[~is_hit]),
        ):
            total[row] = len(scores) - np.searchsorted(np.sort(scores), thresholds, side="left")
    return true_positives, false_positives, np.array([len(result.fracture_codes) for result in results])


def froc_curve(
    results: Sequence[ScanResult], thresholds: np.ndarray = CHALLENGE_THRESHOLDS
) -> tuple[np.ndarray, np.ndarray]:
    """
    Compute the FROC curve: what is found at each threshold of the score.

    A candidate takes part at a threshold when its score is not below it. It is a hit when its best overlap exceeds
    ``MIN_OVERLAP``. Recall counts each fracture once that is the best match of some hit; a false positive is a
    candidate that is no hit; a second hit on a fracture is neither.

    Args:
        results: one per scan, scans without fractures or candidates included.
        thresholds: shape ``(thresholds,)``; the challenge takes 0, 0.01 ... 0.99. The curve has these points alone:
            no origin (0, 0) is added.

    Returns:
        Mean false positives per scan, and recall in [0, 1] (1 where nothing is annotated), each ``(thresholds,)``.

    Raises:
        ValueError: when there is no scan.
    """
    if not results:
        raise ValueError("there is no scan to score: give at least one")
    true_positives, false_positives, fractures = _counts(results, thresholds)
    return (
        (false_positives.sum(axis=0) + EPSILON) / (len(results) + EPSILON),
        (true_positives.sum(axis=0) + EPSILON) / (fractures.sum() + EPSILON),
    )


def recall_at(fp: np.ndarray, recall: np.ndarray, key_fp: Sequence[float] | np.ndarray) -> np.ndarray:
    """
    Read recall off a FROC curve at given numbers of false positives, by linear interpolation.

    Points of one false positive rate are ordered by recall. The evaluator leaves their order to an unstable sort, so
    that its own recall differs between processors where such points lie beside or on ``key_fp``.

    Args:
        fp: mean false positives per scan, shape ``(points,)``, in any order.
        recall: recall, in [0, 1], shape ``(points,)``.
        key_fp: where to read, false positives per scan.

    Returns:
        Recall at each of ``key_fp``: 0 left of the curve's first point, the curve's maximum right of its last.
    """
    order = np.lexsort((recall, fp))
    fp, recall, keys = fp[order], recall[order], np.asarray(key_fp, dtype=float)
    left = np.searchsorted(fp, keys, side="right") - 1
    right = np.searchsorted(fp, keys, side="left")
    starts, ends = np.maximum(left, 0), np.minimum(right, len(fp) - 1)
    share = (keys - fp[starts]) / (fp[ends] - fp[starts] + EPSILON)
    between = recall[starts] + (recall[ends] - recall[starts]) * share
    return np.where(left < 0, 0.0, np.where(right == len(fp), recall.max(), between))


def detection_scores(results: Sequence[ScanResult], thresholds: np.ndarray = CHALLENGE_THRESHOLDS) -> dict[str, Any]:
    """
    Compute the challenge's detection scores, under the evaluator's names.

    Args:
        results: one per scan.
        thresholds: thresholds of the score, shape ``(thresholds,)``.

    Returns:
        ``fp`` and ``recall`` at each threshold, ``key_recall`` at 0.5, 1, 2, 4 and 8 false positives per scan, their
        mean ``average_recall``, ``max_recall``, and ``average_fp_at_max_recall``, the most false positives per scan.
    """
    fp, recall = froc_curve(results, thresholds)
    key_recall = recall_at(fp, recall, KEY_FALSE_POSITIVES)
    return {
        "fp": fp.tolist(),
        "recall": recall.tolist(),
        "key_recall": key_recall.tolist(),
        "average_recall": float(key_recall.mean()),
        "max_recall": float(recall.max()),
        "average_fp_at_max_recall": float(fp.max()),
    }


def classification_scores(results: Sequence[ScanResult]) -> dict[str, Any]:
    """
    Compute the challenge's classification scores, under the evaluator's names.

    Every candidate counts, whatever its score, for the class of the fracture that it overlaps most, however little,
    or for ``FP`` where it overlaps none. A fracture that no candidate has as its best match counts in the row ``FN``.
    Candidates without a class (code -1 or 0) fill no cell, yet the fractures they overlap are no ``FN``: where no
    candidate has a class, the first four rows are 0, and so are the F1 scores.

    Args:
        results: one per scan.

    Returns:
        ``confusion_matrix`` (``rows``, ``columns``, ``values``), ``macro_average_F1``, ``target_aware_F1`` (without
        false positives) and ``prediction_aware_F1`` (without false positives and negatives).
    """
    column_of = {code: column for column, code in enumerate(MATRIX_CODES)} | {0: 4, UNKNOWN_CLASS: 5}
    matrix = np.zeros((5, 6))
    for result in results:
        for code, fracture in zip(result.candidate_codes, result.best_fracture):
            if code in MATRIX_CODES:
                matrix[column_of[code], column_of[result.fracture_codes[fracture] if fracture >= 0 else 0]] += 1
        for code in np.delete(result.fracture_codes, result.best_fracture[result.best_fracture >= 0]):
            matrix[4, column_of[code]] += 1

    right = np.diag(matrix)[:4]
    # Columns 0-3 are the known classes, 4 is FP; fractures of unknown class (5) take no part.
    wrong_class, missed_class = matrix[:4, :4].sum(axis=1) - right, matrix[:4, :4].sum(axis=0) - right
    false_positives, missed = matrix[:4, 4], matrix[4, :4]
    names = [CLASS_NAMES[code] for code in MATRIX_CODES]
    return {
        "confusion_matrix": {"rows": [*names, "FN"], "columns": [*names, "FP", "Ignore"], "values": matrix.tolist()},
        "macro_average_F1": _macro_f1(right, wrong_class + false_positives, missed_class + missed),
        "target_aware_F1": _macro_f1(right, wrong_class, missed_class + missed),
        "prediction_aware_F1": _macro_f1(right, wrong_class, missed_class),
    }


def _macro_f1(right: np.ndarray, false_positive: np.ndarray, false_negative: np.ndarray) -> float:
    """Return the mean over classes of the harmonic mean of precision and recall."""
    precision = right / (right + false_positive + EPSILON)
    recall = right / (right + false_negative + EPSILON)
    return float((2 * precision * recall / (precision + recall + EPSILON)).mean())


def segmentation_scores(results: Sequence[ScanResult]) -> dict[str, float]:
    """
    Compute the challenge's segmentation scores over the voxels of all scans together.

    Args:
        results: one per scan.

    Returns:
        ``dice`` and ``iou`` of all candidates with all fractures, in [0, 1]; 0 where there is neither.
    """
    shared = sum(result.shared_voxels for result in results)
    both = sum(result.candidate_voxels + result.fracture_voxels for result in results)
    return {"dice": 2 * shared / (both + EPSILON), "iou": shared / (both - shared + EPSILON)}


def bootstrap_intervals(results: Sequence[ScanResult], draws: int = 1000, seed: int = 0) -> dict[str, Any] | None:
    """
    Estimate how far the detection scores would vary with other scans: 95 % percentile bootstrap over scans.

    Args:
        results: one per scan.
        draws: how many sets of scans to draw, with replacement; sets without a fracture are left out.
        seed: seed of the draws.

    Returns:
        ``draws``, ``seed``, ``[lower, upper]`` of ``average_recall`` and ``max_recall``, such a pair for each number
        in ``key_recall``, and ``curve``: ``fp`` with ``recall_lower`` and ``recall_upper``. None when nothing is
        annotated, or all draws have one average recall, as of scans that are all alike: that tells nothing of others.

    References:
        Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 13.
    """
    true_positives, false_positives, fractures = _counts(results, CHALLENGE_THRESHOLDS)
    weights = np.random.default_rng(seed).multinomial(len(results), np.full(len(results), 1 / len(results)), draws)
    weights = weights[weights @ fractures > 0]
    if len(weights) == 0:
        return None
    fp = (weights @ false_positives + EPSILON) / (len(results) + EPSILON)
    recall = (weights @ true_positives + EPSILON) / ((weights @ fractures)[:, None] + EPSILON)
    grid = np.linspace(0, KEY_FALSE_POSITIVES[-1], 65)
    read = np.array([recall_at(x, y, np.concatenate([KEY_FALSE_POSITIVES, grid])) for x, y in zip(fp, recall)])
    key_recall, curve = np.split(read, [len(KEY_FALSE_POSITIVES)], axis=1)
    if np.ptp(key_recall.mean(axis=1)) < EPSILON:
        return None
    interval = partial(np.percentile, q=(2.5, 97.5), axis=0)
    lower, upper = interval(curve)
    return {
        "draws": draws,
        "seed": seed,
        "key_recall": interval(key_recall).T.tolist(),
        "average_recall": interval(key_recall.mean(axis=1)).tolist(),
        "max_recall": interval(recall.max(axis=1)).tolist(),
        "curve": {"fp": grid.tolist(), "recall_lower": lower.tolist(), "recall_upper": upper.tolist()},
    }


def challenge_scores(
    results: Sequence[ScanResult], exact_thresholds: bool = False, bootstrap: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """
    Compute everything that ``metrics.json`` holds.

    Args:
        results: one per scan.
        exact_thresholds: add the curve with every score as a threshold: nothing is lost between steps of 0.01. Exact
            thresholds add no artificial origin (0, 0): the curve starts where the best scored candidates are, and
            recall at fewer false positives per scan than there is 0.
        bootstrap: number of draws for the 95 % interval; 0 leaves it out.
        seed: seed of the draws.

    Returns:
        ``counts`` (``scans``, ``fractures``, ``candidates``); ``detection``, ``classification`` and ``segmentation`` as
        the evaluator names them; ``detection_exact_thresholds``, as ``detection`` with its ``thresholds``, and
        ``bootstrap``, see `bootstrap_intervals`, where asked for.

    Raises:
        ValueError: when there is no scan.
    """
    details: dict[str, Any] = {
        "counts": {
            "scans": len(results),
            "fractures": sum(len(result.fracture_codes) for result in results),
            "candidates": sum(len(result.label_scores) for result in results),
        },
        "detection": detection_scores(results),
        "classification": classification_scores(results),
        "segmentation": segmentation_scores(results),
    }
    if exact_thresholds:
        thresholds = np.unique(np.concatenate([[0.0], *(result.label_scores for result in results)]))
        exact = detection_scores(results, thresholds)
        details["detection_exact_thresholds"] = {"thresholds": thresholds.tolist(), **exact}
    if bootstrap:
        details["bootstrap"] = bootstrap_intervals(results, bootstrap, seed)
    return details

"""From probabilities to scored candidates: labeling, splitting, scores, filters, calibration."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform, Transform
from monai.utils import StrEnum, convert_to_dst_type, str2bool
from numpy.typing import NDArray
from scipy import ndimage
from skimage.morphology import local_maxima, reconstruction
from skimage.segmentation import watershed

from scripts.anatomy.components import Box, connected_components, foreground_box, instance_boxes, moved, widened
from scripts.anatomy.rib_cage import RibCage
from scripts.candidates import describe_candidates
from scripts.metrics.calibration import calibrated_scores
from scripts.metrics.ribfrac_froc import scan_result
from scripts.transforms.anatomy import RemoveSpined

__all__ = [
    "CalibrateScoresd",
    "CandidateScore",
    "DescribeCandidatesd",
    "FilterCandidatesd",
    "FindCandidatesd",
    "LabelCandidatesd",
    "MatchCandidatesd",
    "candidate_scores",
    "label_candidates",
    "local_means",
    "local_window",
    "lowest_threshold",
    "mean_probabilities",
    "renumbered",
    "with_low_threshold",
]

# The window of CandidateScore.MAX: about the thickness of a rib, so that a single bright voxel counts little.
LOCAL_MEAN_MM = 5.0
# Two peaks are two fractures only if the smoothed probability between them falls this far below the lower one:
# along one long fracture it varies less.
MIN_DIP = 0.05
# Pieces of a component that make it several candidates: about 140 voxels at RibFrac's median spacing, a twentieth of a
# fracture's mean mask.
MIN_PIECE_MM3 = 100.0


class CandidateScore(StrEnum):
    """
    How a candidate's score is made from the probabilities p of its voxels and the threshold t, of two the lower one.

    ``MEAN`` is the mean of p, the report's score; it lies in [t, 1], where the challenge's 100 thresholds
    distinguish few. ``MEAN_ABOVE_THRESHOLD`` is (mean of p - t) / (1 - t): the same order, spread over [0, 1].
    ``MAX`` is the highest of its voxels' local means, those over a box of about 5 mm (:func:`local_means`): low
    surroundings do not lower it.
    """

    MEAN = "mean"
    MEAN_ABOVE_THRESHOLD = "mean_above_threshold"
    MAX = "max"


def label_candidates(
    probability: np.ndarray,
    threshold: float,
    spacing_mm: Sequence[float],
    split_distance_mm: float = 0.0,
    peak_share: float = 0.0,
    low_threshold: float = 0.0,
    clear_mm3: float = 0.0,
) -> np.ndarray:
    """
    Number the candidates in a map of probabilities: connected components, voxels touching by 26 neighbors.

    Where ``split_distance_mm`` is above 0, a component is split at its peaks, by a watershed of its probability,
    smoothed by a Gaussian of a quarter of that distance. A peak is the highest point within that distance, and
    between two of them the smoothed probability falls ``MIN_DIP`` below the lower one.

    A threshold low enough for weak fractures joins clear ones side by side. Where ``peak_share`` is above 0, a
    component, or piece of it, whose voxels above that share of its own highest probability form two or more pieces of
    ``MIN_PIECE_MM3`` becomes these pieces, and loses the rest; all others stay as they are.

    A fracture that the network sees weakly lies below the threshold of the clear ones, and at its own threshold clear
    ones would run into their surroundings. Where ``low_threshold`` is above 0, a component above it that holds no
    candidate of ``clear_mm3`` is a candidate as well, in place of the smaller ones that it holds.

    Args:
        probability: probabilities in [0, 1], shape ``(H, W, D)``, of any size, 0 too.
        threshold: voxels whose probability is at or below it belong to no candidate.
        spacing_mm: voxel size along each axis; used in splitting and parting alone.
        split_distance_mm: least distance of two peaks of one component; 0 splits nothing.
        peak_share: in [0, 1); 0 parts nothing.
        low_threshold: below ``threshold``; 0, or one that is not below it, adds nothing.
        clear_mm3: least volume of a candidate whose surroundings are not one of their own.

    Returns:
        ids 1 to n, int32, 0 is background, shape ``(H, W, D)``.

    References:
        Soille (2003), Morphological Image Analysis, chapters 6 (h-maxima) and 9 (watershed).
    """
    ids = connected_components(probability > threshold).astype(np.int32)
    spacing = np.asarray(spacing_mm)
    if split_distance_mm > 0:
        _cut_components(ids, probability, lambda values: _split(values, spacing, split_distance_mm))
    if peak_share > 0:
        least_voxels = MIN_PIECE_MM3 / float(spacing.prod())
        _cut_components(ids, probability, lambda values: _part(values, peak_share, least_voxels))
    if 0 < low_threshold < threshold:
        components = connected_components(probability > low_threshold)
        inside = components > 0  # a few percent of a scan
        ids[inside] = with_low_threshold(
            ids[inside], components[inside].astype(np.int32), clear_mm3 / float(spacing.prod())
        )
    return ids


def lowest_threshold(threshold: float, low_threshold: float) -> float:
    """Return the probability at or below which no candidate of :func:`label_candidates` has a voxel."""
    return min(threshold, low_threshold or 1)


def with_low_threshold(own: np.ndarray, low: np.ndarray, clear_voxels: float) -> np.ndarray:
    """
    Add the components above a lower threshold that hold no clear candidate.

    Args:
        own: candidates 1 to n, int32, any shape.
        low: components 1 to k, among their voxels all of the candidates', likewise.
        clear_voxels: voxels of the least candidate that is clear.

    Returns:
        ids 1 to m, int32, likewise; an added component replaces the candidates in it.
    """
    is_clear = np.bincount(own.ravel(), minlength=1) >= clear_voxels
    is_clear[0] = False
    is_added = np.ones(int(low.max(initial=0)) + 1, dtype=bool)
    is_added[low[is_clear[own]]] = False
    is_added[0] = False
    both = np.where(is_added[low], low + len(is_clear), own)
    is_used = np.bincount(both.ravel(), minlength=1) > 0
    is_used[0] = False
    return np.where(is_used, is_used.cumsum(), 0).astype(np.int32)[both]


def _cut_components(ids: np.ndarray, probability: np.ndarray, cut: Callable[[np.ndarray], np.ndarray]) -> None:
    """
    Replace components by the pieces that are made of them, in place.

    Args:
        ids: components 1 to n, int32, shape ``(H, W, D)``; the first piece keeps the component's id, others get new
            ones.
        probability: probabilities, above 0 in the components, likewise.
        cut: gives pieces 1 to m of the probabilities in a component's box, 0 outside of it; what is in none is lost. A
            component with less than two stays as it is.
    """
    count = int(ids.max(initial=0))
    for component, box in enumerate(instance_boxes(ids), start=1):
        if box is None:
            continue
        inside = ids[box] == component
        pieces = cut(np.where(inside, probability[box], 0))
        more = int(pieces.max()) - 1
        if more > 0:
            numbers = np.array([0, component, *range(count + 1, count + 1 + more)], dtype=np.int32)
            ids[box][inside] = numbers[pieces[inside]]
            count += more


def _part(probability: np.ndarray, peak_share: float, least_voxels: float) -> np.ndarray:
    """Number the large pieces of a component above a share of its peak, 1 to n, shape ``(H, W, D)``."""
    if np.count_nonzero(probability) < 2 * least_voxels:  # most components: they hold no two of them
        return np.zeros(probability.shape, dtype=np.int32)
    pieces = connected_components(probability > peak_share * probability.max())
    is_large = np.bincount(pieces.ravel()) >= least_voxels
    is_large[0] = False
    return np.where(is_large, is_large.cumsum(), 0)[pieces]


def _split(probability: np.ndarray, spacing: np.ndarray, distance_mm: float) -> np.ndarray:
    """Divide a component, the voxels above 0, among its peaks: ids 1 to n of shape ``(H, W, D)``, brightest first."""
    whole = (probability > 0).astype(np.int32)
    if np.linalg.norm(spacing * (np.array(probability.shape) - 1)) < distance_mm:
        return whole
    smoothed = ndimage.gaussian_filter(probability, distance_mm / 4 / spacing, mode="constant")
    # h-maxima: what differs from its saddle by less than MIN_DIP becomes one plateau (skimage's h_maxima parts it)
    within = np.where(probability > 0, smoothed, 0)
    lowered = reconstruction(np.maximum(within - MIN_DIP, 0), within)
    tops = connected_components(local_maxima(lowered, connectivity=3))
    places = np.array(ndimage.maximum_position(smoothed, tops, range(1, int(tops.max()) + 1)), dtype=int)
    peaks: list[np.ndarray] = []
    for place in sorted(places.reshape(-1, 3), key=lambda place: -smoothed[tuple(place)]):
        if all(np.linalg.norm((place - peak) * spacing) >= distance_mm for peak in peaks):
            peaks.append(place)
    if len(peaks) < 2:
        return whole
    markers = np.zeros(probability.shape, dtype=np.int32)
    markers[tuple(np.transpose(peaks))] = range(1, len(peaks) + 1)
    return watershed(-smoothed, markers, connectivity=3, mask=probability > 0)


def local_means(probability: np.ndarray, spacing_mm: Sequence[float], ids: np.ndarray | None = None) -> np.ndarray:
    """
    Average probabilities over the box of odd size nearest to ``LOCAL_MEAN_MM`` a side, with 0 outside the array.

    Args:
        probability: probabilities in [0, 1], shape ``(H, W, D)``.
        spacing_mm: voxel size along each axis.
        ids: candidates 1 to n, likewise: only their boxes are averaged, a few percent of a scan; None averages all.

    Returns:
        the mean around each voxel, in [0, 1], shape ``(H, W, D)``; 0 outside the candidates' boxes.
    """
    size = local_window(spacing_mm)
    if ids is None:
        return ndimage.uniform_filter(probability, size, mode="constant").clip(0, 1)
    means = np.zeros_like(probability)
    for box in filter(None, instance_boxes(ids)):
        reach = [min(side.start, width // 2) for side, width in zip(box, size)]  # the array's end is an end here too
        wide = tuple(slice(side.start - low, side.stop + width // 2) for side, low, width in zip(box, reach, size))
        inside = tuple(slice(low, low + side.stop - side.start) for low, side in zip(reach, box))
        means[box] = ndimage.uniform_filter(probability[wide], size, mode="constant")[inside].clip(0, 1)
    return means


def local_window(spacing_mm: Sequence[float]) -> NDArray[np.int_]:
    """Return the voxels of a box of odd size nearest to ``LOCAL_MEAN_MM`` a side, shape ``(3,)``."""
    return 2 * np.round((LOCAL_MEAN_MM / np.asarray(spacing_mm) - 1) / 2).clip(min=0).astype(int) + 1


def mean_probabilities(ids: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """
    Average the probability over each candidate.

    Args:
        ids: candidates 1 to n, shape ``(H, W, D)``.
        probability: probabilities in [0, 1], shape ``(H, W, D)``.

    Returns:
        means, float64, shape ``(n,)``.
    """
    inside = ids > 0
    own = ids[inside]
    return np.bincount(own, weights=probability[inside])[1:] / np.bincount(own)[1:]


def candidate_scores(
    score: CandidateScore, ids: np.ndarray, means: np.ndarray, local: np.ndarray | None, threshold: float
) -> np.ndarray:
    """
    Score candidates.

    Args:
        score: how, see :class:`CandidateScore`.
        ids: candidates 1 to n, shape ``(H, W, D)``.
        means: their mean probabilities, shape ``(n,)``.
        local: what :func:`local_means` gives, shape ``(H, W, D)``; used by ``MAX`` alone.
        threshold: the threshold that they were labeled at; of two, the lower one.

    Returns:
        scores in [0, 1], shape ``(n,)``.
    """
    if score == CandidateScore.MEAN:
        return means
    if score == CandidateScore.MEAN_ABOVE_THRESHOLD:
        return (means - threshold) / (1 - threshold)
    if local is None:
        raise ValueError("the score 'max' needs the local means of the probabilities.")
    inside = ids > 0
    highest = np.zeros(len(means))
    np.maximum.at(highest, ids[inside] - 1, local[inside])
    return highest


class LabelCandidatesd(MapTransform):
    """
    Turn a volume of probabilities into candidates: connected components with ids by falling score.

    MONAI's ``KeepLargestConnectedComponent`` and ``FillHoles`` label components too, but keep neither ids nor
    scores; its ``ProbNMS`` gives the centers of peaks, not their voxels, and its ``Watershed`` needs markers that
    know no mm. Voxels touch by 26 neighbors.

    Args:
        keys: keys of the probabilities, shape ``(1, H, W, D)``, in [0, 1]; replaced by the ids 1..n, integers,
            0 is background.
        threshold: voxels whose probability is at or below it belong to no candidate.
        score: how a candidate's score is made, see :class:`CandidateScore`.
        split_distance_mm: where two fractures touch, a component is split at its peaks if they are at least this far
            apart, see :func:`label_candidates`; 0 splits nothing.
        peak_share: a component that forms several pieces above this share of its highest probability becomes these
            pieces, see :func:`label_candidates`; in [0, 1), 0 parts nothing.
        low_threshold: a component above this lower threshold is a candidate too, where it holds none of
            ``min_volume_mm3``, see :func:`label_candidates`; 0, or one that is not lower, adds nothing.
        min_volume_mm3: the least volume of the candidates that are kept later, see :class:`FilterCandidatesd`; used
            with ``low_threshold`` alone.
        score_key: key of the scores that are added, float32, shape ``(n,)``: that of candidate i stands at i - 1.
        mean_key: key of the candidates' mean probabilities, in [0, 1], in the same order.
        allow_missing_keys: skip keys that the data lacks.

    Raises:
        ValueError: when ``threshold``, ``low_threshold`` or ``peak_share`` is not in [0, 1), or ``split_distance_mm``
            below 0; when the probabilities have more than one channel, or when lengths in mm are needed and they carry
            no affine.
    """

    def __init__(
        self,
        keys: KeysCollection,
        threshold: float = 0.64,
        score: CandidateScore | str = CandidateScore.MEAN_ABOVE_THRESHOLD,
        split_distance_mm: float = 0.0,
        peak_share: float = 0.0,
        low_threshold: float = 0.0,
        min_volume_mm3: float = 0.0,
        score_key: str = "label_scores",
        mean_key: str = "mean_probabilities",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if not 0 <= threshold < 1:
            raise ValueError(f"the probability threshold must be in [0, 1), but is {threshold}.")
        if not split_distance_mm >= 0:
            raise ValueError(f"split_distance_mm is {split_distance_mm}: 0 splits nothing, lengths are above it.")
        if not 0 <= peak_share < 1:
            raise ValueError(f"peak_share must be in [0, 1), but is {peak_share}.")
        if not 0 <= low_threshold < 1:
            raise ValueError(f"low_threshold must be in [0, 1), but is {low_threshold}.")
        self.threshold = threshold
        self.score = CandidateScore(score)
        self.split_distance_mm = split_distance_mm
        self.peak_share = peak_share
        self.low_threshold = low_threshold
        self.min_volume_mm3 = min_volume_mm3
        self.score_key = score_key
        self.mean_key = mean_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        output = dict(data)
        for key in self.key_iterator(output):
            probability = output[key]
            if probability.ndim != 4 or probability.shape[0] != 1:
                raise ValueError(f"'{key}' must have shape (1, H, W, D), but has {tuple(probability.shape)}.")
            values = probability[0].detach().cpu().numpy()
            spacing_mm = [1.0, 1.0, 1.0]
            if self.split_distance_mm or self.peak_share or self.low_threshold or self.score == CandidateScore.MAX:
                spacing_mm = _spacing_mm(probability, key)
            lowest = lowest_threshold(self.threshold, self.low_threshold)
            around = widened(foreground_box(values > lowest), local_window(spacing_mm), values.shape)
            values = values[around]  # all else is background
            ids = label_candidates(
                values,
                self.threshold,
                spacing_mm,
                self.split_distance_mm,
                self.peak_share,
                self.low_threshold,
                self.min_volume_mm3,
            )
            means = mean_probabilities(ids, values)
            local = local_means(values, spacing_mm, ids) if self.score == CandidateScore.MAX else None
            scores = candidate_scores(self.score, ids, means, local, lowest)
            order = np.argsort(-scores, kind="stable")
            output[key] = renumbered(ids, order, around, like=probability)
            output[self.score_key] = torch.as_tensor(scores[order], dtype=torch.float32)
            output[self.mean_key] = torch.as_tensor(means[order], dtype=torch.float32)
        return output


class DescribeCandidatesd(MapTransform):
    """
    Describe each candidate: its volume, length, and place in the scan, in the chest and on a rib.

    Args:
        keys: key of the candidates' ids 1..n on the scan's own grid, shape ``(1, H, W, D)``, with its affine; one key.
        score_key: key of the candidates' scores.
        plane_key: key of the mid-sagittal plane, as ``MidsagittalPlaned`` stores it, where the data have one.
        axis_key: key of the chest's axis, as ``ThoraxAxisd`` stores it, where the data have one.
        cage_key: key of the ribs, as ``LabelRibsd`` stores them, where the data have them.
        candidates_key: key of the list of :class:`scripts.candidates.Candidate` that is added.
        allow_missing_keys: do nothing when the data lack the ids.
    """

    def __init__(
        self,
        keys: KeysCollection,
        score_key: str = "label_scores",
        plane_key: str = "midsagittal_plane",
        axis_key: str = "thorax_axis",
        cage_key: str = "rib_cage",
        candidates_key: str = "candidates",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.score_key = score_key
        self.plane_key = plane_key
        self.axis_key = axis_key
        self.cage_key = cage_key
        self.candidates_key = candidates_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        output = dict(data)
        for key in self.key_iterator(output):
            chest = tuple(output.get(name) for name in (self.plane_key, self.axis_key, self.cage_key))
            output[self.candidates_key] = describe_candidates(output[key], output[self.score_key], *chest)
        return output


class MatchCandidatesd(MapTransform):
    """
    Match candidates with annotated fractures by the challenge's rule, once for all who score or show the scan.

    Args:
        keys: key of the candidates' ids 1..n on the scan's own grid, shape ``(1, H, W, D)``; one key. With
            ``label_scores``, ``label`` and, where known, ``label_codes``, it is read as `RibFracFROCMetric` reads it.
        result_key: key of the :class:`scripts.metrics.ScanResult` that is added.
        allow_missing_keys: do nothing when the data lack the ids.

    Raises:
        ValueError: when volumes, scores and codes do not fit each other.
    """

    def __init__(self, keys: KeysCollection, result_key: str = "scan_result", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.result_key = result_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        output: dict[Any, Any] = dict(data)
        for key in self.key_iterator(output):
            output[self.result_key] = scan_result(output | {"pred": output[key]}, output)
        return output


class FilterCandidatesd(MapTransform):
    """
    Drop candidates that are too small, too improbable, of too low a score or off the ribs, and number the others again.

    MONAI's ``RemoveSmallObjects`` is off by one with scikit-image 0.26 and knows no scores.

    Args:
        keys: keys of the candidates' ids as ``LabelCandidatesd`` gives them, shape ``(1, H, W, D)``.
        min_volume_mm3: candidates smaller than this go.
        min_mean_probability: candidates whose mean probability is lower than this go.
        min_score: candidates whose score is lower than this go.
        max_rib_mm: candidates farther than this from every rib go, where ribs were found all around, see
            :meth:`scripts.anatomy.rib_cage.RibCage.is_off_ribs`; None, or data without ribs, drops none for that.
        score_key: key of the candidates' scores.
        mean_key: key of the candidates' mean probabilities.
        cage_key: key of the ribs, as ``LabelRibsd`` stores them, where the data have them.
        allow_missing_keys: skip keys that the data lacks.

    Raises:
        ValueError: when the ids carry no affine, so that their volume in mm³ is unknown; when ``max_rib_mm`` is below
            0.
    """

    def __init__(
        self,
        keys: KeysCollection,
        min_volume_mm3: float,
        min_mean_probability: float,
        min_score: float = 0.0,
        max_rib_mm: float | None = None,
        score_key: str = "label_scores",
        mean_key: str = "mean_probabilities",
        cage_key: str = "rib_cage",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if max_rib_mm is not None and not max_rib_mm >= 0:
            raise ValueError(f"max_rib_mm is {max_rib_mm}: distances are 0 or above, and null drops none.")
        self.min_volume_mm3 = min_volume_mm3
        self.min_mean_probability = min_mean_probability
        self.min_score = min_score
        self.max_rib_mm = max_rib_mm
        self.score_key = score_key
        self.mean_key = mean_key
        self.cage_key = cage_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        output = dict(data)
        for key in self.key_iterator(output):
            candidates = output[key]
            voxel_mm3 = float(np.prod(_spacing_mm(candidates, key)))
            ids = candidates[0].cpu().numpy()
            around = foreground_box(ids)
            ids = ids[around]
            volumes_mm3 = np.bincount(ids.ravel(), minlength=len(output[self.score_key]) + 1)[1:] * voxel_mm3
            means, scores = output[self.mean_key].numpy(), output[self.score_key].numpy()
            kept = np.flatnonzero(
                (volumes_mm3 >= self.min_volume_mm3) & (means >= self.min_mean_probability) & (scores >= self.min_score)
            )
            if self.max_rib_mm is not None and self.cage_key in output:
                affine = np.asarray(candidates.affine, dtype=float)
                kept = kept[~_are_off_ribs(ids, kept + 1, around, affine, output[self.cage_key], self.max_rib_mm)]
            output[key] = renumbered(ids, kept, around, like=candidates)
            output[self.score_key] = output[self.score_key][kept]
            output[self.mean_key] = output[self.mean_key][kept]
        return output


class CalibrateScoresd(MapTransform):
    """
    Spread scores over [0, 1] without changing their order: ``sigmoid(slope * logit(score) + intercept)``.

    The challenge reads scores in steps of 0.01, so that scores crowded near 1 lose recall at few false positives. The
    command ``python -m scripts tune`` fits both numbers. MONAI has no transform of scores.

    Args:
        score_key: key of the scores, float, in [0, 1], shape ``(n,)``; 0 and 1 count as 1e-6 away from it.
        slope: above 0.
        intercept: added after the slope; slope 1 and intercept 0 leave scores exactly as they are.

    Raises:
        ValueError: when the slope is not above 0.
    """

    def __init__(self, score_key: str = "label_scores", slope: float = 1.0, intercept: float = 0.0) -> None:
        super().__init__(score_key)
        if not slope > 0:
            raise ValueError(f"the slope is {slope}: it must be above 0, or the order of scores would be reversed.")
        self.slope = slope
        self.intercept = intercept

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        output = dict(data)
        if (self.slope, self.intercept) == (1, 0):
            return output
        for key in self.key_iterator(output):
            calibrated = calibrated_scores(output[key].numpy(), self.slope, self.intercept)
            output[key] = torch.as_tensor(calibrated, dtype=torch.float32)
        return output


class FindCandidatesd(MapTransform):
    """
    Turn a volume of probabilities into candidates as ``inference.yaml`` does, by one group of settings.

    It is :class:`RemoveSpined`, :class:`LabelCandidatesd`, :class:`CalibrateScoresd` and :class:`FilterCandidatesd`;
    the first and the last only if ``postprocess`` is true. The first is its ``remove_spine``, the others are its
    ``find``: who tries several settings removes the spine once.

    Args:
        keys: keys of the probabilities, see :class:`LabelCandidatesd`.
        candidates: the settings: ``postprocess``; ``spine_margin_mm`` of :class:`RemoveSpined`; ``threshold``,
            ``low_threshold``, ``min_volume_mm3``, ``split_distance_mm``, ``peak_share`` and ``score`` of
            :class:`LabelCandidatesd`; ``score_slope`` and ``score_intercept`` of :class:`CalibrateScoresd`;
            ``min_mean_probability``, ``min_score`` and ``max_rib_mm`` of :class:`FilterCandidatesd`. Others are for
            later steps.
        hu_range: HU that the scan was scaled from, see :class:`RemoveSpined`.
        min_score: takes the place of the settings' where it is not None.
        allow_missing_keys: skip keys that the data lacks.

    Raises:
        ValueError: see these transforms.
    """

    def __init__(
        self,
        keys: KeysCollection,
        candidates: Mapping[str, Any],
        hu_range: tuple[float, float] = (-200.0, 1000.0),
        min_score: float | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        labeling = ("threshold", "low_threshold", "min_volume_mm3", "split_distance_mm", "peak_share", "score")
        steps: list[MapTransform] = [
            LabelCandidatesd(
                self.keys, **{name: candidates[name] for name in labeling}, allow_missing_keys=allow_missing_keys
            ),
            CalibrateScoresd(slope=candidates["score_slope"], intercept=candidates["score_intercept"]),
        ]
        self.remove_spine: Transform = Compose([])
        if str2bool(candidates["postprocess"]):
            self.remove_spine = RemoveSpined(
                self.keys,
                hu_range=hu_range,
                margin_mm=candidates["spine_margin_mm"],
                allow_missing_keys=allow_missing_keys,
            )
            kept = FilterCandidatesd(
                self.keys,
                min_volume_mm3=candidates["min_volume_mm3"],
                min_mean_probability=candidates["min_mean_probability"],
                min_score=candidates["min_score"] if min_score is None else min_score,
                max_rib_mm=candidates["max_rib_mm"],
                allow_missing_keys=allow_missing_keys,
            )
            steps.append(kept)
        self.find = Compose(steps)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return self.find(self.remove_spine(data))


def _spacing_mm(volume: torch.Tensor, key: Hashable) -> list[float]:
    """Return the voxel size along each axis."""
    if not isinstance(volume, MetaTensor):
        raise ValueError(f"'{key}' carries no affine: load it with MONAI's LoadImaged.")
    return volume.pixdim.tolist()


def _are_off_ribs(
    ids: np.ndarray, candidates: np.ndarray, around: Box, affine: np.ndarray, cage: RibCage, max_rib_mm: float
) -> np.ndarray:
    """
    Tell which of some candidates lie farther than ``max_rib_mm`` from every rib; ``ids`` are a volume's in the box
    ``around``, and ``affine`` is that volume's.
    """
    boxes = instance_boxes(ids)
    is_off = np.zeros(len(candidates), dtype=bool)
    for place, candidate in enumerate(candidates):
        box = boxes[candidate - 1]
        if box is None:
            continue
        voxels = np.argwhere(ids[box] == candidate) + [part.start for part in moved(box, around)]
        is_off[place] = cage.is_off_ribs(voxels @ affine[:3, :3].T + affine[:3, 3], max_rib_mm)
    return is_off


def renumbered(ids: np.ndarray, order: np.ndarray, around: Box, like: torch.Tensor) -> torch.Tensor:
    """
    Number the components of a volume anew.

    Args:
        ids: components 1..n in a part of the volume, in which all of them lie, shape ``(h, w, d)``.
        order: indices, from 0, of the components to keep; the first becomes 1, and so on.
        around: that part.
        like: tensor of shape ``(1, H, W, D)``, the volume, whose metadata and device the result takes.

    Returns:
        int32 ids of shape ``(1, H, W, D)``.
    """
    new_ids = np.zeros(int(ids.max(initial=0)) + 1, dtype=np.int32)
    new_ids[order + 1] = np.arange(1, len(order) + 1)
    changed = np.zeros(like.shape, dtype=np.int32)
    changed[0][around] = new_ids[ids]
    return convert_to_dst_type(changed, dst=like, dtype=torch.int32)[0]

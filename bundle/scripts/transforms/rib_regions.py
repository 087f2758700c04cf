"""Regions that may be fractures, of one probability each: places on the ribs, and what the windows see elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import str2bool
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.special import expit, logit

from scripts.anatomy.components import foreground_box, instance_boxes, moved, widened
from scripts.anatomy.straight_ribs import BEYOND_MM, BLOCK_STEP_MM, RibBlocks, StraightRib
from scripts.metrics.calibration import calibrated_scores
from scripts.networks import StraightRibNet
from scripts.transforms.candidates import (
    CandidateScore,
    candidate_scores,
    label_candidates,
    local_means,
    local_window,
    lowest_threshold,
)
from scripts.transforms.straight_ribs import can_look, look_along_ribs

__all__ = ["PoolRegionsd", "RibPeak", "least_look", "rib_peaks"]

_logger = logging.getLogger(__name__)

# A place reaches as far along the rib as the logit falls by so little from its peak: more from a sure one, whose sides
# are steep. No more steps than that lie on either side; annotations of RibFrac are 10 to 40 mm long
_LEAST_FALL, _FALL_PER_LOGIT, _MOST_FALL = 1.5, 0.6, 4.0
_MOST_STEPS = 3
# In the challenge's rule all masks that touch make one union, in which a fracture's share gets small: less probable
# places right beside one, and all below so much, cost more hits than they bring
_STEPS_APART = 2
LEAST_PROBABILITY = 0.05
# A mask goes around the bone: so far beyond it, and no farther from the centerline than a rib and its stubs. RibFrac's
# reach 3 mm and more, but masks as wide touch those of the ribs beside them
_BONE_HU, _BEYOND_BONE_MM, _RADIUS_MM = 200.0, 2.0, 10.0
_MARGIN_MM = 2.0  # at both ends: a step of the network does not tell where in it a fracture ends
_LEAST_VOXELS = 20
_COVERED = 0.3  # a region of the windows of which more lies in places along the ribs is the same fracture
_NEAR_RIB_MM = 14.0  # half the height of a rib, and a displaced stub
_OF_REGION = 90.0  # percentile of the look over a region of the windows: some of it may lie beside the fracture
_LOGIT_MARGIN = 1e-5
_ROUNDING = 1e-3  # of a logit, in float32
_STEP_MM = StraightRibNet.STRIDE * BLOCK_STEP_MM


@dataclass(frozen=True)
class RibPeak:
    """
    A place on a rib where the look along it is highest.

    Args:
        rib: index of the rib among the blocks.
        from_mm: where on the rib it begins, along the centerline, in the blocks' ways.
        to_mm: where it ends.
        logit: that a fracture lies there, at its highest.
    """

    rib: int
    from_mm: float
    to_mm: float
    logit: float


class PoolRegionsd(MapTransform):
    """
    Turn probabilities of voxels into regions of one probability each, by the look along the ribs and the windows.

    A place on a rib where the look is highest becomes a region: bone and 2 mm around it, as far along the rib as the
    look stays near its peak. What the windows see elsewhere becomes one too, as :class:`LabelCandidatesd` finds it. A
    region's probability is, in the logit, the weighted mean of the look and of the windows' highest local mean in it;
    off the ribs, the look counts as 0.05. Regions do not touch each other.

    With the same settings, :class:`LabelCandidatesd` makes one candidate of each region, and its score
    ``mean_above_threshold`` is the region's probability. Probabilities stay as they are where no ribs were found, and
    where the network along them is untrained, which is logged.

    Args:
        keys: key of the probabilities, shape ``(1, H, W, D)``, in [0, 1]; one key. They become l + (1 - l) p in a
            region of probability p, l being the lowest threshold of the candidates, and 0 elsewhere.
        network: a :class:`scripts.networks.StraightRibNet`, or a network that has one as ``straight_ribs``.
        candidates: the settings of candidates: ``threshold``, ``low_threshold``, ``min_volume_mm3``,
            ``split_distance_mm`` and ``peak_share``.
        weight: of the look along the ribs, in [0, 1]; 0 leaves the probabilities as they are.
        hu_range: HU that the scan was scaled from to -1 and 1, as in training.
        image_key: key of the scan, scaled, on the grid of the probabilities.
        blocks_key: key of the blocks of the ribs, as ``StraightenRibsd`` stores them, where the data have them; with
            the logits, where :class:`scripts.runs.PrepareBatchNearRibs` looked before.
        allow_missing_keys: do nothing when the data lacks the probabilities.

    Raises:
        ValueError: when ``weight`` is not in [0, 1].
    """

    def __init__(
        self,
        keys: KeysCollection,
        network: torch.nn.Module | None,
        candidates: Mapping[str, Any],
        weight: float = 0.8,
        hu_range: Sequence[float] = (-200.0, 1000.0),
        image_key: str = "image",
        blocks_key: str = "rib_blocks",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if not 0 <= weight <= 1:
            raise ValueError(f"the weight of the look along the ribs must be in [0, 1], but is {weight}.")
        self.network = getattr(network, "straight_ribs", network)
        self.threshold, self.low_threshold = candidates["threshold"], candidates["low_threshold"]
        self.labeling = {name: candidates[name] for name in ("split_distance_mm", "peak_share", "low_threshold")}
        self.min_volume_mm3 = candidates["min_volume_mm3"]
        self.weight = weight
        self.hu_range = hu_range
        self.image_key = image_key
        self.blocks_key = blocks_key
        self._is_told = False

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        blocks: RibBlocks | None = d.get(self.blocks_key)
        if self.weight == 0 or blocks is None or not blocks.ribs:
            return d
        logits = blocks.logits
        if logits is None:
            if not can_look(self.network):
                if not self._is_told:
                    _logger.warning("The weights hold no network along the ribs: candidates are those of the windows.")
                    self._is_told = True
                return d
            logits = look_along_ribs(self.network, blocks, self.hu_range)
        for key in self.key_iterator(d):
            d[key] = self._pooled(d[key], d[self.image_key], blocks, logits)
        return d

    def _pooled(
        self, prediction: MetaTensor, image: torch.Tensor, blocks: RibBlocks, logits: NDArray[np.float64]
    ) -> torch.Tensor:
        probability = prediction[0].cpu().numpy()
        affine = prediction.affine.cpu().numpy()
        spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
        low_hu, high_hu = self.hu_range
        bone = (_BONE_HU - low_hu) / (high_hu - low_hu) * 2 - 1

        near = _NearRibs(blocks.ribs, logits, affine)
        regions = np.zeros(probability.shape, dtype=np.int32)
        looks: list[float] = []  # of each region
        for peak in rib_peaks(logits, blocks.lengths):
            if _add(regions, near.voxels_of(peak, image[0], bone, spacing_mm), len(looks) + 1):
                looks.append(peak.logit)
        lowest = lowest_threshold(self.threshold, self.low_threshold)
        around = foreground_box(probability > lowest)  # all else is background
        seen = label_candidates(
            probability[around], self.threshold, spacing_mm, clear_mm3=self.min_volume_mm3, **self.labeling
        )
        for number, box in enumerate(instance_boxes(seen), start=1):
            if box is None:
                continue
            voxels = np.argwhere(seen[box] == number) + [side.start for side in moved(box, around)]
            is_covered = np.count_nonzero(regions[tuple(voxels.T)]) > _COVERED * len(voxels)
            if not is_covered and _add(regions, voxels, len(looks) + 1):
                looks.append(near.look_at(voxels))

        result = torch.zeros_like(prediction)
        if looks:
            box = widened(foreground_box(regions), local_window(spacing_mm), regions.shape)
            own = regions[box]
            local = local_means(probability[box], spacing_mm, own)
            highest = candidate_scores(CandidateScore.MAX, own, np.zeros(len(looks)), local, 0.0)
            windows = logit(np.clip(highest, _LOGIT_MARGIN, 1 - _LOGIT_MARGIN))
            both = (1 - self.weight) * windows + self.weight * np.asarray(looks)
            pooled = np.concatenate([[0.0], lowest + (1 - lowest) * expit(both)]).astype(np.float32)
            result[0][box] = torch.from_numpy(pooled[own]).to(result.device)
        return result


def rib_peaks(logits: NDArray[np.float64], lengths: NDArray[np.int64]) -> list[RibPeak]:
    """
    Find the places on the ribs where the look along them is highest.

    Args:
        logits: of the look along each rib, shape ``(ribs, steps)``.
        lengths: places of each rib in its block, see :class:`scripts.anatomy.straight_ribs.RibBlocks`.

    Returns:
        The places of a probability of 0.05 or more, by falling logit; those of one rib have steps between them.
    """
    peaks = []
    for rib, (of_rib, length) in enumerate(zip(logits, lengths)):
        values = of_rib[: -(-int(length) // StraightRibNet.STRIDE)]
        is_taken = np.zeros(len(values), dtype=bool)
        for top in np.argsort(-values):
            if values[top] < logit(LEAST_PROBABILITY):
                break
            is_peak = values[top] >= values[max(top - 1, 0) : top + 2].max()
            if is_taken[top] or not is_peak:
                continue
            fall = np.clip(_LEAST_FALL + _FALL_PER_LOGIT * values[top], _LEAST_FALL, _MOST_FALL)
            belongs = (values > values[top] - fall) & ~is_taken
            first = last = int(top)
            while first > 0 and top - first < _MOST_STEPS and belongs[first - 1]:
                first -= 1
            while last + 1 < len(values) and last - top < _MOST_STEPS and belongs[last + 1]:
                last += 1
            is_taken[max(first - _STEPS_APART, 0) : last + 1 + _STEPS_APART] = True
            ends = (first * _STEP_MM - BEYOND_MM - _MARGIN_MM, (last + 1) * _STEP_MM - BEYOND_MM + _MARGIN_MM)
            peaks.append(RibPeak(rib, *ends, float(values[top])))
    return sorted(peaks, key=lambda peak: -peak.logit)


def least_look(
    candidates: Mapping[str, Any],
    weight: float = 0.8,
    min_score: float | None = 0.0,
    any_score: bool | str = False,
    at_least: float = 0.0,
) -> float:
    """
    Tell how probable the look along the ribs must find a place that can become a candidate of a score.

    Below it, the score is not reached even where the windows are sure, so they need not look there.

    Args:
        candidates: the settings of candidates, as of :class:`scripts.transforms.FindCandidatesd`.
        weight: of the look, as of :class:`PoolRegionsd`.
        min_score: least score of the candidates that are kept, in [0, 1]; that of the settings where None.
        any_score: True keeps places of any score, as a file of probabilities shows them.
        at_least: the result is no lower than this probability.

    Returns:
        A probability; ``at_least`` where the score does not tell, as without postprocessing or with the score ``max``,
        and where a region off the ribs, whose look counts as 0.05, can reach it.

    Raises:
        ValueError: when ``at_least`` is no probability.
    """
    if not 0 <= at_least <= 1:
        raise ValueError(f"min_rib_probability is {at_least}: give a probability, 0 to 1.")
    score, slope = CandidateScore(candidates["score"]), candidates["score_slope"]
    min_score = candidates["min_score"] if min_score is None else min_score
    is_filtered = str2bool(candidates["postprocess"]) and not str2bool(any_score)
    if not (is_filtered and 0 < min_score < 1 and weight > 0) or score == CandidateScore.MAX:
        return at_least
    inverse = (1 / slope, -candidates["score_intercept"] / slope)  # the calibration, turned back
    of_region = calibrated_scores(np.asarray(min_score), *inverse)
    if score == CandidateScore.MEAN:
        lowest = lowest_threshold(candidates["threshold"], candidates["low_threshold"])
        of_region = np.maximum(of_region - lowest, 0) / (1 - lowest)
    sure_windows = logit(1 - _LOGIT_MARGIN)
    look = (logit(of_region) - _ROUNDING - (1 - weight) * sure_windows) / weight
    return max(at_least, float(expit(look))) if look > logit(LEAST_PROBABILITY) else at_least


class _NearRibs:
    """
    Where voxels lie on the ribs.

    Args:
        ribs: the ribs, straightened.
        logits: of the look along each, shape ``(ribs, steps)``.
        affine: from voxels to RAS mm, shape ``(4, 4)``.
    """

    def __init__(self, ribs: Sequence[StraightRib], logits: NDArray[np.float64], affine: NDArray[np.float64]) -> None:
        self._logits = logits
        self._affine = affine
        self._from_mm = np.linalg.inv(affine)
        self._points = np.concatenate([rib.points_mm for rib in ribs])
        self._rib = np.repeat(np.arange(len(ribs)), [len(rib.points_mm) for rib in ribs])
        self._way = np.concatenate([rib.way_mm for rib in ribs])
        self._tree = cKDTree(self._points)

    def voxels_of(
        self, peak: RibPeak, image: torch.Tensor, bone: float, spacing_mm: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        """
        Find the voxels of a place on a rib: bone and what is close to it, nearest to this part of the rib.

        Args:
            peak: the place.
            image: the scan, shape ``(H, W, D)``.
            bone: value above which a voxel of it is bone.
            spacing_mm: voxel size along each axis.

        Returns:
            Voxels, shape ``(n, 3)``.
        """
        is_part = (self._rib == peak.rib) & (self._way >= peak.from_mm) & (self._way < peak.to_mm)
        centers = self._points[is_part] @ self._from_mm[:3, :3].T + self._from_mm[:3, 3]
        if not len(centers):
            return np.zeros((0, 3), dtype=np.int64)
        reach = (_RADIUS_MM + _BEYOND_BONE_MM) / spacing_mm
        low = np.maximum(np.floor(centers.min(axis=0) - reach), 0).astype(int)
        high = np.minimum(np.ceil(centers.max(axis=0) + reach) + 1, image.shape).astype(int)
        if (low >= high).any():
            return np.zeros((0, 3), dtype=np.int64)
        box = tuple(slice(first, end) for first, end in zip(low, high))
        is_bone = image[box].cpu().numpy() > bone
        if not is_bone.any():
            return np.zeros((0, 3), dtype=np.int64)
        is_close = ndimage.distance_transform_edt(~is_bone, sampling=spacing_mm) <= _BEYOND_BONE_MM
        voxels = np.argwhere(is_close) + low
        away, nearest = self._nearest(voxels, _RADIUS_MM)
        is_own = np.isfinite(away)
        is_own[is_own] = is_part[nearest[is_own]]
        return voxels[is_own]

    def look_at(self, voxels: NDArray[np.int64]) -> float:
        """Return the logit of the look at a region; off the ribs that of the least probability."""
        away, nearest = self._nearest(voxels, _NEAR_RIB_MM)
        nearest = nearest[np.isfinite(away)]
        if not len(nearest):
            return float(logit(LEAST_PROBABILITY))
        # the middle of a step of the network lies so far along the rib
        steps = (self._way[nearest] + BEYOND_MM) / _STEP_MM - 0.5
        last = self._logits.shape[1] - 1
        low = np.clip(np.floor(steps).astype(int), 0, last)
        high = np.minimum(low + 1, last)
        share = np.clip(steps - low, 0, 1)
        ribs = self._rib[nearest]
        along = (1 - share) * self._logits[ribs, low] + share * self._logits[ribs, high]
        return float(np.percentile(along, _OF_REGION))

    def _nearest(self, voxels: NDArray[np.int64], reach_mm: float) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        places = voxels @ self._affine[:3, :3].T + self._affine[:3, 3]
        away, nearest = self._tree.query(places, distance_upper_bound=reach_mm)
        return away, nearest


def _add(regions: NDArray[np.int32], voxels: NDArray[np.int64], number: int) -> bool:
    """Add a region where no other one is or touches; tell whether enough of it is left."""
    if len(voxels) < _LEAST_VOXELS:
        return False
    low, high = np.maximum(voxels.min(axis=0) - 1, 0), voxels.max(axis=0) + 2
    box = tuple(slice(first, end) for first, end in zip(low, high))
    own = np.zeros(regions[box].shape, dtype=bool)
    own[tuple((voxels - low).T)] = True
    own &= ~ndimage.binary_dilation(regions[box] > 0, np.ones((3, 3, 3), dtype=bool))
    if np.count_nonzero(own) < _LEAST_VOXELS:
        return False
    regions[box][own] = number
    return True

"""
What each scan adds to the challenge's score of every setting of the post-processing, without labeling it for each.

A scan is labeled once for each threshold, distance of splitting and share of the peak; filters then only choose rows of
a table of candidates. That is exact: a candidate that goes changes the overlaps of others only in the connected
component of candidates and fractures that held it, and those few are measured again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from monai.transforms import EnsureChannelFirstd, LoadImaged, Orientationd, ScaleIntensityRanged
from monai.transforms.utils import generate_spatial_bounding_box
from scipy import ndimage

from scripts.anatomy.components import connected_components
from scripts.data.ribfrac import UNKNOWN_CLASS
from scripts.images.grids import grid_difference
from scripts.images.image_reader import CTReader
from scripts.metrics.froc import ScanResult, instance_overlaps
from scripts.transforms.anatomy import RemoveSpined
from scripts.transforms.candidates import (
    CandidateScore,
    calibrated_scores,
    candidate_scores,
    label_candidates,
    local_means,
    lowest_threshold,
    mean_probabilities,
    with_faint,
)
from scripts.transforms.labels import CheckLabeld

__all__ = ["ScanTable", "Setting", "measure_scan", "scan_result", "scan_table"]

_ROUNDING = 1e-4  # of a map that was resampled to the scan's own grid


@dataclass(frozen=True)
class Setting:
    """
    The post-processing of one prediction, under the names of ``configs/inference.yaml``.

    Args:
        probability_threshold: voxels at or below it belong to no candidate.
        split_distance_mm: least distance of two peaks that split a component; 0 splits nothing.
        peak_share: a component becomes its pieces above this share of its highest probability; 0 parts nothing.
        min_volume_mm3: smaller candidates are dropped.
        min_mean_probability: candidates with a lower mean probability are dropped.
        score: how a candidate's score is made.
        faint_threshold: components above it that hold no candidate of ``min_volume_mm3`` are candidates; 0 adds none.
    """

    probability_threshold: float
    split_distance_mm: float
    peak_share: float
    min_volume_mm3: float
    min_mean_probability: float
    score: CandidateScore
    faint_threshold: float = 0.0

    @property
    def labeling(self) -> tuple[float, ...]:
        """What the candidates' voxels depend on, before any is dropped: ``label_candidates`` takes it."""
        clear_mm3 = self.min_volume_mm3 if self.faint_threshold else 0.0
        return self.probability_threshold, self.split_distance_mm, self.peak_share, self.faint_threshold, clear_mm3

    @property
    def lowest_threshold(self) -> float:
        """Voxels at or below it belong to no candidate."""
        return lowest_threshold(self.probability_threshold, self.faint_threshold)


class _Labeling(NamedTuple):
    """
    The candidates of a scan, labeled in one way; arrays of shape ``(candidates,)``.

    Args:
        voxels: number of voxels of each.
        shared_voxels: how many of them lie in a fracture.
        volumes_mm3: volume of each.
        means: mean probability of each, float32 as the transforms have it.
        scores: score of each, float32, by the way that it is made.
        matches: best fracture (-1 for none) and best overlap of the candidates that are kept, by the bytes of the
            bool array of those kept.
    """

    voxels: np.ndarray
    shared_voxels: np.ndarray
    volumes_mm3: np.ndarray
    means: np.ndarray
    scores: dict[CandidateScore, np.ndarray]
    matches: dict[bytes, tuple[np.ndarray, np.ndarray]]


class ScanTable(NamedTuple):
    """
    What one scan adds to the score of every setting.

    Args:
        fractures: number of fractures.
        fracture_voxels: number of voxels in them.
        labelings: its candidates, by `Setting.labeling`.
    """

    fractures: int
    fracture_voxels: int
    labelings: dict[tuple[float, ...], _Labeling]


def _matches(ids: np.ndarray, label: np.ndarray, kepts: Iterable[np.ndarray]) -> dict[bytes, tuple[Any, Any]]:
    """
    Match candidates with fractures for each choice of candidates that are kept, as :func:`scripts.metrics.score_scan`.

    Args:
        ids: candidates 1 to n on the scan's own grid (its order of axes decides on pairs in several pieces), shape
            ``(H, W, D)``.
        label: ids of the fractures, likewise.
        kepts: which candidates are kept, bool, shape ``(n,)`` each.

    Returns:
        the index of the fracture that each kept candidate overlaps most, -1 for none, and that overlap, by the bytes
        of which are kept.
    """
    fracture_ids = np.unique(label[label > 0])
    unions = connected_components((ids > 0) | (label > 0))
    boxes = ndimage.find_objects(unions)
    blocks = []
    for number in np.unique(unions[label > 0]):
        box = boxes[number - 1]
        own = unions[box] == number
        block_ids = np.where(own, ids[box], 0)
        members = np.unique(block_ids[block_ids > 0])
        if len(members):
            blocks.append((block_ids, np.where(own, label[box], 0), members))

    matches: dict[bytes, tuple[Any, Any]] = {}
    known: dict[tuple[int, bytes], Any] = {}
    for kept in kepts:
        if kept.tobytes() in matches:
            continue
        best_fracture, best_overlap = np.full(len(kept), -1), np.zeros(len(kept))
        for number, (block_ids, block_label, members) in enumerate(blocks):
            choice = number, kept[members - 1].tobytes()
            if choice not in known:
                known[choice] = instance_overlaps(
                    np.where(np.append(False, kept)[block_ids], block_ids, 0), block_label
                )
            found = known[choice]
            best = found.overlap.argmax(axis=1)
            overlap = found.overlap.max(axis=1)
            best_overlap[found.candidate_ids - 1] = overlap
            fracture = np.searchsorted(fracture_ids, found.fracture_ids[best])
            best_fracture[found.candidate_ids - 1] = np.where(overlap > 0, fracture, -1)
        matches[kept.tobytes()] = best_fracture[kept], best_overlap[kept]
    return matches


def _kept(labeling: _Labeling, setting: Setting) -> np.ndarray:
    """Tell which candidates pass a setting's filters; the comparisons are those of ``FilterCandidatesd``."""
    return (labeling.volumes_mm3 >= setting.min_volume_mm3) & (labeling.means >= setting.min_mean_probability)


def scan_table(
    probability: np.ndarray, label: np.ndarray, affine: np.ndarray, settings: Sequence[Setting]
) -> ScanTable:
    """
    Measure the candidates of one scan at every setting.

    Args:
        probability: probabilities in [0, 1], without the spine, in RAS order of axes, shape ``(H, W, D)``.
        label: ids of the fractures, integer, 0 is background, in the same order of axes.
        affine: the affine of the scan's own grid, whose order of axes the challenge's rule depends on.
        settings: what to measure.

    Returns:
        the table from which `scan_result` reads the score of each of the settings.
    """
    own_axes = nib.io_orientation(affine)
    to_own = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), own_axes)
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)[np.argsort(own_axes[:, 0])].tolist()
    local = local_means(probability, spacing_mm)
    by_lowest: dict[float, list[Setting]] = {}
    for setting in settings:
        by_lowest.setdefault(setting.lowest_threshold, []).append(setting)
    start, end = generate_spatial_bounding_box(((probability > min(by_lowest)) | (label > 0))[None])
    box = tuple(slice(low, max(high, 1)) for low, high in zip(start, end))  # one voxel where nothing is marked
    probability, label, local = probability[box], label[box], local[box]
    labelings: dict[tuple[float, ...], _Labeling] = {}
    for lowest, chosen in by_lowest.items():
        labelings |= _measure(
            _marked_voxels(probability, local, label, lowest, to_own), chosen, probability, spacing_mm
        )
    return ScanTable(len(np.unique(label[label > 0])), int((label > 0).sum()), labelings)


class _MarkedVoxels(NamedTuple):
    """
    The voxels of a scan above a threshold, and those of its fractures: a few percent, so that much is counted in these
    alone.

    Args:
        where: their n places in the flattened scan.
        probability: of each, shape ``(n,)``.
        local: the local mean of each, likewise.
        label: the fracture's id at each, 0 is none, likewise.
        blocks: the connected components of marked voxels that hold a fracture, on the scan's own axes, moved close
            together: the number of each voxel, from 1, 0 where there is none, shape ``(I, J, K)``.
        block_label: the fractures' ids there, likewise.
    """

    where: np.ndarray
    probability: np.ndarray
    local: np.ndarray
    label: np.ndarray
    blocks: np.ndarray
    block_label: np.ndarray


def _marked_voxels(
    probability: np.ndarray, local: np.ndarray, label: np.ndarray, threshold: float, to_own: np.ndarray
) -> _MarkedVoxels:
    """Pick a scan's voxels above a threshold and those of its fractures; ``to_own`` turns it to its own axes."""
    is_marked = (probability > threshold) | (label > 0)
    where = np.flatnonzero(is_marked)
    components = connected_components(is_marked)
    holds_fracture = np.zeros(int(components.max(initial=0)) + 1, dtype=bool)
    holds_fracture[components[label > 0]] = True
    numbers = np.zeros(probability.shape, dtype=np.int32)
    numbers.ravel()[where] = np.arange(1, len(where) + 1)
    packed = _packed(np.where(holds_fracture[components], components, 0).astype(np.int32), numbers, label)
    values = (volume.ravel()[where] for volume in (probability, local, label))
    return _MarkedVoxels(where, *values, *(nib.apply_orientation(volume, to_own) for volume in packed))


def _measure(
    marked: _MarkedVoxels, settings: Sequence[Setting], probability: np.ndarray, spacing_mm: Sequence[float]
) -> dict[tuple[float, ...], _Labeling]:
    """Label the candidates of one scan in each way that the settings ask for, and measure them."""
    voxel_mm3 = float(np.prod(spacing_mm))
    by_way: dict[tuple[float, ...], list[Setting]] = {}
    for setting in settings:
        by_way.setdefault(setting.labeling, []).append(setting)
    clear: dict[tuple[float, ...], np.ndarray] = {}
    faint: dict[float, np.ndarray] = {}
    labelings = {}
    for way, chosen in by_way.items():
        threshold, split_distance_mm, peak_share, faint_threshold, clear_mm3 = way
        of_clear = threshold, split_distance_mm, peak_share
        if of_clear not in clear:
            clear[of_clear] = label_candidates(
                probability, threshold, spacing_mm, split_distance_mm, peak_share
            ).ravel()[marked.where]
        ids = clear[of_clear]
        if 0 < faint_threshold < threshold:
            if faint_threshold not in faint:
                components = connected_components(probability > faint_threshold)
                faint[faint_threshold] = components.ravel()[marked.where].astype(np.int32)
            ids = with_faint(ids, faint[faint_threshold], clear_mm3 / voxel_mm3)
        labelings[way] = _measure_candidates(marked, ids, chosen, voxel_mm3)
    return labelings


def _measure_candidates(
    marked: _MarkedVoxels, ids: np.ndarray, settings: Sequence[Setting], voxel_mm3: float
) -> _Labeling:
    """Measure candidates, given at each marked voxel, and match them for each of the settings."""
    ids = _without_small(ids, min(setting.min_volume_mm3 for setting in settings) / voxel_mm3)
    voxels = np.bincount(ids, minlength=1)[1:]
    means = mean_probabilities(ids, marked.probability)
    scores = {
        score: candidate_scores(score, ids, means, marked.local, settings[0].lowest_threshold).astype(np.float32)
        for score in sorted({setting.score for setting in settings})
    }
    shared = np.bincount(ids[marked.label > 0], minlength=len(voxels) + 1)[1:]
    labeling = _Labeling(voxels, shared, voxels * voxel_mm3, means.astype(np.float32), scores, {})
    kepts = (_kept(labeling, setting) for setting in settings)
    matches = _matches(np.append(0, ids).astype(np.int32)[marked.blocks], marked.block_label, kepts)
    return labeling._replace(matches=matches)


def _packed(components: np.ndarray, *volumes: np.ndarray) -> list[np.ndarray]:
    """
    Move connected components close together.

    Args:
        components: their numbers, not all of which need to occur, int32, 0 elsewhere, shape ``(H, W, D)``.
        volumes: of the same shape.

    Returns:
        the volumes with the components alone, each as it was and apart from the others, 0 elsewhere, shape
        ``(I, J, K)``; one voxel where there is none.
    """
    boxes = {number: box for number, box in enumerate(ndimage.find_objects(components), start=1) if box}
    sizes = np.array([[side.stop - side.start for side in box] for box in boxes.values()], dtype=int).reshape(-1, 3)
    places, shape = _places(sizes)
    packed = [np.zeros(shape, dtype=volume.dtype) for volume in volumes]
    for (number, box), place, size in zip(boxes.items(), places, sizes):
        inside = components[box] == number
        there = tuple(slice(start, start + width) for start, width in zip(place, size))
        for volume, target in zip(volumes, packed):
            target[there] = np.where(inside, volume[box], 0)
    return packed


def _places(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Place boxes side by side: in rows along the second axis, rows in layers along the third, and these along the first.

    Args:
        sizes: of the boxes, shape ``(n, 3)``.

    Returns:
        the first voxel of each, with an empty voxel at least between any two, likewise, and the shape that holds all.
    """
    places = np.zeros_like(sizes)
    limit = sizes.max(axis=0, initial=1)
    layer, row, column, layer_depth, row_depth = 0, 0, 0, 0, 0
    for box in np.lexsort((-sizes[:, 1], -sizes[:, 2], -sizes[:, 0])):  # of much the same size beside each other
        depth, width, height = sizes[box] + 1
        if column + width > limit[1] + 1:
            row, column, row_depth = row + row_depth, 0, 0
        if row + height > limit[2] + 1:
            layer, row, column, layer_depth, row_depth = layer + layer_depth, 0, 0, 0, 0
        places[box] = layer, column, row
        column += width
        layer_depth, row_depth = max(layer_depth, depth), max(row_depth, height)
    return places, np.array([max(layer + layer_depth, 1), *limit[1:]])


def _without_small(ids: np.ndarray, least_voxels: float) -> np.ndarray:
    """Take out candidates that every setting drops, a voxel's rounding aside, and number the others 1 to n."""
    large = np.flatnonzero(np.bincount(ids, minlength=1)[1:] > least_voxels - 1)
    new_ids = np.zeros(int(ids.max(initial=0)) + 1, dtype=np.int32)
    new_ids[large + 1] = np.arange(1, len(large) + 1)
    return new_ids[ids]


def scan_result(table: ScanTable, setting: Setting, slope: float = 1.0, intercept: float = 0.0) -> ScanResult:
    """
    Read what one scan adds to the score of a setting.

    Args:
        table: the scan's.
        setting: one that the table was made for.
        slope: of the calibration of scores.
        intercept: of the calibration; 0 with slope 1 leaves scores as they are.

    Returns:
        the same as :func:`scripts.metrics.score_scan` of the prediction that the setting gives.
    """
    labeling = table.labelings[setting.labeling]
    kept = _kept(labeling, setting)
    scores = labeling.scores[setting.score][kept]
    if (slope, intercept) != (1, 0):
        scores = calibrated_scores(scores, slope, intercept).astype(np.float32)
    best_fracture, best_overlap = labeling.matches[kept.tobytes()]
    return ScanResult(
        fracture_codes=np.full(table.fractures, UNKNOWN_CLASS),
        candidate_codes=np.full(len(scores), UNKNOWN_CLASS),
        label_scores=scores.astype(np.float64),
        best_fracture=best_fracture,
        best_overlap=best_overlap,
        candidate_voxels=int(labeling.voxels[kept].sum()),
        fracture_voxels=table.fracture_voxels,
        shared_voxels=int(labeling.shared_voxels[kept].sum()),
    )


def measure_scan(
    item: Mapping[str, Any],
    settings: Sequence[Setting],
    hu_range: Sequence[float],
    spine_margin_mm: float,
    assumed_orientation: str | None = None,
) -> ScanTable:
    """
    Read one scan, remove its spine once, and measure its candidates at every setting.

    Args:
        item: paths of the ``image``, of its ``label`` and of its map of probabilities ``pred``, with the spine left
            in, all on one grid, and ``label_codes`` where there is a table.
        settings: what to measure.
        hu_range: HU that become -1 and 1, as in the prediction.
        spine_margin_mm: margin around the spine that is removed with it.
        assumed_orientation: of a file that tells none, as in the prediction.

    Returns:
        the scan's table.

    Raises:
        ValueError: when the map is not on the label's grid, or holds other values than probabilities.
    """
    keys = ("image", "label", "pred")
    # one after another: Compose would hide the message of an error
    reader = CTReader(assumed_orientation)
    data: Mapping[Any, Any] = LoadImaged(keys, reader, image_only=True)(item)  # type: ignore[arg-type]
    data = CheckLabeld("label")(EnsureChannelFirstd(keys)(data))
    affine = data["label"].affine.numpy()
    pred, label = data["pred"], data["label"]
    if difference := grid_difference(pred.shape[1:], pred.affine, label.shape[1:], affine):
        raise ValueError(f"{item['pred']} is not on the grid of {item['label']}, {difference}: predict it again.")
    if not (data["pred"].min() >= -_ROUNDING and data["pred"].max() <= 1 + _ROUNDING):
        raise ValueError(f"{item['pred']} holds values outside [0, 1]: a map of probabilities is needed.")
    data["pred"] = data["pred"].clamp(0, 1)
    data = Orientationd(keys, axcodes="RAS", labels=None)(data)
    data = ScaleIntensityRanged("image", hu_range[0], hu_range[1], -1.0, 1.0, clip=True)(data)
    data = RemoveSpined("pred", hu_range=(hu_range[0], hu_range[1]), margin_mm=spine_margin_mm)(data)
    return scan_table(data["pred"].numpy()[0], data["label"].numpy()[0], affine, settings)

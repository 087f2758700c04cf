"""What is known of a candidate and of all candidates of a scan, as numbers; who writes them formats them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cc3d
import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

from scripts.anatomy.components import foreground_box, instance_boxes
from scripts.anatomy.midline import known_plane
from scripts.anatomy.rib_cage import RibCage, RibPlace, rib_id
from scripts.anatomy.thorax import chest_position, largest_extent_mm
from scripts.data.ribfrac import CLASS_NAMES, UNKNOWN_CLASS
from scripts.description.rib_score import ChestFacts, chest_facts

__all__ = [
    "TYPE_CODES",
    "Candidate",
    "ScanSummary",
    "candidate_from_record",
    "count_words",
    "counted",
    "describe_candidates",
    "failed_scan",
    "ribs_of",
    "summarize",
    "summary_from_record",
]

# Digits behind the point to which a candidate's numbers are rounded when it is made: tables, pages, DICOM and the
# operating point then all see one number.
SCORE_DIGITS = 6
VOLUME_DIGITS = 1
MM_DIGITS = 2
VOXEL_DIGITS = 1
LENGTH_DIGITS = 1
PLACE_DIGITS = 0
_MOST_POINTS = 2000  # of an instance that tell where it lies
TYPE_CODES = {name.lower(): code for code, name in CLASS_NAMES.items()}


@dataclass(frozen=True)
class Candidate:
    """
    A candidate: its score, its size, and its place in the scan and in the chest.

    Args:
        id: its number in the mask, from 1.
        score: in [0, 1], to 6 digits.
        volume_mm3: its volume, to 0.1 mm³.
        side: ``right`` or ``left`` of the patient; empty where it is not known.
        center_mm: its center of mass in patient coordinates as DICOM has them (LPS), to 0.01 mm.
        center_voxels: the same in voxels of the scan, from 0, to 0.1 voxel.
        first_voxel: first voxel of its bounding box.
        last_voxel: last voxel of it.
        length_mm: its largest extent, to 0.1 mm.
        from_apex_mm: how far its center lies below the lungs' apex, to 1 mm; None where it is not known.
        level: third of the chest, see :class:`scripts.anatomy.ChestPosition`; empty where it is not known.
        angle_degrees: see there, to 1 degree; None where it is not known.
        part: see there; empty where it is not known.
        rib_side: side of the rib that it lies on, which may differ from ``side`` beside the spine and the breastbone;
            empty where it lies on none, or none were found.
        rib_number: number of this rib, 1 to 12; 0 of a cervical and 13 of a lumbar one; None where it is not known.
        rib_order: place of this rib from above among those in the scan on its side, from 1; None where it lies on none.
        rib_from_spine_mm: how far along the rib from the spine it lies, to 1 mm; None where it is not known.
        rib_percent: the same in per cent of the rib's length, to 1 %; None where it is not known.
        displacement: of its stubs, ``undisplaced``, ``offset`` or ``displaced``, see
            :mod:`scripts.description.displacement`; empty where it was not measured.
        offset_mm: distance of the stubs' axes across the rib, to 0.1 mm; None where it was not measured.
        offset_sd_mm: standard deviation of it, likewise.
        along_mm: gap between the stubs along the rib, negative where they overlap, likewise.
        along_sd_mm: standard deviation of it, likewise.
        contact_percent: share of the section that faces the other stub, to 1 %, likewise.
        contact_sd_percent: standard deviation of it, likewise.
        bend_degrees: angle between the stubs' axes, to 1 degree, likewise.
        not_measurable: why its displacement could not be measured; empty where it was, or was not asked for.
        type: ``displaced``, ``nondisplaced``, ``buckle`` or ``segmental``, the most probable one; empty where it is not
            known.
        type_probabilities: of these four, in this order, to 0.001; empty where they are not known.
        segmental_with: id of the candidate on the same rib that makes one segmental fracture with it, see
            :func:`scripts.description.fracture_type.segmental_pairs`; None without one.
    """

    id: int
    score: float
    volume_mm3: float
    side: str
    center_mm: tuple[float, float, float]
    center_voxels: tuple[float, float, float]
    first_voxel: tuple[int, int, int]
    last_voxel: tuple[int, int, int]
    length_mm: float
    from_apex_mm: float | None = None
    level: str = ""
    angle_degrees: float | None = None
    part: str = ""
    rib_side: str = ""
    rib_number: int | None = None
    rib_order: int | None = None
    rib_from_spine_mm: float | None = None
    rib_percent: float | None = None
    displacement: str = ""
    offset_mm: float | None = None
    offset_sd_mm: float | None = None
    along_mm: float | None = None
    along_sd_mm: float | None = None
    contact_percent: float | None = None
    contact_sd_percent: float | None = None
    bend_degrees: float | None = None
    not_measurable: str = ""
    type: str = ""
    type_probabilities: tuple[float, ...] = ()
    segmental_with: int | None = None

    @property
    def type_code(self) -> int:
        """RibFrac's code of its type, 4 of both parts of a segmental fracture; -1 where it is not known."""
        if self.segmental_with is not None:
            return TYPE_CODES["segmental"]
        return TYPE_CODES.get(self.type, UNKNOWN_CLASS)

    @property
    def rib(self) -> str:
        """Its rib, such as ``left 6``; ``unknown`` where the rib has no number, and empty where it lies on none."""
        if self.rib_order is None:
            return ""
        return "unknown" if self.rib_number is None else f"{self.rib_side} {self.rib_number}"

    @property
    def rib_id(self) -> int | None:
        """Id of its rib, see :func:`scripts.anatomy.rib_cage.rib_id`; None where it lies on none."""
        return None if self.rib_order is None else rib_id(self.rib_side, self.rib_number, self.rib_order)


@dataclass(frozen=True)
class ScanSummary:
    """
    The sum of a scan's candidates.

    Args:
        candidates: all of them.
        at_operating_point: those whose score is not below the operating point, of them
        right: on the right, and
        left: on the left; those of unknown side are in neither.
        highest_score: of all; None without any.
        many_fractures: whether so many are at the operating point that the scan is flagged.
        notes: what is doubtful about the scan.
        chest: what those at the operating point are together; None where fractures were not described.
        failure: why the scan could not be predicted, and there are no candidates; empty where it was.
    """

    candidates: int
    at_operating_point: int
    right: int
    left: int
    highest_score: float | None
    many_fractures: bool
    notes: str = ""
    chest: ChestFacts | None = None
    failure: str = ""

    @property
    def status(self) -> str:
        """``failed``, ``doubtful`` with quality notes, or ``done``."""
        return "failed" if self.failure else "doubtful" if self.notes else "done"


def failed_scan(reason: str) -> ScanSummary:
    """Sum up a scan that could not be predicted, for a reason that names its file."""
    return ScanSummary(0, 0, 0, 0, None, False, failure=reason)


def describe_candidates(
    pred: MetaTensor,
    label_scores: Sequence[float] | torch.Tensor,
    midsagittal_plane: torch.Tensor | None = None,
    thorax_axis: torch.Tensor | None = None,
    rib_cage: RibCage | None = None,
) -> list[Candidate]:
    """
    Describe the candidates of one scan.

    Args:
        pred: ids 1..n on the scan's own grid, integers, shape ``(1, H, W, D)``, with the scan's affine (RAS mm).
        label_scores: scores in [0, 1] of the candidates 1..n.
        midsagittal_plane: the plane n·x = d in RAS mm as ``(nx, ny, nz, d)``, n to the patient's right; without it, or
            where it is NaN since the scan does not show it, the side stays unknown, and the place in the chest.
        thorax_axis: points of the chest as :func:`scripts.anatomy.thorax_axis` gives them; without it the place in the
            chest stays unknown.
        rib_cage: the ribs of the scan; without them nothing is known of the rib.

    Returns:
        The candidates in the order of their ids.
    """
    affine = np.asarray(pred.affine, dtype=float)
    voxel_mm3 = abs(np.linalg.det(affine[:3, :3]))
    whole = pred[0].cpu().numpy()
    around = foreground_box(whole)
    first = np.array([side.start for side in around])
    ids = whole[around].astype(np.uint32)
    if not ids.size:
        return []
    statistics = cc3d.statistics(ids)
    plane = known_plane(midsagittal_plane)
    candidates = []
    for number, score in enumerate(label_scores, start=1):
        center, box = statistics["centroids"][number] + first, statistics["bounding_boxes"][number]
        place = tuple(slice(int(part.start + low), int(part.stop + low)) for part, low in zip(box, first))
        x, y, z = (float(mm) for mm in affine[:3, :3] @ center + affine[:3, 3])
        candidates.append(
            Candidate(
                id=number,
                score=_rounded(score, SCORE_DIGITS),
                volume_mm3=_rounded(statistics["voxel_counts"][number] * voxel_mm3, VOLUME_DIGITS),
                side=_side((x, y, z), plane),
                center_mm=(_rounded(-x, MM_DIGITS), _rounded(-y, MM_DIGITS), _rounded(z, MM_DIGITS)),
                center_voxels=_three([_rounded(voxel, VOXEL_DIGITS) for voxel in center]),
                first_voxel=_three([side.start for side in place]),
                last_voxel=_three([side.stop - 1 for side in place]),
                length_mm=_rounded(largest_extent_mm(ids[box] == number, affine), LENGTH_DIGITS),
                **_place((x, y, z), plane, thorax_axis),
                **_rib_place(ids[box] == number, place, affine, rib_cage),
            )
        )
    return candidates


def ribs_of(instances: MetaTensor, rib_cage: RibCage) -> dict[int, int]:
    """
    Tell on which ribs instances lie, such as annotated fractures.

    Args:
        instances: ids, 0 is background, integers, shape ``(1, H, W, D)``, with the scan's affine (RAS mm).
        rib_cage: the ribs of the scan.

    Returns:
        Id of the rib by the id of each instance that lies on one.
    """
    ids, affine = instances[0].cpu().numpy().astype(int), np.asarray(instances.affine, dtype=float)
    found = {}
    for number, box in enumerate(instance_boxes(ids), start=1):
        place = None if box is None else _place_on_rib(ids[box] == number, box, affine, rib_cage)
        if place is not None:
            found[number] = place.rib.id
    return found


def summarize(
    candidates: Sequence[Candidate],
    operating_score: float,
    many_fractures: int,
    notes: str = "",
    described: bool = False,
) -> ScanSummary:
    """
    Sum up the candidates of one scan.

    Args:
        candidates: all of them.
        operating_score: the operating point: candidates of this score or more count.
        many_fractures: so many that count, or more, raise the flag.
        notes: what is doubtful about the scan.
        described: whether the candidates were described, and the sum tells what they are together.

    Returns:
        The sum.
    """
    counting = [candidate for candidate in candidates if candidate.score >= operating_score]
    return ScanSummary(
        candidates=len(candidates),
        at_operating_point=len(counting),
        right=sum(candidate.side == "right" for candidate in counting),
        left=sum(candidate.side == "left" for candidate in counting),
        highest_score=max((candidate.score for candidate in candidates), default=None),
        many_fractures=len(counting) >= many_fractures,
        notes=notes,
        chest=chest_facts(counting) if described else None,
    )


def counted(number: int, noun: str) -> str:
    """
    Write a number with its noun, such as ``1 scan`` and ``2 scans``.

    Args:
        number: how many.
        noun: of one; its plural ends in s.
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def count_words(scores: Iterable[float], operating_score: float) -> str:
    """
    Tell how many candidates count, for a log or a picture.

    Args:
        scores: of all candidates of a scan, in [0, 1].
        operating_score: candidates of this score or more count.

    Returns:
        Such as ``6 candidates of score 0.5 or more, 5 below``.
    """
    counts = [score >= operating_score for score in scores]
    number, below = counts.count(True), counts.count(False)
    words = f"{counted(number, 'candidate')} of score {operating_score:g} or more"
    return f"{words}, {below} below" if below else words


def summary_from_record(values: Mapping[str, Any]) -> ScanSummary:
    """
    Read a sum back from the plain values of ``dataclasses.asdict``.

    Args:
        values: the sum's, by their names.

    Returns:
        A sum that equals the one that was written.
    """
    chest = values.get("chest")
    return ScanSummary(**{**values, "chest": None if chest is None else ChestFacts(**chest)})


def candidate_from_record(values: Mapping[str, Any]) -> Candidate:
    """
    Read a candidate back from the plain values of ``dataclasses.asdict``, whose tuples JSON turns into lists.

    Args:
        values: the candidate's, by their names.

    Returns:
        A candidate that equals the one that was written.
    """
    fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return Candidate(**fields)


def _rounded(value: Any, digits: int) -> float:
    """Round as formatting does; NumPy's own rounding may differ in the last digit."""
    return round(float(value), digits)


def _three(values: Sequence[Any]) -> tuple[Any, Any, Any]:
    first, second, third = values
    return first, second, third


def _side(center_mm: Sequence[float], plane: NDArray[np.float64] | None) -> str:
    """Tell on which side of the patient a point in RAS mm lies; empty without a plane."""
    if plane is None:
        return ""
    *normal, offset = plane
    return "right" if np.dot(normal, center_mm) > offset else "left"


def _place(
    center_mm: Sequence[float], plane: NDArray[np.float64] | None, thorax_axis: torch.Tensor | None
) -> dict[str, Any]:
    """Tell where in the chest a point in RAS mm lies, as far as it is known."""
    if plane is None or thorax_axis is None:
        return {}
    place = chest_position(center_mm, plane, np.asarray(thorax_axis))
    return {
        "from_apex_mm": None if np.isnan(place.from_apex_mm) else _rounded(place.from_apex_mm, PLACE_DIGITS),
        "level": place.level,
        "angle_degrees": None if np.isnan(place.angle_degrees) else _rounded(place.angle_degrees, PLACE_DIGITS),
        "part": place.part,
    }


def _place_on_rib(
    voxels: NDArray[np.bool_], box: tuple[slice, ...], affine: NDArray[np.float64], rib_cage: RibCage
) -> RibPlace | None:
    """Place the voxels in a box of the scan."""
    return rib_cage.place_of(instance_points_mm(voxels, box, affine)) if rib_cage.ribs else None


def instance_points_mm(
    voxels: NDArray[np.bool_], box: tuple[slice, ...], affine: NDArray[np.float64]
) -> NDArray[np.float64]:
    """
    Return where the voxels of an instance lie, or as many of them, evenly, as tell its place.

    Args:
        voxels: which voxels of a box of the scan are the instance's; at least one.
        box: where in the scan the box lies.
        affine: from the scan's voxels to RAS mm, shape ``(4, 4)``.

    Returns:
        Points in RAS mm, shape ``(n, 3)``, n from 1 to 2000.
    """
    points = np.argwhere(voxels) + [part.start for part in box]
    points = points[:: -(-len(points) // _MOST_POINTS)]
    return np.asarray(points @ affine[:3, :3].T + affine[:3, 3])


def _rib_place(
    voxels: NDArray[np.bool_], box: tuple[slice, ...], affine: NDArray[np.float64], rib_cage: RibCage | None
) -> dict[str, Any]:
    """Tell on which rib the voxels in a box of the scan lie, as far as it is known."""
    place = None if rib_cage is None else _place_on_rib(voxels, box, affine, rib_cage)
    if place is None:
        return {}
    way, percent = place.from_spine_mm, place.percent
    return {
        "rib_side": place.rib.side,
        "rib_number": place.rib.number,
        "rib_order": place.rib.order,
        "rib_from_spine_mm": None if way is None else _rounded(way, PLACE_DIGITS),
        "rib_percent": None if percent is None else _rounded(percent, PLACE_DIGITS),
    }

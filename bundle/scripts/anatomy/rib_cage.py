"""What is known of the ribs of a scan: the number, the centerline and the voxels of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

__all__ = ["Rib", "RibCage", "RibPlace", "rib_id"]

RIBS_PER_SIDE = 12
# Ids of ribs without a number: 101 the uppermost one in the scan on the left, 201 on the right.
UNKNOWN_LEFT = 100
UNKNOWN_RIGHT = 200
# A cervical rib above the first one and a lumbar rib below the twelfth are counted as 0 and 13.
CERVICAL, LUMBAR = 0, 13
EXTRA_IDS = {("left", CERVICAL): 31, ("left", LUMBAR): 32, ("right", CERVICAL): 33, ("right", LUMBAR): 34}
# A place farther than this from the voxels of every rib is on none. Of 160 synthetic fractures as many were placed on
# their rib with 5, 10 and 15 mm; with 10 mm two more were placed on a neighbor of a rib that was followed too briefly.
NEAR_RIB_MM = 5.0
# Fewer ribs on a side leave open whether one was missed where a thing lies off all of them.
MIN_RIBS_OF_SIDE = 8
_COARSE_MM = 3.0  # steps in which a distance from the ribs is measured over a whole scan


def rib_id(side: str, number: int | None, order: int) -> int:
    """
    Give the id of a rib in a mask.

    Args:
        side: ``left`` or ``right``.
        number: 1 to 12; 0 for a cervical and 13 for a lumbar rib; None where it is unknown.
        order: place from above among the ribs in the scan on its side, from 1.

    Returns:
        1 to 12 the left ribs from above, 13 to 24 the right ones (the order of TotalSegmentator's classes); 31 and 32 a
        cervical and a lumbar rib on the left, 33 and 34 on the right; 101, 102, ... ribs without a number on the left,
        201, 202, ... on the right, from above.
    """
    if number is None:
        return order + (UNKNOWN_LEFT if side == "left" else UNKNOWN_RIGHT)
    if (side, number) in EXTRA_IDS:
        return EXTRA_IDS[side, number]
    return number + (0 if side == "left" else RIBS_PER_SIDE)


@dataclass(frozen=True)
class Rib:
    """
    One rib.

    Args:
        side: ``left`` or ``right`` of the patient.
        number: 1 to 12; 0 for a cervical and 13 for a lumbar rib; None where the scan does not tell it.
        order: place from above among the ribs in the scan on its side, from 1.
        confidence: that number and course are right, in [0, 1].
        centerline_mm: points along its middle, about 2 mm apart, from the costovertebral joint to where the costal
            cartilage begins, or as much of it as the scan shows; RAS mm, shape ``(n, 3)``, n at least 2.
        starts_in_scan: whether the costovertebral end is in the scan and was found.
        ends_in_scan: whether the end at the cartilage, or the tip of a floating rib, is in the scan.
    """

    side: str
    number: int | None
    order: int
    confidence: float
    centerline_mm: NDArray[np.float64]
    starts_in_scan: bool
    ends_in_scan: bool

    @property
    def id(self) -> int:
        """The id in the mask, see :func:`rib_id`."""
        return rib_id(self.side, self.number, self.order)

    @property
    def name(self) -> str:
        """Such as ``left 6``, or ``left unknown (3 from above)``."""
        return f"{self.side} " + (f"unknown ({self.order} from above)" if self.number is None else str(self.number))

    @property
    def way_mm(self) -> NDArray[np.float64]:
        """How far along the rib each point of the centerline lies, from 0, shape ``(n,)``."""
        steps = np.linalg.norm(np.diff(self.centerline_mm, axis=0), axis=1)
        return np.concatenate([[0.0], np.cumsum(steps)])

    @property
    def length_mm(self) -> float:
        """Length of the centerline."""
        return float(self.way_mm[-1])

    def way_at(self, point_mm: ArrayLike) -> float:
        """
        Return how far along the rib a point lies.

        Args:
            point_mm: the point, RAS mm, shape ``(3,)``.

        Returns:
            Way along the centerline to its nearest point, in mm, between the points too.
        """
        point = np.asarray(point_mm, dtype=float)
        starts, steps = self.centerline_mm[:-1], np.diff(self.centerline_mm, axis=0)
        squared = np.maximum((steps**2).sum(axis=1), 1e-12)
        share = np.clip(((point - starts) * steps).sum(axis=1) / squared, 0.0, 1.0)
        distance = np.linalg.norm(starts + share[:, None] * steps - point, axis=1)
        nearest = int(distance.argmin())
        return float(self.way_mm[nearest] + share[nearest] * np.linalg.norm(steps[nearest]))


@dataclass(frozen=True)
class RibPlace:
    """
    Where on a rib a place lies.

    Args:
        rib: the rib.
        distance_mm: from the nearest voxel of the rib, 0 inside.
        from_spine_mm: way along the rib from its costovertebral end; None where that is not in the scan.
        percent: the same in per cent of the rib's length; None unless both ends are in the scan.
    """

    rib: Rib
    distance_mm: float
    from_spine_mm: float | None
    percent: float | None


@dataclass(frozen=True)
class RibCage:
    """
    The ribs of a scan.

    Args:
        mask: the ids of the ribs, :attr:`Rib.id`, 0 elsewhere, uint8, shape ``(H, W, D)``.
        affine: from the voxels of the mask to RAS mm, shape ``(4, 4)``.
        ribs: the ribs, left before right, each side from above.
        notes: what is missing or doubtful, each a sentence without a period; why there are none.
        metal_mm: places of metal, and of what is as dense, in the scan, RAS mm, about 1.5 mm apart, shape ``(n, 3)``.
    """

    mask: NDArray[np.uint8]
    affine: NDArray[np.float64]
    ribs: tuple[Rib, ...] = ()
    notes: tuple[str, ...] = field(default=())
    metal_mm: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 3)))

    def rib(self, identifier: int) -> Rib:
        """Return the rib of an id; raises ``KeyError`` where there is none."""
        return {rib.id: rib for rib in self.ribs}[identifier]

    def on_grid(self, affine: ArrayLike, shape: Sequence[int]) -> NDArray[np.uint8]:
        """
        Give the mask another grid; the nearest voxel counts.

        Args:
            affine: from the voxels of that grid to RAS mm, shape ``(4, 4)``.
            shape: its shape, ``(H, W, D)``.

        Returns:
            The ids there, uint8, 0 outside the mask.
        """
        matrix = np.linalg.solve(self.affine, np.asarray(affine, dtype=float))
        if np.allclose(matrix[:3, :3], np.diag(np.diag(matrix[:3, :3]))):  # axes are parallel: much faster
            picks = [np.rint(matrix[i, i] * np.arange(n) + matrix[i, 3]).astype(int) for i, n in enumerate(shape)]
            inside = [np.flatnonzero((pick >= 0) & (pick < n)) for pick, n in zip(picks, self.mask.shape)]
            turned = np.zeros(tuple(shape), dtype=self.mask.dtype)
            box = tuple(slice(at[0], at[-1] + 1) if len(at) else slice(0) for at in inside)  # picks rise, or fall
            turned[box] = self.mask[_index([pick[at] for pick, at in zip(picks, inside)])]
            return turned
        return ndimage.affine_transform(self.mask, matrix, output_shape=tuple(shape), order=0)

    def place_of(self, points_mm: ArrayLike) -> RibPlace | None:
        """
        Tell on which rib a thing lies, such as a candidate: the one nearest to most of its points.

        Args:
            points_mm: points of the thing, RAS mm, shape ``(n, 3)``, n at least 1.

        Returns:
            The rib, and where on it the points' middle lies; None where no rib is within 5 mm of any point.
        """
        points = np.atleast_2d(np.asarray(points_mm, dtype=float))
        distance, nearest = self._nearest(points)
        near = distance <= NEAR_RIB_MM
        if not near.any():
            return None
        # the nearer a point, the more it counts: a candidate at a joint or between two ribs has points on both
        votes = np.bincount(nearest[near], weights=1.0 / (1.0 + distance[near]))
        rib = self.rib(int(votes.argmax()))
        own = near & (nearest == rib.id)
        way = rib.way_at(points[own].mean(axis=0))
        starts, whole = rib.starts_in_scan, rib.starts_in_scan and rib.ends_in_scan
        return RibPlace(
            rib, float(distance[own].min()), way if starts else None, 100.0 * way / rib.length_mm if whole else None
        )

    def is_off_ribs(self, points_mm: ArrayLike, distance_mm: float) -> bool:
        """
        Tell whether a thing, such as a candidate, lies off all ribs, where ribs were found all around.

        Args:
            points_mm: points of the thing, RAS mm, shape ``(n, 3)``, n at least 1.
            distance_mm: how far from the voxels of every rib all of the points must be.

        Returns:
            False as well where it is not sure that no rib was missed: where fewer than 8 ribs were found on the side,
            where their numbers leave one out, and above the uppermost and below the lowest one of them.
        """
        points = np.atleast_2d(np.asarray(points_mm, dtype=float))
        if not self.ribs or not (self._nearest(points, distance_mm)[0] > distance_mm).all():
            return False
        center = points.mean(axis=0)
        away = [np.linalg.norm(rib.centerline_mm - center, axis=1).min() for rib in self.ribs]
        side = [rib for rib in self.ribs if rib.side == self.ribs[int(np.argmin(away))].side]
        heights = np.concatenate([rib.centerline_mm[:, 2] for rib in side])
        return _is_gapless(side) and bool(heights.min() <= center[2] <= heights.max())

    def surroundings(
        self,
        affine: ArrayLike,
        shape: Sequence[int],
        distance_mm: float,
        places_mm: NDArray[np.float64] | None = None,
    ) -> NDArray[np.bool_]:
        """
        Tell where a thing on a rib can be: near the ribs, and wherever one of them may have been missed.

        Args:
            affine: from the voxels of a grid to RAS mm, shape ``(4, 4)``.
            shape: of the grid, ``(H, W, D)``.
            distance_mm: how far from the voxels of a rib is near; measured in steps of about 3 mm.
            places_mm: points on the ribs, RAS mm, shape ``(n, 3)``: near is what is near these instead.

        Returns:
            bool, of that shape. A rib may have been missed on a side with fewer than 8 ribs or whose numbers leave one
            out, above the uppermost rib of a side unless it is the first, and below the lowest one unless it is the
            twelfth. Without ribs on either side all is True.
        """
        affine = np.asarray(affine, dtype=float)
        sides = {side: [rib for rib in self.ribs if rib.side == side] for side in ("left", "right")}
        if not all(sides.values()):
            return np.ones(tuple(shape), dtype=bool)
        steps = np.maximum(np.rint(_COARSE_MM / np.linalg.norm(affine[:3, :3], axis=0)), 1).astype(int)
        coarse = affine @ np.diag([*steps, 1.0])
        coarse[:3, 3] = affine[:3, :3] @ ((steps - 1) / 2) + affine[:3, 3]
        cells = [-(-size // step) for size, step in zip(shape, steps)]
        spacing = np.linalg.norm(coarse[:3, :3], axis=0)
        if places_mm is None:
            ribs = self.on_grid(coarse, cells) > 0
        else:
            ribs = np.zeros(cells, dtype=bool)
            at = np.rint((places_mm - coarse[:3, 3]) @ np.linalg.inv(coarse[:3, :3]).T).astype(int)
            ribs[tuple(at[((at >= 0) & (at < cells)).all(axis=1)].T)] = True
        near = np.zeros(cells, dtype=bool)
        if ribs.any():
            near = ndimage.distance_transform_edt(~ribs, sampling=spacing) <= distance_mm + np.linalg.norm(spacing) / 2
        to_right, _, up = (
            sum(coarse[axis, i] * np.arange(n).reshape(np.roll((n, 1, 1), i)) for i, n in enumerate(cells))
            + coarse[axis, 3]
            for axis in range(3)
        )
        starts = {side: np.mean([rib.centerline_mm[0, 0] for rib in of_side]) for side, of_side in sides.items()}
        is_right = to_right > (starts["left"] + starts["right"]) / 2
        for side, of_side in sides.items():
            on_side = is_right if side == "right" else ~is_right
            if not _is_gapless(of_side):
                near |= on_side
                continue
            numbers = {rib.number for rib in of_side}
            heights = np.concatenate([rib.centerline_mm[:, 2] for rib in of_side])
            if 1 not in numbers:
                near |= on_side & (up > heights.max())
            if RIBS_PER_SIDE not in numbers:
                near |= on_side & (up < heights.min())
        for axis, (step, size) in enumerate(zip(steps, shape)):
            near = near.repeat(step, axis=axis).take(range(size), axis=axis) if step > 1 else near
        return near

    def _nearest(
        self, points: NDArray[np.float64], reach_mm: float = NEAR_RIB_MM
    ) -> tuple[NDArray[np.float64], NDArray[np.int_]]:
        """Return the distance in mm of each point from the nearest rib's voxel, and that rib's id; inf where far."""
        spacing = np.linalg.norm(self.affine[:3, :3], axis=0)
        voxels = np.linalg.solve(self.affine[:3, :3], (points - self.affine[:3, 3]).T).T
        reach = np.ceil(reach_mm / spacing).astype(int) + 1
        low = np.maximum(np.floor(voxels.min(axis=0)).astype(int) - reach, 0)
        high = np.minimum(np.ceil(voxels.max(axis=0)).astype(int) + reach + 1, self.mask.shape)
        box = self.mask[tuple(slice(a, max(a, b)) for a, b in zip(low, high))]
        if not box.any():
            return np.full(len(points), np.inf), np.zeros(len(points), dtype=int)
        places = np.argwhere(box)
        ids = box[tuple(places.T)].astype(int)
        distance, index = cKDTree((places + low) * spacing).query(voxels * spacing)  # skewed axes are none of a scan's
        return distance, ids[index]


def _index(places: Sequence[NDArray[np.int_]]) -> tuple[slice | NDArray[np.int_], ...]:
    """Index a volume at places along each axis; neighbors, up or down, by slices, which take a tenth of the time."""
    runs = []
    for place in places:
        step = -1 if len(place) and place[-1] < place[0] else 1
        if not len(place) or (np.diff(place) != step).any():
            return np.ix_(*places)
        end = int(place[-1]) + step
        runs.append(slice(int(place[0]), None if end < 0 else end, step))
    return tuple(runs)


def _is_gapless(side: Sequence[Rib]) -> bool:
    """Tell of the ribs of a side whether there are enough, and their numbers leave none out."""
    numbers = [rib.number for rib in side if rib.number is not None]
    return len(side) >= MIN_RIBS_OF_SIDE and (not numbers or max(numbers) - min(numbers) < len(side))

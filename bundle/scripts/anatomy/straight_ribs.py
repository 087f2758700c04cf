"""
Ribs straightened along their centerlines: curved planar reformation.

A straight rib has three axes: along it from the spine, up across its height, and outward through the chest wall. In
these axes all ribs look alike, left or right.

References:
    Ringl et al. (2015), The ribs unfolded, Eur Radiol 25:1865-1874: rib fractures are read faster in such a picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from scripts.anatomy.rib_cage import Rib, RibCage

__all__ = [
    "BEYOND_MM",
    "BLOCK_STEP_MM",
    "STEP_MM",
    "RibBlocks",
    "StraightRib",
    "rib_blocks",
    "sampled",
    "sampled_ids",
    "straight_ribs",
]

STEP_MM = 1.0  # between the points of a straight rib
BEYOND_MM = 10  # of what follows each end
_CURVE_SIGMA_MM = 4.0  # a centerline found in voxels is not smooth
_TURN_SIGMA_MM = 10.0
_DOME_MM = 60.0  # below the uppermost rib the chest wall is upright; above, it closes like a dome


@dataclass(frozen=True)
class StraightRib:
    """
    A rib with its axes, at points a mm apart, from 10 mm before its spinal end to 10 mm beyond the other.

    Args:
        rib: the rib.
        points_mm: on its centerline, RAS mm, shape ``(n, 3)``.
        up: across its height, of length 1, shape ``(n, 3)``.
        outward: through the chest wall, of length 1, shape ``(n, 3)``.
    """

    rib: Rib
    points_mm: NDArray[np.float64]
    up: NDArray[np.float64]
    outward: NDArray[np.float64]

    @cached_property
    def way_mm(self) -> NDArray[np.float64]:
        """How far along the rib each point lies, from -10, shape ``(n,)``."""
        return np.arange(len(self.points_mm), dtype=float) * STEP_MM - BEYOND_MM

    def places_mm(self, way_mm: ArrayLike, up_mm: ArrayLike, outward_mm: ArrayLike) -> NDArray[np.float64]:
        """
        Return where a block of the straight rib lies in the patient.

        Args:
            way_mm: along the rib, shape ``(a,)``, beyond both ends NaN.
            up_mm: across its height, shape ``(b,)``.
            outward_mm: through the chest wall, shape ``(c,)``.

        Returns:
            Places in RAS mm, shape ``(a, b, c, 3)``.
        """

        def at(values: NDArray[np.float64]) -> NDArray[np.float64]:
            columns = [np.interp(way, self.way_mm, column, np.nan, np.nan) for column in values.T]
            return np.stack(columns, axis=-1)[:, None, None]

        way, up, outward = (np.asarray(mm, dtype=float) for mm in (way_mm, up_mm, outward_mm))
        shift = at(self.up) * up[:, None, None] + at(self.outward) * outward[:, None]
        return at(self.points_mm) + shift


def straight_ribs(cage: RibCage) -> list[StraightRib]:
    """
    Give each rib of a cage its axes.

    Outward is away from the middle of its side, at the rib's own height, and higher up away from the middle of the
    dome; turned to be upright on the centerline, and smoothed along it.

    Args:
        cage: the ribs of a scan.

    Returns:
        The ribs, in their order.
    """
    straight = []
    for side in ("left", "right"):
        ribs = [rib for rib in cage.ribs if rib.side == side]
        if not ribs:
            continue
        points = np.concatenate([_even(rib.centerline_mm) for rib in ribs])
        middle, dome_mm = points[:, :2].mean(axis=0), points[:, 2].max() - _DOME_MM
        straight += [_with_axes(rib, middle, dome_mm) for rib in ribs]
    return straight


def _with_axes(rib: Rib, middle_mm: NDArray[np.float64], dome_mm: float) -> StraightRib:
    curve = _smooth(_even(rib.centerline_mm), _CURVE_SIGMA_MM)
    line = _extended(_even(curve))
    along = _of_length_1(np.gradient(line, axis=0))
    from_middle = line - np.column_stack(
        [np.tile(middle_mm, (len(line), 1)), np.minimum(line[:, 2], max(dome_mm, line[:, 2].min()))]
    )
    outward = _upright(_of_length_1(from_middle), along)
    outward = _upright(_smooth(outward, _TURN_SIGMA_MM), along)
    up = np.cross(along, outward) if rib.side == "left" else np.cross(outward, along)
    return StraightRib(rib, line, up, outward)


def _even(line: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give a line points a mm apart; the last part is as long as is left, and drawn to the last point."""
    way = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    even = np.linspace(0.0, way[-1], max(2, round(way[-1] / STEP_MM) + 1))
    return np.column_stack([np.interp(even, way, column) for column in line.T])


def _smooth(values: NDArray[np.float64], sigma_mm: float) -> NDArray[np.float64]:
    """Smooth along the first axis, with both ends kept in place."""
    room = min(len(values) - 1, round(4 * sigma_mm / STEP_MM))
    padded = np.pad(values, ((room, room), (0, 0)), mode="reflect", reflect_type="odd")
    smooth = ndimage.gaussian_filter1d(padded, sigma_mm / STEP_MM, axis=0, mode="nearest")
    return smooth[room : room + len(values)]


def _extended(line: NDArray[np.float64]) -> NDArray[np.float64]:
    """Add straight ends."""
    reach = min(len(line) - 1, BEYOND_MM)
    first, last = _of_length_1(np.array([line[0] - line[reach], line[-1] - line[-1 - reach]]))
    steps = np.arange(1, BEYOND_MM + 1)[:, None] * STEP_MM
    return np.concatenate([line[0] + steps[::-1] * first, line, line[-1] + steps * last])


def _upright(directions: NDArray[np.float64], along: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn directions to be at a right angle to a line."""
    return _of_length_1(directions - (directions * along).sum(axis=1, keepdims=True) * along)


def _of_length_1(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def sampled(
    image: NDArray, affine: NDArray[np.float64], places_mm: NDArray[np.float64], outside: float
) -> NDArray[np.float32]:
    """
    Sample a scan at places between its voxels.

    Args:
        image: of any numeric type, shape ``(H, W, D)``.
        affine: from voxels to RAS mm, shape ``(4, 4)``.
        places_mm: RAS mm, shape ``(..., 3)``.
        outside: the value of places outside the scan, and of those that are NaN.

    Returns:
        The values, linear between voxels, shape ``(...)``.
    """
    voxels = _voxels(affine, places_mm)
    inside = _inside(voxels, image.shape)
    if inside.all():  # most often: nothing to pick out, nor to put back
        return ndimage.map_coordinates(image, np.moveaxis(voxels, -1, 0), np.float32, order=1, mode="nearest")
    values = np.full(inside.shape, outside, dtype=np.float32)
    values[inside] = ndimage.map_coordinates(image, voxels[inside].T, np.float32, order=1, mode="nearest")
    return values


def sampled_ids(ids: NDArray, affine: NDArray[np.float64], places_mm: NDArray[np.float64]) -> NDArray:
    """
    Look up the ids of the voxels that places lie in.

    Args:
        ids: integers, shape ``(H, W, D)``.
        affine: from voxels to RAS mm, shape ``(4, 4)``.
        places_mm: RAS mm, shape ``(..., 3)``.

    Returns:
        The ids, shape ``(...)``; 0 outside, and for NaN.
    """
    voxels = _voxels(affine, places_mm)
    inside = _inside(voxels, ids.shape)
    found = np.zeros(inside.shape, dtype=ids.dtype)
    found[inside] = ids[tuple(np.rint(voxels[inside]).astype(int).T)]
    return found


def _voxels(affine: NDArray[np.float64], places_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    to_voxels = np.linalg.inv(np.asarray(affine, dtype=float))
    return places_mm @ to_voxels[:3, :3].T + to_voxels[:3, 3]


def _inside(voxels: NDArray[np.float64], shape: Sequence[int]) -> NDArray[np.bool_]:
    along = [(voxels[..., i] > -0.5) & (voxels[..., i] < size - 0.5) for i, size in enumerate(shape)]  # NaN is in none
    return along[0] & along[1] & along[2]


@dataclass(frozen=True)
class RibBlocks:
    """
    All ribs of a scan as blocks of one size, for a network.

    Args:
        values: the scan along each straight rib, across its height and outward, shape ``(ribs, length, width, width)``;
            behind the end of a shorter rib it is the value of what lies outside.
        positions: where on the rib each place lies, float32, shape ``(ribs, 3, length)``: its way from the spine, -1 at
            0 and 1 at 300 mm; its share of the rib's length, -1 to 1; and the rib's number, -1 for the first and 1 for
            the last; 0 where one is not known.
        lengths: how many places each rib has, shape ``(ribs,)``.
        ways_mm: how far along the rib each place lies, shape ``(length,)``.
        ribs: the straightened ribs that were sampled.
        logits: that a fracture lies there, for each so many places as the network takes at a time, shape
            ``(ribs, steps)``; None before the network looked.
    """

    values: NDArray
    positions: NDArray[np.float32]
    lengths: NDArray[np.int64]
    ways_mm: NDArray[np.float64]
    ribs: tuple[StraightRib, ...]
    logits: NDArray[np.float64] | None = None

    def places_mm(self, least_logit: float) -> NDArray[np.float64]:
        """Return the points on the centerlines, RAS mm, shape ``(n, 3)``, near which the network's logit is so high."""
        if self.logits is None:
            raise ValueError("the network has not looked along these ribs yet.")
        at_least = ndimage.maximum_filter1d(self.logits, 3, axis=1) >= least_logit
        step_mm = BLOCK_STEP_MM * len(self.ways_mm) / at_least.shape[1]
        points = [
            rib.points_mm[of_rib[np.clip((rib.way_mm + BEYOND_MM) // step_mm, 0, len(of_rib) - 1).astype(int)]]
            for rib, of_rib in zip(self.ribs, at_least)
        ]
        return np.concatenate(points)


BLOCK_STEP_MM = 0.8  # between the values of a block: the finest plane spacing of a common chest CT
_LONGEST_WAY_MM = 300.0
_LAST_NUMBER = 12


def rib_blocks(
    image: NDArray, affine: NDArray[np.float64], cage: RibCage, width: int, outside: float, divisor: int = 8
) -> RibBlocks:
    """
    Sample a scan along all of its ribs.

    Args:
        image: of any numeric type, shape ``(H, W, D)``.
        affine: from voxels to RAS mm, shape ``(4, 4)``.
        cage: the ribs.
        width: values across a rib, ``BLOCK_STEP_MM`` apart.
        outside: the value of what lies outside the scan.
        divisor: of the length of the blocks.

    Returns:
        The blocks in the order of the ribs, of the image's type; without ribs there are none.
    """
    straight = straight_ribs(cage)
    across = (np.arange(width) - (width - 1) / 2) * BLOCK_STEP_MM
    ways = [np.arange(rib.way_mm[0], rib.way_mm[-1], BLOCK_STEP_MM) for rib in straight]
    lengths = np.array([len(way) for way in ways], dtype=np.int64)
    longest = -(-int(lengths.max(initial=0)) // divisor) * divisor
    values = np.full((len(straight), longest, width, width), outside, dtype=image.dtype)
    positions = np.zeros((len(straight), 3, longest), dtype=np.float32)
    for place, (rib, way) in enumerate(zip(straight, ways)):
        block = sampled(image, affine, rib.places_mm(way, across, across), outside)
        is_whole = np.issubdtype(image.dtype, np.integer)
        values[place, : len(way)] = np.rint(block) if is_whole else block
        positions[place, :, : len(way)] = _positions(rib.rib, way)
    ways_mm = np.arange(longest, dtype=float) * BLOCK_STEP_MM - BEYOND_MM
    return RibBlocks(values, positions, lengths, ways_mm, tuple(straight))


def _positions(rib: Rib, way_mm: NDArray[np.float64]) -> NDArray[np.float32]:
    """Tell where on a rib places lie, see ``RibBlocks``."""
    positions = np.zeros((3, len(way_mm)), dtype=np.float32)
    if rib.starts_in_scan:
        positions[0] = np.clip(2 * way_mm / _LONGEST_WAY_MM - 1, -1, 1)
        if rib.ends_in_scan:
            positions[1] = np.clip(2 * way_mm / rib.length_mm - 1, -1, 1)
    if rib.number is not None:
        positions[2] = np.clip(2 * (rib.number - 1) / (_LAST_NUMBER - 1) - 1, -1, 1)
    return positions

"""The axis and the section of each rib, from a mask of the ribs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import cKDTree

from scripts.anatomy.components import connected_components
from scripts.synthetic.phantom.geometry import STEP_MM, Curve

__all__ = ["RibPiece", "rib_pieces"]

_CELL_MM = 2.0  # edge of the cells in which the way along a rib is looked for
_KNOT_MM = 4.0  # distance of the knots of the axis
_LEAST_LENGTH_MM = 50.0  # a shorter piece has no place that is far enough from both ends
_LEAST_VOLUME_MM3 = 1500.0  # 50 mm of the thinnest section
_END_MM, _FITTED_MM = 8.0, 30.0
_SECTION_MM = 2.0  # standard deviation of the weights with which sections are averaged along the rib


@dataclass
class RibPiece:
    """
    A connected piece of a rib; a rib that leaves the scan and comes back has two.

    Args:
        rib_id: id in the mask of the ribs.
        curve: the axis in mm, voxel (0, 0, 0) at the origin; its normal points out of the chest.
        area_mm2: area of the section at each sample of the curve.
        half_thickness_mm: half of the section along the normal, that of an ellipse of the same variance.
    """

    rib_id: int
    curve: Curve
    area_mm2: NDArray[np.float64]
    half_thickness_mm: NDArray[np.float64]

    def with_steady_ends(self) -> RibPiece:
        """
        Replace the last 8 mm of the axis at both ends by the parabola through the 30 mm beside them.

        A mask often cuts a rib obliquely, and there the sections' centers turn aside.
        """
        points, count = self.curve.points.copy(), len(self.curve.points)
        end, fitted = round(_END_MM / STEP_MM), round(_FITTED_MM / STEP_MM)
        if count < 2 * end + fitted:
            return self
        at = np.arange(count)
        for ends, beside in ((at[:end], at[end : end + fitted]), (at[-end:], at[-end - fitted : -end])):
            origin = float(beside.mean())
            powers = np.polynomial.polynomial.polyvander(beside - origin, 2)
            coefficients = np.linalg.lstsq(powers, points[beside], rcond=None)[0]
            points[ends] = np.polynomial.polynomial.polyvander(ends - origin, 2) @ coefficients
        return replace(self, curve=Curve.from_points(points, self.curve.normals))


def rib_pieces(rib_ids: NDArray, spacing_mm: NDArray[np.float64]) -> list[RibPiece]:
    """
    Find the axis of each rib: the longest way through its voxels, the sections' centers along it, a smooth curve.

    Args:
        rib_ids: one id a rib, integer, 0 is background, shape ``(H, W, D)``, RAS axes.
        spacing_mm: voxel size along each axis in mm, shape ``(3,)``.

    Returns:
        The pieces of at least 50 mm, in the order of their ids; none when the mask is empty.
    """
    boxes = [(rib_id, box) for rib_id, box in enumerate(ndimage.find_objects(rib_ids), start=1) if box is not None]
    if not boxes:
        return []
    low = np.min([[part.start for part in box] for _, box in boxes], axis=0) * spacing_mm
    high = np.max([[part.stop - 1 for part in box] for _, box in boxes], axis=0) * spacing_mm
    middle = (low + high) / 2
    pieces = []
    for rib_id, box in boxes:
        components = connected_components(rib_ids[box] == rib_id)
        voxels = np.argwhere(components)
        component = components[tuple(voxels.T)]
        points = (voxels + [part.start for part in box]) * spacing_mm
        for number in range(1, int(component.max()) + 1):
            own = points[component == number]
            if len(own) * spacing_mm.prod() < _LEAST_VOLUME_MM3:
                continue
            axis = _axis(own, spacing_mm)
            if len(axis) * STEP_MM >= _LEAST_LENGTH_MM:
                pieces.append(_piece(rib_id, own, axis, middle, spacing_mm))
    return pieces


def _axis(points: NDArray[np.float64], spacing_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lay a curve through the middle of a rib's voxels; points on it, ``STEP_MM`` apart, shape ``(n, 3)``."""
    cells, own, counts = np.unique(
        np.floor(points / np.maximum(_CELL_MM, spacing_mm)).astype(np.int64),
        axis=0,
        return_inverse=True,
        return_counts=True,
    )
    own = own.reshape(-1)
    centers = np.stack([np.bincount(own, points[:, i]) for i in range(3)], axis=1) / counts[:, None]
    pairs = cKDTree(cells).query_pairs(1.8, output_type="ndarray")  # the 26 neighbors
    lengths = np.linalg.norm(centers[pairs[:, 0]] - centers[pairs[:, 1]], axis=1)
    graph = coo_matrix((lengths, (pairs[:, 0], pairs[:, 1])), shape=(len(cells), len(cells))).tocsr()
    # the farthest cell from any cell is one end, the farthest from that the other
    first_end = int(_ways(graph, 0).argmax())
    knots = _section_centers(points, _ways(graph, first_end)[own])
    for _ in range(2):  # again with sections that stand upright on the axis
        if len(knots) < 4:
            return np.zeros((0, 3))
        smooth = ndimage.gaussian_filter1d(knots, 1.0, axis=0, mode="nearest")
        smooth[[0, -1]] = knots[[0, -1]]  # which smoothing would pull inward
        axis = Curve.through(smooth, np.array([0, 0, 1])).points
        knots = _section_centers(points, cKDTree(axis).query(points)[1] * STEP_MM)
    return axis


def _ways(graph: coo_matrix, start: int) -> NDArray[np.float64]:
    ways = dijkstra(graph, directed=False, indices=start)
    return np.where(np.isfinite(ways), ways, 0)


def _section_centers(points: NDArray[np.float64], along_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centers of the points of each ``_KNOT_MM`` of the way, shape ``(knots, 3)``."""
    section = (along_mm / _KNOT_MM).astype(np.int64)
    counts = np.bincount(section)
    sums = np.stack([np.bincount(section, points[:, i]) for i in range(3)], axis=1)
    return sums[counts > 0] / counts[counts > 0, None]


def _piece(
    rib_id: int,
    points: NDArray[np.float64],
    axis: NDArray[np.float64],
    middle: NDArray[np.float64],
    spacing_mm: NDArray[np.float64],
) -> RibPiece:
    """Give the axis its frame, and measure the sections along it."""
    outward = (axis - middle) * [1, 1, 0]
    curve = Curve.from_points(axis, outward + 1e-3)  # never 0, on the body's long axis neither
    sample = cKDTree(axis).query(points)[1]
    u = ((points - axis[sample]) * curve.normals[sample]).sum(axis=1)

    def averaged(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return ndimage.gaussian_filter1d(np.bincount(sample, values, len(axis)), _SECTION_MM / STEP_MM, mode="nearest")

    count, first, second = averaged(np.ones(len(u))), averaged(u), averaged(u**2)
    variance = second / np.maximum(count, 1e-6) - (first / np.maximum(count, 1e-6)) ** 2
    return RibPiece(rib_id, curve, count * spacing_mm.prod() / STEP_MM, 2 * np.sqrt(np.maximum(variance, 0.25)))

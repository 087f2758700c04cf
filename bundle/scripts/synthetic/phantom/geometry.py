"""The voxel grid of a phantom, and tubes along curves on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter

__all__ = ["Curve", "Grid", "TubeCoordinates", "coverage", "paint_segment", "rotation", "tube_coordinates"]

TILE_VOXELS = 64  # edge of the periodic texture
STEP_MM = 0.5  # arc length between two samples of a curve
CHUNK_MM = 8.0  # arc length that is evaluated in one bounding box


@dataclass
class Grid:
    """
    A scan under construction: HU on a grid whose axes run to the patient's right, anterior and superior (RAS).

    Args:
        shape: voxels, ``(H, W, D)``.
        spacing_mm: edge lengths of a voxel.
        origin_mm: world position of the center of voxel (0, 0, 0), RAS.
        rng: source of the texture.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float]
    rng: np.random.Generator
    image: np.ndarray = field(init=False)
    axes_mm: list[np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        self.image = np.full(self.shape, -1000, dtype=np.float32)
        self.axes_mm = [
            (o + d * np.arange(n)).astype(np.float32) for n, d, o in zip(self.shape, self.spacing_mm, self.origin_mm)
        ]
        # about 1.5 mm long in every direction, standard deviation 1
        sigma = [1.2 / d for d in self.spacing_mm]
        tile = gaussian_filter(self.rng.standard_normal([TILE_VOXELS] * 3).astype(np.float32), sigma, mode="wrap")
        self._tile = tile / max(float(tile.std()), 1e-6)

    @property
    def voxel_mm(self) -> float:
        """Edge of a cube of a voxel's volume, in mm; the width over which an edge is blurred by partial volume."""
        return float(np.prod(self.spacing_mm) ** (1 / 3))

    def box(self, low_mm: np.ndarray, high_mm: np.ndarray) -> tuple[slice, slice, slice]:
        """Slices of the voxels between two world corners; empty ones where the box lies outside the grid."""
        slices = []
        for low, high, origin, spacing, n in zip(low_mm, high_mm, self.origin_mm, self.spacing_mm, self.shape):
            first = min(max(int(np.ceil((low - origin) / spacing)), 0), n)
            last = min(max(int(np.floor((high - origin) / spacing)) + 1, first), n)
            slices.append(slice(first, last))
        return slices[0], slices[1], slices[2]

    def points(self, box: tuple[slice, slice, slice]) -> list[np.ndarray]:
        """World coordinates of a box, as three arrays that broadcast to its shape."""
        x, y, z = (axis[part] for axis, part in zip(self.axes_mm, box))
        return [x[:, None, None], y[None, :, None], z[None, None, :]]

    def paint(self, index: np.ndarray, alpha: np.ndarray, hu: np.ndarray | float) -> None:
        """Mix a material into the voxels at flat ``index`` by its share ``alpha`` in [0, 1]."""
        flat = self.image.reshape(-1)
        flat[index] += alpha * (hu - flat[index])

    def texture(self, index: np.ndarray) -> np.ndarray:
        """Correlated noise of standard deviation 1 at flat voxel indices."""
        i, j, k = np.unravel_index(index, self.shape)
        return self._tile[i % TILE_VOXELS, j % TILE_VOXELS, k % TILE_VOXELS]

    def slice_texture(self, k: int) -> np.ndarray:
        """Correlated noise of standard deviation 1 for slice ``k``, shape ``(H, W)``."""
        tile = self._tile[:, :, k % TILE_VOXELS]
        repeats = [-(-n // TILE_VOXELS) for n in self.shape[:2]]
        return np.tile(tile, repeats)[: self.shape[0], : self.shape[1]]


def coverage(distance_mm: np.ndarray, voxel_mm: float) -> np.ndarray:
    """
    Share of a voxel that lies inside a surface.

    Args:
        distance_mm: signed distance of the voxel's center from the surface, negative inside.
        voxel_mm: edge of the voxel.

    Returns:
        Values in [0, 1], of the shape of ``distance_mm``.
    """
    return np.clip(0.5 - distance_mm / voxel_mm, 0, 1)


def rotation(x_degrees: float, y_degrees: float, z_degrees: float) -> np.ndarray:
    """Matrix that turns about x, then y, then z, shape ``(3, 3)``."""
    result = np.eye(3)
    for axis, degrees in enumerate((x_degrees, y_degrees, z_degrees)):
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        turn = np.eye(3)
        i, j = [n for n in range(3) if n != axis]
        sign = -1 if axis == 1 else 1
        turn[i, i], turn[i, j], turn[j, i], turn[j, j] = c, -sign * s, sign * s, c
        result = turn @ result
    return result


@dataclass
class Curve:
    """
    A curve in space with a frame, sampled every ``STEP_MM`` of arc length from 0.

    Args:
        points: positions in mm, shape ``(n, 3)``.
        tangents: unit vectors along the curve, shape ``(n, 3)``.
        normals: unit vectors across it (for a rib: out of the chest), shape ``(n, 3)``.
    """

    points: np.ndarray
    tangents: np.ndarray
    normals: np.ndarray

    @classmethod
    def through(cls, knots_mm: np.ndarray, normal: np.ndarray) -> Curve:
        """
        Lay a smooth curve through points.

        Args:
            knots_mm: positions, shape ``(k, 3)``, at least three.
            normal: direction across the curve, shape ``(3,)``; made perpendicular to it.
        """
        chord = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(knots_mm, axis=0), axis=1))])
        spline = CubicSpline(chord, knots_mm)
        fine = spline(np.linspace(0, chord[-1], 1000))
        length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(fine, axis=0), axis=1))])
        at = np.arange(0, length[-1], STEP_MM)
        points = np.stack([np.interp(at, length, fine[:, i]) for i in range(3)], axis=1)
        return cls.from_points(points, np.broadcast_to(normal, points.shape))

    @classmethod
    def from_points(cls, points: np.ndarray, normals: np.ndarray) -> Curve:
        """Derive tangents from points that are already ``STEP_MM`` apart, and make the normals perpendicular."""
        tangents = np.gradient(points, axis=0)
        tangents = tangents / np.linalg.norm(tangents, axis=1, keepdims=True)
        normals = normals - (normals * tangents).sum(axis=1, keepdims=True) * tangents
        return cls(points, tangents, normals / np.linalg.norm(normals, axis=1, keepdims=True))

    @property
    def length_mm(self) -> float:
        """Arc length."""
        return STEP_MM * (len(self.points) - 1)

    @property
    def s_mm(self) -> np.ndarray:
        """Arc length at each sample, shape ``(n,)``."""
        return STEP_MM * np.arange(len(self.points))

    def at(self, s_mm: float) -> np.ndarray:
        """Position of the sample nearest to an arc length, shape ``(3,)``."""
        return self.points[int(np.clip(round(s_mm / STEP_MM), 0, len(self.points) - 1))]

    def moved(self, offsets_mm: np.ndarray) -> Curve:
        """The curve with its samples moved, parameterized as before; offsets of shape ``(n, 3)``."""
        return Curve.from_points(self.points + offsets_mm, self.normals)

    def rotated(self, matrix: np.ndarray) -> Curve:
        """The curve turned about the origin by a ``(3, 3)`` matrix."""
        return Curve(self.points @ matrix.T, self.tangents @ matrix.T, self.normals @ matrix.T)


@dataclass
class TubeCoordinates:
    """
    Voxels near a curve in the curve's own frame, each array of shape ``(voxels,)``.

    Args:
        index: flat index into the grid, each at most once.
        s: arc length in mm of the nearest point of the curve.
        u: offset in mm along the normal.
        v: offset in mm along the binormal.
    """

    index: np.ndarray
    s: np.ndarray
    u: np.ndarray
    v: np.ndarray


def tube_coordinates(
    grid: Grid, curve: Curve, reach_mm: float, from_mm: float | None = None, to_mm: float | None = None
) -> TubeCoordinates:
    """
    Find the voxels near a curve and their place in its frame.

    The curve is cut into short chunks, each with its own bounding box; a voxel's arc length comes from two Newton
    steps onto the nearest point, so it belongs to one chunk. This holds where the curve bends over much more than
    ``reach_mm``, as ribs do.

    Args:
        grid: the scan.
        curve: the tube's axis in world coordinates.
        reach_mm: distance from the axis up to which voxels are wanted.
        from_mm: arc length at which to begin; below 0 the curve goes on straight.
        to_mm: arc length at which to end, likewise.
    """
    start = 0.0 if from_mm is None else from_mm
    stop = curve.length_mm if to_mm is None else to_mm
    parts = list(_chunks(grid, curve, reach_mm, start, stop))
    if not parts:
        empty = np.zeros(0, dtype=np.float32)
        return TubeCoordinates(np.zeros(0, dtype=np.int64), empty, empty, empty)
    index, s, u, v = (np.concatenate(column) for column in zip(*parts))
    # where two chunks meet, rounding can give a voxel to both
    index, first = np.unique(index, return_index=True)
    return TubeCoordinates(index, s[first], u[first], v[first])


def _chunks(grid: Grid, curve: Curve, reach_mm: float, start: float, stop: float) -> Iterator[tuple[np.ndarray, ...]]:
    edges = np.linspace(start, stop, max(2, int(np.ceil((stop - start) / CHUNK_MM)) + 1))
    for low, high in zip(edges[:-1], edges[1:]):
        center, along, _ = _frame(curve, np.array([(low + high) / 2]))
        ends = _frame(curve, np.array([low, high]))[0]
        box = grid.box(ends.min(axis=0) - reach_mm, ends.max(axis=0) + reach_mm)
        x, y, z = grid.points(box)
        if 0 in (x.size, y.size, z.size):
            continue
        dx, dy, dz = x - center[0, 0], y - center[0, 1], z - center[0, 2]
        ahead = dx * along[0, 0] + dy * along[0, 1] + dz * along[0, 2]
        # a voxel beside a curve that turns by an angle lies up to reach * angle ahead of the chunk
        turn = np.linalg.norm(np.diff(_frame(curve, np.array([low, high]))[1], axis=0))
        near = np.abs(ahead) < (high - low) / 2 + turn * reach_mm + 1
        near &= dx**2 + dy**2 + dz**2 - ahead**2 < (reach_mm + 1) ** 2
        i, j, k = np.nonzero(near)
        p = np.stack([x[i, 0, 0], y[0, j, 0], z[0, 0, k]], axis=1)
        s = (low + high) / 2 + ahead[i, j, k]
        for _ in range(2):
            on_curve, tangent, _ = _frame(curve, s)
            s = s + np.einsum("ij,ij->i", p - on_curve, tangent)
        mine = (s >= low) & (s < high)
        s = s[mine]
        on_curve, tangent, normal = _frame(curve, s)
        offset = p[mine] - on_curve
        index = np.ravel_multi_index([n[mine] + part.start for n, part in zip((i, j, k), box)], grid.shape)
        u = np.einsum("ij,ij->i", offset, normal)
        v = np.einsum("ij,ij->i", offset, np.cross(tangent, normal))
        yield index, s.astype(np.float32), u.astype(np.float32), v.astype(np.float32)


def _frame(curve: Curve, s: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Position, tangent and normal at arc lengths: those of the nearest sample, gone on from along its tangent."""
    nearest = np.clip(np.rint(s / STEP_MM).astype(np.int64), 0, len(curve.points) - 1)
    tangents = curve.tangents[nearest]
    ahead = (s - STEP_MM * nearest)[:, None]
    return curve.points[nearest] + ahead * tangents, tangents, curve.normals[nearest]


def paint_segment(grid: Grid, start_mm: np.ndarray, end_mm: np.ndarray, radius_mm: float, hu: float) -> None:
    """Paint a straight round tube with round ends, or a ball where ``start_mm`` equals ``end_mm``."""
    margin = radius_mm + grid.voxel_mm
    box = grid.box(np.minimum(start_mm, end_mm) - margin, np.maximum(start_mm, end_mm) + margin)
    x, y, z = grid.points(box)
    if 0 in (x.size, y.size, z.size):
        return
    axis = end_mm - start_mm
    length2 = float(axis @ axis) or 1.0
    dx, dy, dz = x - start_mm[0], y - start_mm[1], z - start_mm[2]
    share = np.clip((dx * axis[0] + dy * axis[1] + dz * axis[2]) / length2, 0, 1)
    square = (dx - share * axis[0]) ** 2 + (dy - share * axis[1]) ** 2 + (dz - share * axis[2]) ** 2
    # a tube thinner than a voxel fills a part of it only
    alpha = coverage(np.sqrt(square) - radius_mm, grid.voxel_mm) * min(1.0, (2 * radius_mm / grid.voxel_mm) ** 2)
    part = grid.image[box]
    part += alpha * (hu - part)

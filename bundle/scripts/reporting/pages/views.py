"""
Views of a scan as radiologists read: the patient's right on the left, anterior and head up, all sizes true in mm.

Volumes are turned once to axes toward the patient's left, back and feet (LPI), without a copy, so that every slice of
two of these axes is a picture whose first axis runs to the right and whose second runs down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from scripts.anatomy.components import instance_boxes
from scripts.anatomy.midline import known_plane
from scripts.reporting.pages.name_places import Box, NamePlaces, written
from scripts.reporting.pages.pictures import cut_square, encode, gray_values, outline, shrink

__all__ = ["ALONG_RIB", "PLANES", "Outline", "Scan", "View", "centered_views", "places_mm", "projections"]

VIEW_MM = 80.0  # edge of a view; larger where the instance needs more
_MAX_VIEW_MM = 200.0
_ROOM_MM = 30.0  # around an instance
VIEW_PIXELS = 160
PROJECTION_PIXEL_MM = 1.2
ALONG_RIB = "along the rib"  # name of the view that follows a rib
_LEAST_TEXT_MM, _TEXT_SHARE = 10.0, 0.028  # of letters on a picture of the whole scan, and of its height


@dataclass(frozen=True)
class Outline:
    """
    A line over a view.

    Args:
        kind: ``candidate`` or ``fracture``.
        instance: its id.
        path: SVG path data in mm of the view.
        label_mm: where its name starts in a projection, or ends where ``label_ends``; its middle line.
        label_ends: whether the name stands to the left of the outline.
    """

    kind: str
    instance: int
    path: str
    label_mm: tuple[float, float] = (0.0, 0.0)
    label_ends: bool = False


@dataclass(frozen=True)
class View:
    """
    A picture with lines over it.

    Args:
        name: ``axial``, ``coronal``, ``sagittal``, ``along the rib``, or that of a projection.
        picture: ``data:`` address.
        width_mm: its width.
        height_mm: its height.
        edges: letters at its left, right, upper and lower edge.
        outlines: lines over it.
        labels: further words on it, and where their middle stands in mm, from the left and from above.
    """

    name: str
    picture: str
    width_mm: float
    height_mm: float
    edges: tuple[str, str, str, str]
    outlines: list[Outline] = field(default_factory=list)
    labels: list[tuple[str, float, float]] = field(default_factory=list)

    @property
    def text_mm(self) -> float:
        """Height of letters on it."""
        return 0.06 * self.height_mm if self.name in (*PLANES, ALONG_RIB) else _text_mm(self.height_mm)


def _text_mm(height_mm: float) -> float:
    """Return the height of letters on a picture of the whole scan: pages show high ones smaller."""
    return max(_LEAST_TEXT_MM, _TEXT_SHARE * height_mm)


@dataclass(frozen=True)
class Scan:
    """
    A scan with its instances, all on one grid of RAS axes.

    Args:
        image: of any numeric type, shape ``(H, W, D)``.
        affine: from voxels to mm in RAS, shape ``(4, 4)``.
        window: the values of the image that are shown as black and white.
        instances: volumes of ids, 0 is background, shape ``(H, W, D)``, by ``candidate`` and ``fracture``.
    """

    image: NDArray
    affine: NDArray
    window: tuple[float, float]
    instances: Mapping[str, NDArray]

    @cached_property
    def spacing_mm(self) -> NDArray[np.float64]:
        """Size of a voxel along each axis."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @cached_property
    def turned(self) -> NDArray:
        """The image with LPI axes, a view of it."""
        return self.image[::-1, ::-1, ::-1]

    @cached_property
    def turned_instances(self) -> dict[str, NDArray]:
        """The instances with LPI axes, views of them."""
        return {kind: ids[::-1, ::-1, ::-1] for kind, ids in self.instances.items()}

    @cached_property
    def boxes(self) -> dict[str, dict[int, tuple[slice, slice, slice]]]:
        """The bounding box of each instance in LPI axes."""
        return {
            kind: {i: box for i, box in enumerate(instance_boxes(ids), start=1) if box is not None}
            for kind, ids in self.turned_instances.items()
        }

    @cached_property
    def turned_affine(self) -> NDArray[np.float64]:
        """From voxels of LPI axes to mm in RAS."""
        turn = np.diag([-1.0, -1.0, -1.0, 1.0])
        turn[:3, 3] = np.array(self.image.shape) - 1
        return self.affine @ turn

    def below_top_mm(self, point_ras_mm: ArrayLike) -> float:
        """Tell how far below its uppermost slice a point of the scan lies, mm."""
        point = np.append(np.asarray(point_ras_mm, dtype=float), 1)
        return float((np.linalg.inv(self.turned_affine) @ point)[2] * self.spacing_mm[2])


# Of each view the axes that run to its right and down, the axis across it, and the letters at its edges.
PLANES = {
    "axial": ((0, 1), 2, ("R", "L", "A", "P")),
    "coronal": ((0, 2), 1, ("R", "L", "S", "I")),
    "sagittal": ((1, 2), 0, ("A", "P", "S", "I")),
}


def centered_views(scan: Scan, kind: str, instance: int) -> list[View]:
    """
    Draw the three orthogonal views through the middle of an instance, with the outlines of all that lie in them.

    The middle is the voxel of the instance that is closest to its center of mass, so that each view shows it.

    Args:
        scan: the scan.
        kind: ``candidate`` or ``fracture``.
        instance: its id.

    Returns:
        The axial, coronal and sagittal view; none where the instance has no voxel on the scan's grid.
    """
    box = scan.boxes[kind].get(instance)
    if box is None:
        return []
    voxel = _middle_voxel(scan.turned_instances[kind], box, instance, np.diag(scan.spacing_mm))
    reach_mm = float((np.array([part.stop - part.start for part in box]) * scan.spacing_mm).max())
    size_mm = float(np.clip(reach_mm + _ROOM_MM, VIEW_MM, _MAX_VIEW_MM))
    return [_view(scan, name, voxel, size_mm) for name in PLANES]


def places_mm(ids: NDArray, affine: NDArray) -> dict[int, tuple[float, float, float]]:
    """
    Name a voxel of each instance near its middle, so that views through it show the instance.

    Args:
        ids: 0 is background, shape ``(H, W, D)``.
        affine: from voxels to mm in RAS, shape ``(4, 4)``.

    Returns:
        The place of the voxel that is closest to the center of mass, mm in RAS, by the instance's id.
    """
    places = {}
    for instance, box in enumerate(instance_boxes(ids), start=1):
        if box is not None:
            x, y, z = affine[:3, :3] @ _middle_voxel(ids, box, instance, affine[:3, :3]) + affine[:3, 3]
            places[instance] = (float(x), float(y), float(z))
    return places


def _middle_voxel(ids: NDArray, box: tuple[slice, slice, slice], instance: int, to_mm: NDArray) -> NDArray:
    """Return the voxel of an instance that is closest to its center of mass; ``to_mm`` has shape ``(3, 3)``."""
    voxels = np.argwhere(ids[box] == instance) + [part.start for part in box]
    from_center_mm = (voxels - voxels.mean(axis=0)) @ to_mm.T
    return voxels[(from_center_mm**2).sum(axis=1).argmin()]


def _view(scan: Scan, name: str, voxel: NDArray, size_mm: float) -> View:
    """Draw one square view around a voxel of LPI axes."""
    (right, down), across, edges = PLANES[name]
    spacing_mm = scan.spacing_mm[[right, down]]
    corner_mm = (voxel[[right, down]] + 0.5) * spacing_mm - size_mm / 2
    first = np.maximum(np.floor(corner_mm / spacing_mm).astype(int) - 1, 0)
    last = np.ceil((corner_mm + size_mm) / spacing_mm).astype(int) + 1

    part = [slice(None)] * 3
    part[right], part[down] = slice(first[0], last[0]), slice(first[1], last[1])
    in_view = (*part[:across], voxel[across], *part[across + 1 :])  # of a view of an array, take copies the whole

    first_mm = first * spacing_mm - corner_mm
    gray = gray_values(scan.turned[in_view], scan.window)
    picture = encode(cut_square(gray, spacing_mm, -first_mm, size_mm, VIEW_PIXELS))
    outlines = []
    for kind, volume in scan.turned_instances.items():
        ids = volume[in_view]
        for instance in np.unique(ids[ids > 0]):
            outlines.append(Outline(kind, int(instance), outline(ids == instance, spacing_mm, first_mm)))
    return View(name, picture, size_mm, size_mm, edges, outlines)


def projections(scan: Scan, midsagittal_plane: torch.Tensor | NDArray | None) -> list[View]:
    """
    Draw maximum projections of the rib cage with the outlines of all instances.

    From the front; and from each side the half that is there, since both on one picture hide each other.

    Args:
        scan: the scan.
        midsagittal_plane: the plane n·x = d in RAS mm as ``(nx, ny, nz, d)``, n to the patient's right, that parts
            the halves; without it, or where it is NaN, one picture from the side shows both.

    Returns:
        The views named ``from the front``, and ``from the right`` and ``from the left``, or ``from the side``.
    """
    views = [_projection(scan, "from the front", scan.turned.max(axis=1), (0, 2), ("R", "L", "S", "I"))]
    plane = known_plane(midsagittal_plane)
    if plane is None:
        return [*views, _projection(scan, "from the side", scan.turned.max(axis=0), (1, 2), ("A", "P", "S", "I"))]
    *normal, offset = plane
    slope = np.asarray(normal) @ scan.turned_affine[:3, :3]  # of the distance from the plane, per voxel of each axis
    start = np.asarray(normal) @ scan.turned_affine[:3, 3] - offset
    columns, rows = (np.arange(n) * s for n, s in zip(scan.turned.shape[1:], slope[1:]))
    within = start + columns[:, None] + rows[None]
    halves = [np.full(scan.turned.shape[1:], scan.window[0], dtype=scan.image.dtype) for _ in range(2)]
    for index, sheet in enumerate(scan.turned):
        is_right = within + index * slope[0] > 0
        for half, inside in zip(halves, (is_right, ~is_right)):
            if inside.all():  # as of nearly all sheets: then there is nothing to choose
                np.maximum(half, sheet, out=half)
            elif inside.any():
                np.maximum(half, sheet, out=half, where=inside)

    def side_of(box: tuple[slice, slice, slice]) -> bool:
        middle = [(part.start + part.stop - 1) / 2 for part in box]
        return bool(start + slope @ middle > 0)

    for right, half in zip((True, False), halves):
        name, edges = ("right", ("P", "A", "S", "I")) if right else ("left", ("A", "P", "S", "I"))
        kept = {kind: {i for i, box in boxes.items() if side_of(box) == right} for kind, boxes in scan.boxes.items()}
        views.append(_projection(scan, f"from the {name}", half, (1, 2), edges, kept, mirrored=right))
    return views


def _projection(
    scan: Scan,
    name: str,
    values: NDArray,
    axes: tuple[int, int],
    edges: tuple[str, str, str, str],
    kept: Mapping[str, set[int]] | None = None,
    mirrored: bool = False,
) -> View:
    """Draw a projection; ``mirrored`` turns its first axis, and with it the lines."""
    spacing_mm = scan.spacing_mm[list(axes)]
    width_mm, height_mm = (float(n * s) for n, s in zip(values.shape, spacing_mm))
    (across,) = {0, 1, 2} - set(axes)
    shadows: list[tuple[str, int, NDArray, NDArray]] = []
    for kind, boxes in scan.boxes.items():
        for instance, box in boxes.items():
            if kept is not None and instance not in kept[kind]:
                continue
            shadow = (scan.turned_instances[kind][box] == instance).any(axis=across)
            first = np.array([box[axis].start for axis in axes])
            if mirrored:
                shadow, first[0] = shadow[::-1], values.shape[0] - box[axes[0]].stop
            shadows.append((kind, instance, shadow, first * spacing_mm))
    around = [Box(*first_mm, *(first_mm + np.array(shadow.shape) * spacing_mm)) for *_, shadow, first_mm in shadows]
    text_mm = _text_mm(height_mm)
    names = NamePlaces(width_mm, height_mm, text_mm, written(width_mm, height_mm, text_mm, edges), around)
    outlines = []
    for (kind, instance, shadow, first_mm), box_mm in zip(shadows, around):
        letters = len(f"C{instance}") + (2 if "fracture" in scan.boxes else 0)  # H C1, where the scan is annotated
        place = names.take(box_mm, letters)
        outlines.append(Outline(kind, instance, outline(shadow, spacing_mm, first_mm), *place))
    gray = gray_values(values[::-1] if mirrored else values, scan.window)
    return View(name, encode(shrink(gray, spacing_mm, PROJECTION_PIXEL_MM)), width_mm, height_mm, edges, outlines)

"""Views along the ribs: all of them unfolded, and the plane of one through an instance."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.spatial import cKDTree

from scripts.anatomy.rib_cage import RibCage
from scripts.anatomy.straight_ribs import StraightRib, sampled, sampled_ids
from scripts.candidates import instance_points_mm
from scripts.reporting.pages.pictures import encode, gray_values, outline
from scripts.reporting.pages.views import ALONG_RIB, Outline, Scan, View
from scripts.reporting.unfolding import NAMES_MM, UnfoldedCage

__all__ = ["along_rib_view", "unfolded_views"]

_LENGTH_MM, _DEPTH_MM = 150, 50  # of the view along a rib
_FINE_MM = 0.5  # its pixels
_NEAR_MM = 10.0  # to the centerline: voxels on the rib itself
_PIXEL_MM = np.ones(2)
_NAME_MM = 40.0  # width of a name
_NAME_EDGE_MM = 5  # from the upper or lower edge of a row to the middle of a name


def unfolded_views(scan: Scan, cage: RibCage, rib_of: Mapping[str, Mapping[int, int]]) -> list[View]:
    """
    Draw the unfolded rib cage with the outlines of the instances, each on its own rib.

    Args:
        scan: the scan with its instances.
        cage: its ribs.
        rib_of: id of the rib by the id of each instance that lies on one, by ``candidate`` and ``fracture``.

    Returns:
        The maximum and the mean through the chest wall, a mm a pixel; none without ribs.
    """
    if not cage.ribs:
        return []
    unfolded = UnfoldedCage.of(cage)
    affine = np.asarray(scan.affine, dtype=float)
    outlines: list[Outline] = []
    for kind, ids in scan.instances.items():
        for shadow in unfolded.shadows(ids, affine, rib_of.get(kind, {})):
            x, y = shadow.box_mm[0], float(shadow.top_mm + _NAME_EDGE_MM)
            if any(abs(x - left) < _NAME_MM and y == top for left, top in (line.label_mm for line in outlines)):
                y = float(shadow.top_mm + shadow.mask.shape[0] - _NAME_EDGE_MM)
            path = outline(shadow.mask.T, _PIXEL_MM, np.array([shadow.left_mm, shadow.top_mm], dtype=float))
            outlines.append(Outline(kind, shadow.instance, path, (x, y)))
    middle = unfolded.width_mm / 2
    labels = [(one.name, middle + one.direction * NAMES_MM / 4, one.middle_mm) for one in unfolded.ribs]
    pictures = zip(("maximum", "mean"), unfolded.pictures(scan.image, affine, scan.window[0]))
    size = float(unfolded.width_mm), float(unfolded.height_mm)
    return [
        View(
            f"ribs unfolded, {name}",
            encode(gray_values(values, scan.window)),
            *size,
            ("R", "L", "", ""),
            outlines,
            labels,
        )
        for name, values in pictures
    ]


def along_rib_view(scan: Scan, straight: StraightRib, kind: str, instance: int) -> View | None:
    """
    Draw the plane along a rib and through the chest wall in which an instance lies.

    It is the plane that a reader would turn to: it follows the rib, from the spine on the left to the front on the
    right, with the outside above.

    Args:
        scan: the scan with its instances.
        straight: the rib.
        kind: ``candidate`` or ``fracture``.
        instance: its id.

    Returns:
        The view; None where the instance has no voxel on the scan's grid, or none near the rib.
    """
    box = scan.boxes[kind].get(instance)
    if box is None:
        return None
    points = instance_points_mm(scan.turned_instances[kind][box] == instance, box, scan.turned_affine)
    distance_mm, nearest = cKDTree(straight.points_mm).query(points)
    if distance_mm.min() > _DEPTH_MM / 2:
        return None
    own = distance_mm <= max(_NEAR_MM, distance_mm.min() + 1)  # and not what lies on the next rib
    way_mm = straight.way_mm[nearest][own].mean()
    up_mm = ((points - straight.points_mm[nearest]) * straight.up[nearest]).sum(axis=1)[own].mean()
    affine = np.asarray(scan.affine, dtype=float)
    along, outward = ((np.arange(size / _FINE_MM) + 0.5) * _FINE_MM - size / 2 for size in (_LENGTH_MM, _DEPTH_MM))
    places = straight.places_mm(way_mm + along, [up_mm], outward[::-1])[:, 0]
    gray = gray_values(sampled(scan.image, affine, places, scan.window[0]), scan.window)
    outlines = []
    for drawn, ids in scan.instances.items():
        section = sampled_ids(ids, affine, places)
        for other in np.unique(section[section > 0]):
            path = outline(section == other, _FINE_MM * _PIXEL_MM, np.zeros(2))
            outlines.append(Outline(drawn, int(other), path))
    size_mm = float(_LENGTH_MM), float(_DEPTH_MM)
    return View(ALONG_RIB, encode(np.ascontiguousarray(gray.T)), *size_mm, ("", "", "", ""), outlines)

"""Find the ribs of a chest CT: their courses, their numbers, and their voxels."""

from __future__ import annotations

from collections.abc import Sequence

import cc3d
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from scripts.anatomy.body import checked_spacing
from scripts.anatomy.bone import METAL_HU
from scripts.anatomy.rib_cage import Rib, RibCage
from scripts.anatomy.rib_completion import complete_ribs
from scripts.anatomy.rib_frame import ChestFrame, chest_frame
from scripts.anatomy.rib_numbering import gap_below, number_fragments, number_parts, number_ribs
from scripts.anatomy.rib_tracking import Track, follow_fragments, follow_ribs

__all__ = ["find_rib_cage", "find_rib_mask"]

# A centerline is smoothed along so much of it, and so far apart are its points.
SMOOTHING_MM = 5.0
POINT_MM = 2.0
# Bone so near to the centerline is the rib's: ribs are up to 18 mm high and, across the wall of the chest, 12 mm thick.
HALF_HEIGHT_MM = 10.0
HALF_THICKNESS_MM = 7.0
# The surface of bone, halfway from muscle to a cortex that a voxel averages.
EDGE_HU = 160.0
# Up to here to the side of the canal bone is the vertebra's, as in the masks of TotalSegmentator.
VERTEBRA_MM = 31.0
# A piece of bone belongs to a rib where it comes so near to the centerline; a kidney with contrast medium does not.
CORE_MM = 4.0
FRAGMENT_CONFIDENCE = 0.9  # of a rib whose back end is not in the scan, so that its neighbors alone tell its number
# A rib that ends so near to the scan's border goes on beyond it.
BORDER_MM = 6.0


def find_rib_cage(image_hu: NDArray, spacing_mm: ArrayLike, affine: ArrayLike) -> RibCage:
    """
    Find, follow and number the ribs of a scan.

    From the vertebral canal, bone that leaves the column sideways is followed step by step, each rib guided by the
    direction of its neighbors, over the gaps of fractures and to where bone ends. What was lost, as in front of a
    displaced fracture, is found by what runs parallel to the others. Numbers follow from the order, the
    shapes of the first ribs, the tips of the lungs and what is below the last rib; where the scan shows too little of
    these, ribs are ordered and have no numbers. No trained weights are needed.

    Args:
        image_hu: the scan in HU, shape ``(H, W, D)``, RAS axes, any numeric dtype.
        spacing_mm: voxel size along each axis in mm.
        affine: from voxels to RAS mm, shape ``(4, 4)``.

    Returns:
        The ribs; without any, the notes tell why.

    Raises:
        ValueError: when the image has not three axes or the spacing is not three positive numbers.
    """
    spacing = checked_spacing(image_hu, spacing_mm)
    affine = np.asarray(affine, dtype=float)
    frame = chest_frame(image_hu, spacing)
    if isinstance(frame, str):
        return RibCage(np.zeros((1, 1, 1), dtype=np.uint8), affine, (), (f"ribs were not found: {frame}",))
    begun = follow_ribs(frame)
    fragments = follow_fragments(frame, begun)
    tracks, parts = complete_ribs(frame, begun, fragments)
    to_world = affine @ np.diag([*(1.0 / spacing), 1.0])  # from mm in the scan's array
    numbering = number_ribs(frame, tracks)
    fragment_numbers = number_fragments(tracks, numbering.numbers, fragments)
    known = dict(enumerate([*numbering.numbers.values(), *fragment_numbers]))
    part_numbers = number_parts([*(tracks[i] for i in numbering.numbers), *fragments], known, parts)
    ribs, courses = [], []
    for side, name in ((-1, "left"), (1, "right")):
        own = [(f, n, FRAGMENT_CONFIDENCE) for f, n in zip(fragments, fragment_numbers) if f.side == side]
        own.sort(key=lambda item: -float(item[0].points[:, 2].mean()))
        own += [  # from above
            (tracks[i], number, numbering.confidence[i])
            for i, number in numbering.numbers.items()
            if tracks[i].side == side
        ]
        for part, number in zip(parts, part_numbers):
            if part.side == side:
                above = [i for i, (track, _, _) in enumerate(own, 1) if gap_below(track, part) is not None]
                own.insert(max(above, default=0), (part, number, FRAGMENT_CONFIDENCE))
        for order, (track, number, confidence) in enumerate(own, start=1):
            course = _course(track)
            courses.append(course)
            ribs.append(
                Rib(
                    side=name,
                    number=number,
                    order=order,
                    confidence=round(confidence * float(track.found.mean()), 3),
                    centerline_mm=(course + frame.first) @ to_world[:3, :3].T + to_world[:3, 3],
                    starts_in_scan=track.has_head,
                    ends_in_scan=track.end != "border" and not _near_border(frame, course[-1]),
                )
            )
    if not ribs:
        return RibCage(np.zeros((1, 1, 1), dtype=np.uint8), affine, (), ("ribs were not found: none leaves the spine",))
    mask = _mask(image_hu, spacing, frame, courses, [rib.id for rib in ribs])
    metal = np.argwhere(frame.hu > METAL_HU) * frame.step + frame.first
    return RibCage(mask, affine, tuple(ribs), numbering.notes, metal @ to_world[:3, :3].T + to_world[:3, 3])


def find_rib_mask(image_hu: NDArray, spacing_mm: ArrayLike) -> NDArray[np.uint8]:
    """
    Find the voxels of the ribs of a scan, as :func:`find_rib_cage` does.

    Args:
        image_hu: see there.
        spacing_mm: see there.

    Returns:
        One id a rib, of the image's shape; 0 everywhere where no ribs are found.
    """
    cage = find_rib_cage(image_hu, spacing_mm, np.diag([*np.asarray(spacing_mm, dtype=float), 1.0]))
    return cage.mask if cage.ribs else np.zeros(image_hu.shape, dtype=np.uint8)


def _course(track: Track) -> NDArray[np.float64]:
    """Smooth a track, and take points POINT_MM apart."""
    way = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(track.points, axis=0), axis=1))])
    even = np.linspace(0.0, way[-1], max(2, round(way[-1] / POINT_MM) + 1))
    points = np.stack([np.interp(even, way, track.points[:, axis]) for axis in range(3)], axis=1)
    smooth = ndimage.gaussian_filter1d(points, SMOOTHING_MM / POINT_MM, axis=0, mode="nearest")
    smooth[[0, -1]] = points[[0, -1]]
    return smooth


def _near_border(frame: ChestFrame, point: NDArray[np.float64]) -> bool:
    last = (np.array(frame.hu.shape) - 1) * frame.step
    return bool((np.minimum(point, last - point) < BORDER_MM).any())


def _mask(
    image_hu: NDArray,
    spacing: NDArray[np.float64],
    frame: ChestFrame,
    courses: Sequence[NDArray[np.float64]],
    ids: Sequence[int],
) -> NDArray[np.uint8]:
    """Give each rib the bone around its course that hangs together with it, on the scan's own grid."""
    points = np.concatenate(courses)
    owners = np.concatenate([np.full(len(course), number) for number, course in zip(ids, courses)])
    box = tuple(
        slice(max(0, int((low - HALF_HEIGHT_MM) / size)), int((high + HALF_HEIGHT_MM) / size) + 2)
        for low, high, size in zip(points.min(axis=0) + frame.first, points.max(axis=0) + frame.first, spacing)
    )
    start = np.array([part.start for part in box])
    part_of_scan = image_hu[box]
    # marrow and a cortex too thin for the threshold lie within the coarser copy's bone
    within = ndimage.binary_erosion(frame.bone)
    picks = [
        np.clip(np.rint(((np.arange(n) + first) * size - low) / step).astype(int), 0, top - 1)
        for n, first, size, low, step, top in zip(
            part_of_scan.shape, start, spacing, frame.first, frame.step, frame.bone.shape
        )
    ]
    near = _near(points, frame)
    # 1: bone is a rib's, 2: all is; looked up once for each voxel
    kinds = (near.astype(np.uint8) << (near & within))[np.ix_(*picks)]
    voxels = np.argwhere(kinds > (part_of_scan <= EDGE_HU))
    places = (voxels + start) * spacing - frame.first
    distance, nearest = cKDTree(points).query(places, distance_upper_bound=HALF_HEIGHT_MM)
    is_own = np.isfinite(distance) & (np.abs(frame.from_canal(places)[:, 0]) >= VERTEBRA_MM)
    voxels, places, distance, nearest = voxels[is_own], places[is_own], distance[is_own], nearest[is_own]
    thick = np.abs(((places - points[nearest]) * _outward(frame, courses)[nearest]).sum(axis=1))
    is_thin = thick <= HALF_THICKNESS_MM
    voxels, distance, nearest = voxels[is_thin], distance[is_thin], nearest[is_thin]
    ribs = np.zeros(part_of_scan.shape, dtype=np.uint8)
    ribs[tuple(voxels.T)] = owners[nearest]
    pieces = cc3d.connected_components(ribs, connectivity=26)
    is_core = np.zeros(int(pieces.max()) + 1, dtype=bool)
    is_core[pieces[tuple(voxels[distance <= CORE_MM].T)]] = True
    ribs[~is_core[pieces]] = 0
    mask = np.zeros(image_hu.shape, dtype=np.uint8)
    mask[box] = ribs
    return mask


def _near(points: NDArray[np.float64], frame: ChestFrame) -> NDArray[np.bool_]:
    """Mark the frame's voxels that a rib on these points can reach."""
    far = np.ones(frame.bone.shape, dtype=bool)
    voxels = np.clip(np.rint(points / frame.step).astype(int), 0, np.array(far.shape) - 1)
    far[tuple(voxels.T)] = False
    size = np.ceil(HALF_HEIGHT_MM / frame.step).astype(int) + 1
    return np.asarray(ndimage.minimum_filter(far, size=tuple(2 * size + 1)) == 0)


def _outward(frame: ChestFrame, courses: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return unit vectors out of the chest at the points of all courses, across each course."""
    gradient = np.stack(np.gradient(ndimage.gaussian_filter(frame.outside_mm[::3, ::3, ::3], 1.0)), axis=-1)
    outward = []
    for course in courses:
        voxels = np.clip(np.rint(course / frame.step / 3).astype(int), 0, np.array(gradient.shape[:3]) - 1)
        away = gradient[tuple(voxels.T)]
        along = np.gradient(course, axis=0)
        along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-9)
        away = away - (away * along).sum(axis=1, keepdims=True) * along
        outward.append(away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-9))
    return np.concatenate(outward)

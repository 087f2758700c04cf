"""Break a rib in a scan: move its stubs with the tissue around them, and open the gap."""

from __future__ import annotations

from dataclasses import dataclass

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from scripts.synthetic.implant.centerline import RibPiece
from scripts.synthetic.phantom.fractures import Break, Fracture
from scripts.synthetic.phantom.geometry import STEP_MM, Curve, Grid, TubeCoordinates, coverage, tube_coordinates
from scripts.synthetic.phantom.healing import Healing

__all__ = ["BONE_HU", "Site", "break_rib", "sign_hu"]

BONE_HU = 200.0  # cortex and dense marrow; muscle with contrast medium stays below
_FALLOFF_MM = 16.0  # at twice the largest movement no tissue folds
_EDGE_MM = 1.0  # a mask ends where the bone fills half a voxel; its blur reaches this much farther
_BLUR_MM = 1.2  # width over which what is moved with a bone fades into what is moved with the tissue
_RESOLUTION_MM = 0.8  # over which a scanner smears a thin gap, beside the voxel: 1 mm full width at half maximum or so
_END_MM = 10.0  # at the ends of a piece, over which sections are not whole
_MUSCLE_HU = (-10.0, 120.0)
_FAT_HU = (-160.0, -20.0)
_LUNG_HU = -850.0


class Site:
    """
    The surroundings of one place on a rib: the voxels up to some 25 mm from its axis.

    Args:
        image_hu: the scan in HU, shape ``(H, W, D)``; read only.
        rib_ids: the mask of the ribs, of the same shape.
        spacing_mm: voxel size along each axis in mm, shape ``(3,)``.
        piece: the rib.
        s_mm: arc length of the middle.
        half_mm: how far to go along the rib from the middle.
        rng: source of the noise that a gap is filled with.
    """

    def __init__(
        self,
        image_hu: NDArray,
        rib_ids: NDArray,
        spacing_mm: NDArray[np.float64],
        piece: RibPiece,
        s_mm: float,
        half_mm: float,
        rng: np.random.Generator,
    ) -> None:
        self.piece, self.spacing_mm = piece, spacing_mm
        reach = _FALLOFF_MM + _EDGE_MM + 9.0  # half the height of a rib is 9 mm at most
        points = piece.curve.points[np.abs(piece.curve.s_mm - s_mm) <= half_mm]
        start = np.maximum(np.floor((points.min(axis=0) - reach) / spacing_mm), 0).astype(int)
        stop = np.minimum(np.ceil((points.max(axis=0) + reach) / spacing_mm) + 1, image_hu.shape).astype(int)
        self.box = tuple(slice(a, b) for a, b in zip(start, stop))
        origin = start * spacing_mm
        self.grid = Grid(
            tuple(int(n) for n in stop - start),  # type: ignore[arg-type]
            tuple(float(d) for d in spacing_mm),  # type: ignore[arg-type]
            tuple(float(o) for o in origin),  # type: ignore[arg-type]
            rng,
        )
        self.image = image_hu[self.box].astype(np.float32)
        self.tube = tube_coordinates(self.grid, piece.curve, reach, s_mm - half_mm, s_mm + half_mm)
        self.voxels = np.stack(np.unravel_index(self.tube.index, self.grid.shape), axis=1)
        own = self.own = rib_ids[self.box] == piece.rib_id
        bone = self.image > BONE_HU
        unmarked = rib_ids[self.box] == 0
        # what a mask misses of its own rib lies within 2 mm
        close = ndimage.maximum_filter(own, size=tuple(2 * np.rint(2.0 / spacing_mm).astype(int) + 1))
        self.bone_mm = _distance_mm(own | (bone & close & unmarked), spacing_mm)
        self.other_mm = _distance_mm((bone & ~close & unmarked) | ~(own | unmarked), spacing_mm)

    def is_rib(self, s_mm: float) -> bool:
        """Tell whether the mask marks bone around a place, with cortex, about the axis, and no wider than a rib."""
        near = (np.abs(self.tube.s - s_mm) < 5) & (self.own.reshape(-1)[self.tube.index])
        values = self.image.reshape(-1)[self.tube.index[near]]
        if len(values) < 20 or np.percentile(values, 90) < BONE_HU + 50 or np.mean(values > _MUSCLE_HU[1]) < 0.6:
            return False
        return bool(np.abs(self.tube.u[near]).max() < 12 and np.abs(self.tube.v[near]).max() < 14)

    def muscle(self) -> tuple[float, float]:
        """Level and noise of the soft tissue near the rib, in HU."""
        near = self.tube.index[self._at(self.bone_mm, between=(2.5, 9.0))]
        values = self.image.reshape(-1)[near]
        values = values[(values > _MUSCLE_HU[0]) & (values < _MUSCLE_HU[1])]
        if len(values) < 30:
            return 45.0, 12.0
        level = float(np.median(values))
        return level, float(1.48 * np.median(np.abs(values - level)))

    def _at(self, volume: NDArray, between: tuple[float, float]) -> NDArray[np.bool_]:
        values = volume.reshape(-1)[self.tube.index]
        return (values >= between[0]) & (values < between[1])


def _distance_mm(mask: NDArray[np.bool_], spacing_mm: NDArray[np.float64]) -> NDArray[np.float32]:
    if not mask.any():
        return np.full(mask.shape, 1e3, dtype=np.float32)
    return ndimage.distance_transform_edt(~mask, sampling=spacing_mm).astype(np.float32)


@dataclass
class _Piece:
    """The stub between two breaks, and where its voxels come from."""

    before: Break | None
    after: Break | None
    moved_mm: NDArray[np.float64]
    tube: TubeCoordinates
    share: NDArray[np.float64]


def break_rib(site: Site, fracture: Fracture) -> tuple[NDArray[np.int64], NDArray, NDArray[np.int64]] | None:
    """
    Break the rib of a site.

    Each stub is moved as a whole, bent over its easing length; the tissue around is moved along, less and less away
    from the rib and not at all at another bone. What a stub leaves, and the gap, is filled with soft tissue of the
    surroundings' level and noise. Voxels are read by cubic splines, which keep most of the noise.

    Args:
        site: the surroundings.
        fracture: what to do to them.

    Returns:
        Flat indices into the site's box of the voxels that change, their new HU, and the flat indices of the
        annotation; ``None`` where a stub would meet another bone.
    """
    tube, bone = site.tube, site.bone_mm.reshape(-1)[site.tube.index]
    curve = site.piece.curve
    cuts = [one for one in fracture.breaks if one.depth == 2.0]
    ends: list[Break | None] = [None, *cuts, None]
    pieces = [_make_piece(site, fracture, before, after) for before, after in zip(ends[:-1], ends[1:])]
    moved = _tissue_movement(site, pieces, bone)
    if fracture.bump_mm != 0:
        moved = moved + _bump(site, fracture)
    covered = [piece.share * _bone_share(_read(site, site.bone_mm, piece.moved_mm, 1)) for piece in pieces]
    for cleft in fracture.breaks:
        if cleft.depth != 2.0:
            covered = [share * (1 - _emptied(site, cleft, pieces[0].tube, fracture.subtle)) for share in covered]
    if fracture.bump_mm != 0:
        covered = [_bone_share(_read(site, site.bone_mm, moved, 1))]
        pieces[0].moved_mm = moved
    bones = np.minimum(np.sum(covered, axis=0), 1)
    others = site.other_mm.reshape(-1)[tube.index]
    is_moved = np.any([(share > 0.3) & (_length(p.moved_mm) > 1.0) for share, p in zip(covered, pieces)], axis=0)
    if np.count_nonzero(is_moved & (others < 1.0)) * site.spacing_mm.prod() > 2.0:
        return None
    new = _composed(site, pieces, covered, bones, moved)
    if fracture.swelling > 0:
        new = new + _swelling(site, fracture, new)
    if fracture.healing is not None:
        new = new + _healed(site, fracture, fracture.healing, pieces, new, bones)
    old = site.image.reshape(-1)[tube.index]
    new = np.clip(new, site.image.min(), site.image.max())
    changed = np.abs(new - old) > 0.01
    annotated = _annotated(site, fracture, pieces, curve)
    return tube.index[changed], new[changed], annotated


def _make_piece(site: Site, fracture: Fracture, before: Break | None, after: Break | None) -> _Piece:
    tube = site.tube
    moved = np.zeros((len(tube.index), 3))
    pulls = [(before, before.after_mm)] if before is not None else []
    pulls += [(after, after.before_mm)] if after is not None else []
    for one, vector in pulls:
        moved += np.clip(1 - np.abs(tube.s - one.s_mm) / one.ease_mm, 0, 1)[:, None] ** 1.5 * vector
    source = _source(site, moved)
    share = np.ones(len(tube.index))
    for cut, direction in ((before, -1), (after, 1)):
        if cut is not None:
            behind = direction * cut.distance(source) + cut.width_mm / 2
            if fracture.healing is not None and fracture.healing.rounding_mm > 0:
                behind += fracture.healing.rounding_mm * np.minimum(_section(site, source)[1] ** 2, 1.5)
            share *= coverage(behind, _blur_mm(site, cut.s_mm, fracture.subtle))
    return _Piece(before, after, moved, source, share)


def _source(site: Site, moved_mm: NDArray) -> TubeCoordinates:
    """Where moved voxels come from, in the frame of the rib."""
    tube, curve = site.tube, site.piece.curve
    sample = np.clip(np.rint(tube.s / STEP_MM).astype(int), 0, len(curve.points) - 1)
    tangents, normals = curve.tangents[sample], curve.normals[sample]
    along = [np.einsum("ij,ij->i", moved_mm, axis) for axis in (tangents, normals, np.cross(tangents, normals))]
    return TubeCoordinates(tube.index, tube.s - along[0], tube.u - along[1], tube.v - along[2])


def _voxel_mm(site: Site, s_mm: float) -> float:
    """Extent of a voxel along the rib."""
    curve = site.piece.curve
    tangent = curve.tangents[int(np.clip(round(s_mm / STEP_MM), 0, len(curve.points) - 1))]
    return float(np.abs(tangent) @ site.spacing_mm)


def _blur_mm(site: Site, s_mm: float, subtle: bool) -> float:
    """Width along the rib over which a gap is blurred; of a usual one, much wider than it, by the voxel alone."""
    voxel_mm = _voxel_mm(site, s_mm)
    return float(np.hypot(voxel_mm, _RESOLUTION_MM)) if subtle else voxel_mm


def _section(site: Site, tube: TubeCoordinates) -> tuple[NDArray, NDArray]:
    """
    Half thickness of the rib's section, and distance from the axis as a share of it, taken for an ellipse.

    The last centimeter of a piece, where the section is cut obliquely, has the section beside it.
    """
    last = len(site.piece.curve.points) - 1
    margin = min(round(_END_MM / STEP_MM), last // 2)
    sample = np.clip(np.rint(tube.s / STEP_MM).astype(int), margin, last - margin)
    half_u = site.piece.half_thickness_mm[sample]
    half_v = np.maximum(site.piece.area_mm2[sample] / (np.pi * half_u), 1.0)
    return half_u, np.hypot(tube.u / half_u, tube.v / half_v)


def _length(vectors: NDArray) -> NDArray:
    return np.linalg.norm(vectors, axis=1)


def _smooth_step(x: NDArray) -> NDArray:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _bone_share(bone_mm: NDArray) -> NDArray:
    """1 in the bone and its edge, 0 where its blur has ended."""
    return _smooth_step(1 - (bone_mm - _EDGE_MM) / _BLUR_MM)


def _read(site: Site, volume: NDArray, moved_mm: NDArray, order: int) -> NDArray:
    """Read a volume of the site where its voxels come from."""
    source = site.voxels - moved_mm / site.spacing_mm
    return ndimage.map_coordinates(volume, source.T, order=order, mode="nearest", prefilter=False, output=np.float32)


def _tissue_movement(site: Site, pieces: list[_Piece], bone_mm: NDArray) -> NDArray:
    """Movement of the soft tissue in mm, smooth everywhere but in the gap, shape ``(voxels, 3)``."""
    wanted = np.zeros((len(bone_mm), 3))
    if not any(piece.moved_mm.any() for piece in pieces):
        return wanted
    width = 2 * (1.0 + 0.8 * bone_mm)
    for piece in pieces:
        weight = np.ones(len(bone_mm))
        for cut, direction in ((piece.before, 1), (piece.after, -1)):
            if cut is not None:
                weight = weight * _smooth_step(0.5 + direction * cut.distance(site.tube) / width)
        wanted += weight[:, None] * piece.moved_mm
    along = np.maximum(site.bone_mm - _EDGE_MM, 0)
    to_other = along / (along + np.maximum(site.other_mm - 1.5, 0) + 1e-6)
    hold = (1 - _smooth_step(np.maximum(along / _FALLOFF_MM, to_other))).astype(np.float32)
    moved = hold.reshape(-1)[site.tube.index][:, None] * wanted
    for _ in range(3):  # the hold is that of the place where the tissue comes from
        moved = _read(site, hold, moved, 1)[:, None] * wanted
    return moved


def _bump(site: Site, fracture: Fracture) -> NDArray:
    """Movement of the outer or inner half of the rib that a buckle lifts, and of the tissue on it, in mm."""
    tube, curve = site.tube, site.piece.curve
    sample = np.clip(np.rint(tube.s / STEP_MM).astype(int), 0, len(curve.points) - 1)
    half = site.piece.half_thickness_mm[sample]
    height = abs(fracture.bump_mm) * _bell(tube.s, fracture.s_mm, fracture.bump_length_mm)
    u = tube.u * np.sign(fracture.bump_mm)
    lift = np.clip(u / (half + height), 0, 1) * (1 - _smooth_step((u - half - height) / 8.0)) * height
    bone = site.bone_mm.reshape(-1)[tube.index]
    other = site.other_mm.reshape(-1)[tube.index]
    beside = np.maximum(bone - np.maximum(height, 0) - _EDGE_MM, 0)
    lift = lift * (1 - _smooth_step(np.maximum(beside / 8.0, beside / (beside + np.maximum(other - 1.5, 0) + 1e-6))))
    return (np.sign(fracture.bump_mm) * lift)[:, None] * curve.normals[sample]


def _bell(s_mm: NDArray, center_mm: float, length_mm: float) -> NDArray:
    """1 at the center, falling to 0 half a length away."""
    return 0.5 + 0.5 * np.cos(2 * np.pi * np.clip((s_mm - center_mm) / length_mm, -0.5, 0.5))


def _emptied(site: Site, cleft: Break, tube: TubeCoordinates, subtle: bool) -> NDArray:
    """Share of each voxel that a cleft through a part of the section takes away, in [0, 1]."""
    voxel_mm = _blur_mm(site, cleft.s_mm, subtle)
    slab = (cleft.width_mm + voxel_mm) / 2 - np.abs(cleft.distance(tube))
    share = np.clip(slab / voxel_mm, 0, min(1.0, cleft.width_mm / voxel_mm))
    sample = int(np.clip(round(cleft.s_mm / STEP_MM), 0, len(site.piece.curve.points) - 1))
    height = np.sign(cleft.depth) * tube.u / site.piece.half_thickness_mm[sample]
    return share * np.clip((height - 1 + 2 * abs(cleft.depth)) * 3 + 0.5, 0, 1)


def _composed(
    site: Site, pieces: list[_Piece], covered: list[NDArray], bones: NDArray, moved: NDArray
) -> NDArray[np.float32]:
    """New HU of the voxels: the stubs, the tissue around them, and soft tissue where bone is missing."""
    coefficients = ndimage.spline_filter(site.image, order=3, output=np.float32)
    tissue = _read(site, coefficients, moved, 3)
    still = _length(moved) < 1e-3
    tissue[still] = site.image.reshape(-1)[site.tube.index[still]]
    level, noise = site.muscle()
    filling = level + noise * site.grid.texture(site.tube.index)
    missing = np.maximum(_bone_share(_read(site, site.bone_mm, moved, 1)) - bones, 0) / np.maximum(1 - bones, 1e-6)
    # below a hundredth it is rounding
    missing = np.where(missing > 0.01, np.minimum(missing, 1), 0)
    new = (1 - bones) * (tissue + missing * (filling - tissue))
    total = np.maximum(np.sum(covered, axis=0), 1)
    for piece, share in zip(pieces, covered):
        own = np.flatnonzero(share > 0)
        at = site.voxels[own] - piece.moved_mm[own] / site.spacing_mm
        values = ndimage.map_coordinates(coefficients, at.T, order=3, mode="nearest", prefilter=False)
        fixed = _length(piece.moved_mm[own]) < 1e-3
        values[fixed] = site.image.reshape(-1)[site.tube.index[own[fixed]]]
        new[own] += share[own] / total[own] * values
    # the lung does not follow a rib that leaves it: blood fills the room
    air = _air_share(new)
    too_much = np.maximum(air - _air_share(site.image.reshape(-1)[site.tube.index]), 0)
    return new + too_much / np.maximum(air, 0.02) * (filling - new)


def _air_share(image_hu: NDArray) -> NDArray:
    """0 in soft tissue, 1 in the lung and outside the patient, and in between at their blurred edge."""
    return np.clip((_FAT_HU[0] - image_hu) / (_FAT_HU[0] - _LUNG_HU), 0, 1)


def _swelling(site: Site, fracture: Fracture, new: NDArray) -> NDArray:
    """Rise of the fat around a fresh fracture, in HU: blood and edema make it streaky and denser."""
    tube = site.tube
    beyond = np.maximum(np.abs(tube.s - fracture.s_mm) - fracture.half_core_mm, 0) / 18.0
    level = beyond**2 + (site.bone_mm.reshape(-1)[tube.index] / 9.0) ** 2
    fat = np.clip((new - _FAT_HU[0]) / 30, 0, 1) * np.clip((_FAT_HU[1] - new) / 30, 0, 1)
    streaks = np.clip(0.6 + 0.4 * site.grid.texture(tube.index), 0, 1)
    return 90 * fracture.swelling * fat * streaks * np.clip(1 - level, 0, 1)


def _healed(
    site: Site, fracture: Fracture, healing: Healing, pieces: list[_Piece], new: NDArray, bones: NDArray
) -> NDArray:
    """
    Rise by callus and sclerosis, in HU.

    It lifts what is darker than it, and adds to the voxels what their surroundings lack, so the noise stays the scan's
    own; its edges are as blurred as the scan.
    """
    tube, shape = site.tube, site.grid.shape
    distance = np.min([_read(site, site.bone_mm, piece.moved_mm, 1) for piece in pieces], axis=0)
    volume = site.image.copy()
    volume.reshape(-1)[tube.index] = new
    # the surroundings: a median keeps the bone's edge
    near = np.zeros(shape, dtype=bool)
    beside = np.min([np.abs(tube.s - center) for center in fracture.centers_mm], axis=0)
    within = (beside < healing.callus_half_mm + 3) & (distance < 2 * healing.callus_mm + 3)
    near.reshape(-1)[tube.index[within]] = True
    if not near.any():
        return np.zeros(len(tube.index), dtype=np.float32)
    box = ndimage.find_objects(near.astype(np.uint8))[0]
    smooth = volume.copy()
    smooth[box] = ndimage.median_filter(volume[box], size=3)
    smooth_hu = smooth.reshape(-1)[tube.index]
    cuff = healing.cuff_mm(tube.s, tube.u, tube.v, fracture.centers_mm)
    # the pleura holds it back
    cuff = cuff * (1 - 0.4 * _air_share(smooth_hu))
    others = site.other_mm.reshape(-1)[tube.index]
    edge_mm = max(site.grid.voxel_mm, 2.5 if healing.age == "soft callus" else 0.8)
    in_bone = _bone_share(distance + _EDGE_MM)
    share = np.where(cuff > 0, coverage(distance - cuff, edge_mm), 0) * _smooth_step(others / 1.5) * (1 - in_bone)
    woven = 1 + healing.texture * site.grid.texture(tube.index)
    rise = share * np.maximum(healing.callus_hu * woven - smooth_hu, 0)
    line = in_bone * np.clip(1 - bones, 0, 1)
    closed = healing.line_filled * line * np.maximum(healing.callus_hu * woven - smooth_hu, 0)
    to_line = np.min([np.abs(one.distance(tube)) for one in fracture.breaks] or [beside], axis=0)
    dense = in_bone * bones * np.exp(-((to_line / healing.sclerosis_mm) ** 2))
    rise += closed + dense * np.maximum(healing.sclerosis_hu * woven - smooth_hu, 0)
    added = np.zeros(shape, dtype=np.float32)
    added.reshape(-1)[tube.index[within]] = rise[within]
    added[box] = ndimage.gaussian_filter(added[box], np.hypot(0.4 / site.spacing_mm, 0.3), truncate=2.5)
    return added.reshape(-1)[tube.index]


def sign_hu(site: Site, fracture: Fracture, index: NDArray[np.int64], new_hu: NDArray) -> float:
    """
    Tell how much a fracture shows: the change in HU that five voxels of the bone exceed.

    Args:
        site: the surroundings, as before.
        fracture: what was done to them.
        index: flat indices of the voxels that changed, as :py:func:`break_rib` gives them.
        new_hu: their HU.

    Returns:
        The drop of a fresh fracture's bone near its breaks; of a buckle and an old fracture, rise or drop.
    """
    old = site.image.reshape(-1)[index]
    change = old - new_hu
    if fracture.healing is None and fracture.breaks:
        tube = site.tube
        to_line = np.min([np.abs(one.distance(tube)) - one.width_mm / 2 for one in fracture.breaks], axis=0)
        near = np.isin(index, tube.index[to_line < 1.0]) & (old > BONE_HU)
        change = change[near]
    else:
        change = np.abs(change)
    return float(np.sort(change)[-5]) if len(change) >= 5 else 0.0


def _annotated(site: Site, fracture: Fracture, pieces: list[_Piece], curve: Curve) -> NDArray[np.int64]:
    """Flat indices of the annotation: the bone about the breaks and a margin, ends rounded, one connected piece."""
    inside = np.zeros(len(site.tube.index), dtype=bool)
    margin = sum(fracture.margin_mm) / 2
    for piece in pieces:
        tube = piece.tube
        ahead = np.abs(tube.s - fracture.s_mm)
        beyond = np.maximum(ahead - fracture.half_core_mm, 0) / (fracture.half_length_mm + margin)
        distance = _read(site, site.bone_mm, piece.moved_mm, 1)
        half_mm, eccentricity = _section(site, tube)
        # the rib goes on where its piece in the mask ends
        to_end = np.minimum(tube.s, curve.length_mm - tube.s)
        goes_on = np.minimum(distance, half_mm * np.maximum(eccentricity - 1, 0))
        distance = np.where(to_end < _END_MM / 2, goes_on, distance)
        if fracture.healing is not None:  # callus counts as bone
            cuff = fracture.healing.cuff_mm(tube.s, tube.u, tube.v, fracture.centers_mm)
            distance = np.maximum(distance - 0.7 * cuff, 0)
        # an annotator draws less of the bone between two breaks
        waist = 0.3 * np.clip(2 - 2 * ahead / max(fracture.half_core_mm, 1e-3), 0, 1)
        # 0.5 at the outline of the bone and less within, which rounds the ends
        within = 0.5 * np.minimum(eccentricity, 1)
        side = waist + np.where(distance > 0, 0.5 + distance / (2 * margin), within)
        hand = 1 + 0.1 * np.sin(0.45 * tube.s + 0.5 * tube.v) + 0.05 * np.sin(0.9 * tube.u - 0.3 * tube.v)
        near = np.ones(len(inside), dtype=bool)
        for cut, direction in ((piece.before, -1), (piece.after, 1)):
            if cut is not None:  # both stubs' outlines across the gap, which joins them
                near &= direction * cut.distance(tube) < cut.width_mm / 2 + 2.0
        # a mask of ribs may hold a bit of another bone
        near &= half_mm * (eccentricity - 1) < margin + 5.0
        inside |= near & ((beyond**3 + side**2) * hand < 1)
    mask = np.zeros(site.grid.shape, dtype=bool)
    mask.reshape(-1)[site.tube.index[inside]] = True
    return np.flatnonzero(cc3d.largest_k(mask, k=1, connectivity=6))

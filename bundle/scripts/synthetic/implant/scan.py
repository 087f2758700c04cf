"""Choose places on the ribs of a scan, and implant fractures there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from scripts.anatomy.spine import spine_mask
from scripts.synthetic.implant.centerline import RibPiece, rib_pieces
from scripts.synthetic.implant.fractures import draw_fracture, draw_subtle_fracture, widened
from scripts.synthetic.implant.warp import Site, break_rib, sign_hu
from scripts.synthetic.phantom.fractures import Fracture, SyntheticFracture

__all__ = ["Implanted", "ImplantedFracture", "implant_fractures"]

_FROM_SPINE_MM = 25.0
_FROM_END_MM = 15.0
_FROM_BORDER_MM = 15.0
_BETWEEN_MM = 45.0
_FROM_AVOIDED_MM = 30.0
# subtle fractures lie nearer to the spine, whose mask holds the transverse processes, and to the cartilage
_SUBTLE_FROM_SPINE_MM = 8.0
_SUBTLE_FROM_FRONT_MM = 6.0
_SUBTLE_FROM_BACK_MM = 4.0  # a found rib begins some 12 mm from the spine's mask
_LEAST_SIGN_HU = 60.0  # an annotator marks nothing that cannot be seen
_AREA_MM2 = (30.0, 350.0)  # a rib's section, marrow included, from the twelfth to the widest
_TRIES_PER_FRACTURE = 25
_RUN_SHARE = 0.65  # of the fractures that have a neighbor on the next rib: accidents break ribs in runs
_RUN_MM = 45.0


@dataclass(frozen=True)
class ImplantedFracture(SyntheticFracture):
    """
    What was implanted, beside what is known of any synthetic fracture.

    Args:
        center_voxel: the middle of the fracture on the rib's axis, in voxels.
        tangent: unit vector along the rib there, RAS.
        outward: unit vector across it, out of the chest.
        moved_mm: the largest movement of a stub, or the height of a buckle.
    """

    center_voxel: tuple[int, int, int]
    tangent: tuple[float, float, float]
    outward: tuple[float, float, float]
    moved_mm: float


@dataclass
class Implanted:
    """
    A scan with implanted fractures.

    Args:
        image_hu: the scan, of the dtype and shape ``(H, W, D)`` of the one given.
        label: ids 1 to n of the fractures, uint8; 0 is background.
        label_codes: type of each id.
        fractures: what was implanted, in the order of the ids.
    """

    image_hu: NDArray
    label: NDArray[np.uint8]
    label_codes: dict[int, int]
    fractures: list[ImplantedFracture]


@dataclass
class _Place:
    piece: int
    s_mm: float


def implant_fractures(
    image_hu: NDArray,
    rib_ids: NDArray,
    spacing_mm: ArrayLike,
    count: int,
    rng: np.random.Generator,
    avoid: NDArray[np.bool_] | None = None,
    codes: tuple[int, ...] | None = None,
    subtle: float = 0.0,
) -> Implanted:
    """
    Implant fractures into the ribs of a CT.

    The image is warped around each break and only the gap is painted, so texture and noise stay the scan's own; more
    than 45 mm from a fracture every voxel stays as it is. Fractures keep 25 mm from the spine, 15 mm from a rib's end
    and from the border, 45 mm from each other on a rib. A place where the mask shows no rib (section of 30 to 350 mm²,
    with cortex) or a stub would meet another bone is left out.

    Subtle fractures are thin clefts, small shifts and low buckles, half of them healing. They keep 8 mm from the spine
    and 6 mm from the front end of a rib. Each changes some bone by at least 60 HU, with a wider gap where it needs one.

    Args:
        image_hu: the scan in HU, shape ``(H, W, D)``, RAS axes, any numeric dtype.
        rib_ids: one id a rib, integer, 0 is background, of the same shape.
        spacing_mm: voxel size along each axis in mm.
        count: number of fractures wanted, 0 to 255.
        rng: source of the draw: the same state gives the same fractures.
        avoid: places to keep 30 mm away from, such as fractures that the scan already has.
        codes: types to implant, one after the other; drawn when ``None``, with RibFrac's shares or, of subtle ones, a
            third of buckles.
        subtle: share of fractures that are subtle, 0 to 1; above 0, a quarter of the others are healing.

    Returns:
        The scan with at most ``count`` fractures: fewer where there is no room.

    Raises:
        ValueError: when the shapes differ, the spacing is not three positive numbers, or count or share is out of
            range.
    """
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    if image_hu.ndim != 3 or rib_ids.shape != image_hu.shape or (avoid is not None and avoid.shape != image_hu.shape):
        raise ValueError(
            f"image_hu has shape {image_hu.shape}, rib_ids {rib_ids.shape}, avoid "
            f"{None if avoid is None else avoid.shape}; they must be equal and have three axes (H, W, D)."
        )
    if spacing.shape != (3,) or not np.all(np.isfinite(spacing) & (spacing > 0)):
        raise ValueError(f"spacing_mm must be three positive numbers, got {spacing_mm!r}.")
    if not 0 <= count <= 255:
        raise ValueError(f"count is {count}; a label holds 0 to 255 fractures.")
    if not 0 <= subtle <= 1:
        raise ValueError(f"subtle is {subtle}; it is a share, 0 to 1.")
    image, label = image_hu.copy(), np.zeros(image_hu.shape, dtype=np.uint8)
    result = Implanted(image, label, {}, [])
    pieces = rib_pieces(rib_ids, spacing) if count else []
    usual_allowed, subtle_allowed = _allowed_places(pieces, image_hu, spacing, avoid) if pieces else ([], [])
    steady = [piece.with_steady_ends() for piece in pieces] if subtle > 0 else []
    taken: list[tuple[_Place, Fracture]] = []
    last: _Place | None = None
    for _ in range(_TRIES_PER_FRACTURE * count):
        if len(taken) == count:
            break
        is_subtle = subtle > 0 and rng.random() < subtle
        allowed = subtle_allowed if is_subtle else usual_allowed
        place = _draw_place(pieces, allowed, last, rng)
        if place is None:
            if 0 < subtle < 1 and not is_subtle:
                continue
            break
        code = None if codes is None else codes[len(taken) % len(codes)]
        piece = (steady if is_subtle else pieces)[place.piece]
        if is_subtle:
            fracture = draw_subtle_fracture(piece, place.s_mm, spacing, rng, code)
        else:
            fracture = draw_fracture(piece, place.s_mm, spacing, rng, code, aged=subtle > 0)
        if not _fits(place, fracture, pieces, allowed, taken):
            last = None
            continue
        if _implant(result, rib_ids, spacing, piece, fracture, rng):
            taken.append((place, fracture))
            last = place
    return result


def _allowed_places(
    pieces: list[RibPiece], image_hu: NDArray, spacing: NDArray, avoid: NDArray[np.bool_] | None
) -> tuple[list[NDArray[np.bool_]], list[NDArray[np.bool_]]]:
    """Tell for each sample of each rib's axis whether a usual break may lie there, and whether a subtle one may."""
    spine = _tree(spine_mask(image_hu, spacing), spacing)
    avoided = None if avoid is None else _tree(avoid, spacing)
    high = (np.array(image_hu.shape) - 1) * spacing
    usual: list[NDArray[np.bool_]] = []
    subtle: list[NDArray[np.bool_]] = []
    for piece in pieces:
        points, s = piece.curve.points, piece.curve.s_mm
        ok = (points >= _FROM_BORDER_MM).all(axis=1) & (points <= high - _FROM_BORDER_MM).all(axis=1)
        ok &= (piece.area_mm2 >= _AREA_MM2[0]) & (piece.area_mm2 <= _AREA_MM2[1])
        if avoided is not None:
            ok &= avoided.query(points, distance_upper_bound=_FROM_AVOIDED_MM)[0] > _FROM_AVOIDED_MM
        starts_in_front = points[0, 1] > points[-1, 1]
        ends = (_SUBTLE_FROM_FRONT_MM, _SUBTLE_FROM_BACK_MM)[:: 1 if starts_in_front else -1]
        from_spine = np.inf if spine is None else spine.query(points, distance_upper_bound=_FROM_SPINE_MM)[0]
        for allowed, (first, last), distance in (
            (usual, (_FROM_END_MM, _FROM_END_MM), _FROM_SPINE_MM),
            (subtle, ends, _SUBTLE_FROM_SPINE_MM),
        ):
            within = (s >= first) & (s <= piece.curve.length_mm - last)
            allowed.append(ok & within & (from_spine > distance))
    return usual, subtle


def _tree(mask: NDArray[np.bool_], spacing: NDArray) -> cKDTree | None:
    """Index the places of a mask, one every 3 mm."""
    steps = np.maximum(1, np.round(3.0 / spacing)).astype(int)
    places = np.argwhere(mask[:: steps[0], :: steps[1], :: steps[2]])
    return cKDTree(places * steps * spacing) if len(places) else None


def _draw_place(
    pieces: list[RibPiece], allowed: list[NDArray[np.bool_]], last: _Place | None, rng: np.random.Generator
) -> _Place | None:
    """Draw a place, all along the ribs alike, or one near the last on the next rib."""
    where = np.concatenate([np.flatnonzero(ok) for ok in allowed]) if allowed else np.zeros(0, dtype=int)
    if len(where) == 0:
        return None
    owner = np.repeat(np.arange(len(allowed)), [np.count_nonzero(ok) for ok in allowed])
    candidates = np.arange(len(where))
    if last is not None and rng.random() < _RUN_SHARE:
        center = pieces[last.piece].curve.at(last.s_mm)
        points = np.concatenate([piece.curve.points[ok] for piece, ok in zip(pieces, allowed)])
        near = (np.linalg.norm(points - center, axis=1) < _RUN_MM) & (owner != last.piece)
        candidates = np.flatnonzero(near) if near.any() else candidates
    chosen = int(rng.choice(candidates))
    index = int(owner[chosen])
    return _Place(index, float(pieces[index].curve.s_mm[where[chosen]]))


def _fits(
    place: _Place,
    fracture: Fracture,
    pieces: list[RibPiece],
    allowed: list[NDArray[np.bool_]],
    taken: list[tuple[_Place, Fracture]],
) -> bool:
    """Whether all breaks are allowed, a bent stub has room to ease off, and other fractures are far enough away."""
    piece, ok = pieces[place.piece], allowed[place.piece]
    for one in fracture.breaks:
        if not ok[np.abs(piece.curve.s_mm - one.s_mm).argmin()]:
            return False
    if fracture.code == 1:
        one = fracture.breaks[0]
        room = one.s_mm if one.before_mm.any() else piece.curve.length_mm - one.s_mm
        if room < one.ease_mm:
            return False
    ids = piece.rib_id
    return all(
        pieces[other.piece].rib_id != ids
        or np.linalg.norm(piece.curve.at(place.s_mm) - pieces[other.piece].curve.at(other.s_mm))
        > _BETWEEN_MM + there.half_core_mm + fracture.half_core_mm
        for other, there in taken
    )


def _implant(
    result: Implanted,
    rib_ids: NDArray,
    spacing: NDArray,
    piece: RibPiece,
    fracture: Fracture,
    rng: np.random.Generator,
) -> bool:
    """Implant a fracture into image and label, in place, unless the rib is none or there is no room."""
    longest = max([one.ease_mm for one in fracture.breaks], default=0.0) if fracture.code != 4 else 0.0
    half = fracture.half_core_mm + max(longest, 18.0) + 2.0
    site = Site(result.image_hu, rib_ids, spacing, piece, fracture.s_mm, half, rng)
    if not all(site.is_rib(s_mm) for s_mm in [fracture.s_mm, *(one.s_mm for one in fracture.breaks)]):
        return False
    broken = break_rib(site, fracture)
    while broken is not None and fracture.subtle and sign_hu(site, fracture, *broken[:2]) < _LEAST_SIGN_HU:
        wider = widened(fracture)
        if wider is None:
            return False
        fracture = wider
        broken = break_rib(site, fracture)
    if broken is None:
        return False
    changed, values, annotated = broken
    label = result.label[site.box]
    marked = np.unravel_index(annotated, label.shape)
    if len(annotated) == 0 or label[marked].any():
        return False
    label_id = len(result.fractures) + 1
    label[marked] = label_id
    image = result.image_hu[site.box]
    is_whole = np.issubdtype(image.dtype, np.integer)
    image[np.unravel_index(changed, image.shape)] = np.rint(values) if is_whole else values
    sample = int(np.abs(piece.curve.s_mm - fracture.s_mm).argmin())
    center = np.rint(piece.curve.points[sample] / spacing).astype(int)
    half_mm = float(piece.half_thickness_mm[sample])
    moves = [float(np.linalg.norm(vector)) for one in fracture.breaks for vector in (one.before_mm, one.after_mm)]
    result.label_codes[label_id] = fracture.code
    tangent, outward = piece.curve.tangents[sample], piece.curve.normals[sample]
    result.fractures.append(
        ImplantedFracture.drawn(
            label_id,
            fracture,
            piece.rib_id,
            (tangent, outward),
            (half_mm, max(float(piece.area_mm2[sample]) / (np.pi * half_mm), 1.0)),
            center_voxel=tuple(int(x) for x in center),
            tangent=tuple(float(x) for x in tangent),
            outward=tuple(float(x) for x in outward),
            moved_mm=max([abs(fracture.bump_mm), *moves]),
        )
    )
    return True

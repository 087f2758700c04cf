"""Draw the fractures that are implanted: type, breaks, movement of the stubs, extent of the annotation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scripts.synthetic.implant.centerline import RibPiece
from scripts.synthetic.phantom.fractures import CODE_SHARES, CODES, Break, Fracture
from scripts.synthetic.phantom.geometry import STEP_MM

__all__ = ["CODES", "draw_fracture"]

# out of the chest, upward or downward, into it, in radians from the normal: a broken rib seldom sinks in
_DIRECTIONS = (0.0, np.pi / 2, -np.pi / 2, np.pi)
_DIRECTION_SHARES = (0.35, 0.2, 0.2, 0.25)
_MOST_SLIDE_MM = 2.0  # along the rib, as the other stub holds it


def draw_fracture(
    piece: RibPiece, s_mm: float, spacing_mm: NDArray[np.float64], rng: np.random.Generator, code: int | None = None
) -> Fracture:
    """
    Draw a fracture of a rib.

    A cleft that is much thinner than a voxel along the rib would leave no sign, so thick slices get the wide ones of
    the range.

    Args:
        piece: the rib.
        s_mm: arc length of the fracture's middle.
        spacing_mm: voxel size along each axis in mm, shape ``(3,)``.
        rng: source of the draw.
        code: type, a key of ``CODES``; drawn with RibFrac's shares when ``None``.

    References:
        Jin et al. (2020), EBioMedicine, doi:10.1016/j.ebiom.2020.103106: the four types.
    """
    if code is None:
        code = int(rng.choice(list(CODE_SHARES), p=list(CODE_SHARES.values())))
    i = int(np.clip(round(s_mm / STEP_MM), 0, len(piece.curve.points) - 1))
    normal, tangent = piece.curve.normals[i], piece.curve.tangents[i]
    angle = rng.choice(_DIRECTIONS, p=_DIRECTION_SHARES) + rng.normal(0, 0.35)
    away = np.cos(angle) * normal + np.sin(angle) * np.cross(tangent, normal)
    voxel_mm = float(np.abs(tangent) @ spacing_mm)  # extent of a voxel along the rib
    breaks: list[Break] = []
    if code == 1:
        one = _draw_break(s_mm, rng.uniform(1, 3), rng)
        one.ease_mm = rng.uniform(20, 30)
        moved = rng.uniform(3, 8) * away
        one.before_mm, one.after_mm = (moved, 0 * moved) if rng.random() < 0.5 else (0 * moved, moved)
        breaks = [one]
    elif code == 2:
        one = _draw_break(s_mm, rng.uniform(np.clip(0.45 * voxel_mm, 0.5, 1.2), 1.5), rng)
        if rng.random() < 0.6:
            one.after_mm, one.ease_mm = rng.uniform(0.2, 1.2) * away, rng.uniform(15, 25)
        else:  # through one cortex
            one.depth = float(rng.choice([-1, 1]) * rng.uniform(0.55, 0.9))
        breaks = [one]
    elif code == 4:
        half = rng.uniform(25, 40) / 2
        breaks = [_draw_break(s_mm + side * half, rng.uniform(1, 2.5), rng) for side in (-1, 1)]
        shift = rng.uniform(1, 4)
        breaks[0].after_mm, breaks[1].before_mm = shift * away, rng.uniform(0.4, 1) * shift * away
        for one in breaks:
            one.ease_mm = 60.0  # the piece between moves as a whole
    for one in breaks:
        for vector in (one.before_mm, one.after_mm):
            # along the plane, which else would close the gap or widen it
            slide = one.tilt[0] * (vector @ normal) + one.tilt[1] * (vector @ np.cross(tangent, normal))
            vector += np.clip(slide, -_MOST_SLIDE_MM, _MOST_SLIDE_MM) * tangent
    return Fracture(
        rib=piece.rib_id,
        code=code,
        s_mm=s_mm,
        breaks=breaks,
        bump_mm=float(rng.choice([1, -1]) * rng.uniform(np.clip(voxel_mm, 1.5, 2.2), 3)) if code == 3 else 0.0,
        bump_length_mm=rng.uniform(6, 10),
        half_length_mm=rng.uniform(8, 12) if code != 4 else rng.uniform(4, 7),
        margin_mm=(rng.uniform(1.5, 3.5), rng.uniform(1, 3)),
        swelling=rng.uniform(0.4, 0.9) if rng.random() < 0.45 else 0.0,
    )


def _draw_break(s_mm: float, width_mm: float, rng: np.random.Generator) -> Break:
    tilt = (float(rng.normal(0, 0.35)), float(rng.normal(0, 0.45)))
    return Break(s_mm, width_mm, tilt, (rng.uniform(0, 6), rng.uniform(0, 6)))

"""Draw the fractures that are implanted: type, breaks, movement of the stubs, extent of the annotation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from scripts.synthetic.implant.centerline import RibPiece
from scripts.synthetic.phantom.fractures import (
    CODE_SHARES,
    CODES,
    SUBTLE_BUMP_MM,
    SUBTLE_CODE_SHARES,
    Break,
    Fracture,
    draw_subtle_parts,
    with_age,
)
from scripts.synthetic.phantom.geometry import STEP_MM

__all__ = ["CODES", "draw_fracture", "draw_subtle_fracture", "widened"]

_MOST_GAP_MM = 1.5

# out of the chest, upward or downward, into it, in radians from the normal: a broken rib seldom sinks in
_DIRECTIONS = (0.0, np.pi / 2, -np.pi / 2, np.pi)
_DIRECTION_SHARES = (0.35, 0.2, 0.2, 0.25)
# Measured on RibFrac's masks. Across the rib they reach beyond the bone (above 200 HU, holes filled) by 2.2 mm in the
# median on each side (quartiles 1.6 and 2.6), by 3.1 mm where they are widest (2.1 and 3.9): 28 of 32 axial sections,
# of 21 fractures of RibFrac267, 331 and 421. Half axes of the ellipsoids of the same second moments are 5.6, 8.6 and
# 11.6 mm (quartiles 4.3-6.0, 7.3-9.2, 10.1-13.8), of 1 / 0.95 of the volume: 28 fractures of RibFrac267, 331 and 400.
_MARGIN_MM = (1.4, 3.7)
_HALF_LENGTH_MM = (5.0, 11.0)  # the margin is added at both ends
_MOST_SLIDE_MM = 2.0  # along the rib, as the other stub holds it


def draw_fracture(
    piece: RibPiece,
    s_mm: float,
    spacing_mm: NDArray[np.float64],
    rng: np.random.Generator,
    code: int | None = None,
    aged: bool = False,
) -> Fracture:
    """
    Draw a fracture of a rib of the usual kind.

    A cleft that is much thinner than a voxel along the rib would leave no sign, so thick slices get the wide ones of
    the range.

    Args:
        piece: the rib.
        s_mm: arc length of the fracture's middle.
        spacing_mm: voxel size along each axis in mm, shape ``(3,)``.
        rng: source of the draw.
        code: type, a key of ``CODES``; drawn with RibFrac's shares when ``None``.
        aged: whether one in four has healed for a while; else all are fresh.

    References:
        Jin et al. (2020), EBioMedicine, doi:10.1016/j.ebiom.2020.103106: the four types.
    """
    if code is None:
        code = int(rng.choice(list(CODE_SHARES), p=list(CODE_SHARES.values())))
    normal, tangent = _frame(piece, s_mm)
    away = _draw_direction(normal, tangent, rng)
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
    _slide(breaks, normal, tangent)
    fracture = Fracture(
        rib=piece.rib_id,
        code=code,
        s_mm=s_mm,
        breaks=breaks,
        bump_mm=float(rng.choice([1, -1]) * rng.uniform(np.clip(voxel_mm, 1.5, 2.2), 3)) if code == 3 else 0.0,
        bump_length_mm=rng.uniform(6, 10),
        half_length_mm=rng.uniform(*_HALF_LENGTH_MM) if code != 4 else rng.uniform(4, 7),
        margin_mm=(rng.uniform(*_MARGIN_MM), rng.uniform(*_MARGIN_MM)),
        swelling=rng.uniform(0.4, 0.9) if rng.random() < 0.45 else 0.0,
    )
    return with_age(fracture, rng) if aged else fracture


def draw_subtle_fracture(
    piece: RibPiece, s_mm: float, spacing_mm: NDArray[np.float64], rng: np.random.Generator, code: int | None = None
) -> Fracture:
    """
    Draw a fracture of a rib that is easily missed, of any age.

    Clefts are 0.3 to 0.9 mm wide, complete with a shift of up to 1.2 mm or through one cortex alone; displaced stubs
    are moved by 1.2 to 3 mm; buckles are 0.6 to 1.5 mm high; the piece between two breaks is shifted by up to 1.2 mm.

    Args:
        piece: the rib.
        s_mm: arc length of the fracture's middle.
        spacing_mm: voxel size along each axis in mm, shape ``(3,)``.
        rng: source of the draw.
        code: type, a key of ``CODES``; drawn with ``SUBTLE_CODE_SHARES`` when ``None``.
    """
    if code is None:
        code = int(rng.choice(list(SUBTLE_CODE_SHARES), p=list(SUBTLE_CODE_SHARES.values())))
    normal, tangent = _frame(piece, s_mm)
    away = _draw_direction(normal, tangent, rng)
    # a bump much lower than a voxel would leave no sign
    least_bump_mm = float(np.clip(0.4 * (np.abs(normal) @ spacing_mm), *SUBTLE_BUMP_MM))
    breaks, bump_mm = draw_subtle_parts(code, s_mm, away, least_bump_mm, rng)
    _slide(breaks, normal, tangent)
    fracture = Fracture(
        rib=piece.rib_id,
        code=code,
        s_mm=s_mm,
        breaks=breaks,
        bump_mm=bump_mm,
        bump_length_mm=rng.uniform(4, 8),
        half_length_mm=rng.uniform(*_HALF_LENGTH_MM) if code != 4 else rng.uniform(4, 7),
        margin_mm=(rng.uniform(*_MARGIN_MM), rng.uniform(*_MARGIN_MM)),
        swelling=rng.uniform(0.3, 0.8) if rng.random() < 0.35 else 0.0,
        subtle=True,
    )
    return with_age(fracture, rng)


def widened(fracture: Fracture) -> Fracture | None:
    """Give a fracture half as much again of its gaps and its bump; ``None`` where that would be no subtle one."""
    gaps = [replace(one, width_mm=1.5 * one.width_mm) for one in fracture.breaks]
    bump_mm = 1.5 * fracture.bump_mm
    if abs(bump_mm) > SUBTLE_BUMP_MM[1] or any(one.width_mm > _MOST_GAP_MM for one in gaps):
        return None
    return replace(fracture, breaks=gaps, bump_mm=bump_mm)


def _frame(piece: RibPiece, s_mm: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Normal and tangent of the rib's axis."""
    i = int(np.clip(round(s_mm / STEP_MM), 0, len(piece.curve.points) - 1))
    return piece.curve.normals[i], piece.curve.tangents[i]


def _draw_direction(
    normal: NDArray[np.float64], tangent: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    angle = rng.choice(_DIRECTIONS, p=_DIRECTION_SHARES) + rng.normal(0, 0.35)
    return np.cos(angle) * normal + np.sin(angle) * np.cross(tangent, normal)


def _slide(breaks: list[Break], normal: NDArray[np.float64], tangent: NDArray[np.float64]) -> None:
    """Move stubs along the plane of their break, which else would close the gap or widen it."""
    for one in breaks:
        for vector in (one.before_mm, one.after_mm):
            slide = one.tilt[0] * (vector @ normal) + one.tilt[1] * (vector @ np.cross(tangent, normal))
            vector += np.clip(slide, -_MOST_SLIDE_MM, _MOST_SLIDE_MM) * tangent


def _draw_break(s_mm: float, width_mm: float, rng: np.random.Generator) -> Break:
    tilt = (float(rng.normal(0, 0.35)), float(rng.normal(0, 0.45)))
    return Break(s_mm, width_mm, tilt, (rng.uniform(0, 6), rng.uniform(0, 6)))

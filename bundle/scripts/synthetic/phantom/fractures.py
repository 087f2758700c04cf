"""Rib fractures, and what looks like one, in the ribs of a thorax phantom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from scripts.synthetic.phantom.geometry import Grid, TubeCoordinates, coverage, tube_coordinates
from scripts.synthetic.phantom.healing import Healing, draw_age, draw_healing
from scripts.synthetic.phantom.skeleton import Rib, paint_bone, section_distance

__all__ = [
    "CODES",
    "CODE_SHARES",
    "SUBTLE_BUMP_MM",
    "SUBTLE_CODE_SHARES",
    "Break",
    "Fracture",
    "Mimic",
    "SyntheticFracture",
    "draw_flail",
    "draw_fractures",
    "draw_mimics",
    "draw_subtle_parts",
    "paint_rib",
    "paint_swelling",
    "with_age",
]

CODES = {1: "displaced", 2: "nondisplaced", 3: "buckle", 4: "segmental"}
# RibFrac's training table names the type of 1,655 fractures: 618, 567, 291 and 179 of the types 1 to 4
CODE_SHARES = {1: 618 / 1655, 2: 567 / 1655, 3: 291 / 1655, 4: 179 / 1655}
_REACH_MM = 16.0
_OVERHANG_MM = 5.0
_FROM_SPINE_MM = 45.0  # from the axis of the vertebral bodies: 25 mm from their edge
_FROM_END_MM = 4.0  # from the edge of the mask to the front end of the rib
_SUBTLE_FROM_SPINE_MM = 40.0  # beyond the transverse processes
_SUBTLE_FROM_FRONT_MM = 6.0
_BETWEEN_MM = 45.0
# measured on RibFrac's masks, as said in scripts.synthetic.implant.fractures
_MARGIN_MM = ((1.6, 3.6), (1.4, 3.0))  # along u and v
# a third end up as buckles, the kind that is missed most: the others find no room more often
SUBTLE_CODE_SHARES = {1: 0.2, 2: 0.36, 3: 0.3, 4: 0.14}
SUBTLE_GAP_MM = (0.3, 0.9)
SUBTLE_BUMP_MM = (0.6, 1.5)


@dataclass
class Break:
    """
    A plane through a rib.

    Args:
        s_mm: arc length on the rib's axis.
        width_mm: gap between the stubs, negative where they overlap, or width of the cleft.
        tilt: tangents of the plane's slant along u and v.
        phase: where its roughness begins, in radians, for u and v.
        depth: share of the section that is broken, from outside (positive) or inside (negative); 2 is all of it.
        before_mm: how far the stub towards the spine is moved, world axes, shape ``(3,)``.
        after_mm: how far the stub towards the front is moved.
        ease_mm: length over which the movement eases off.
    """

    s_mm: float
    width_mm: float
    tilt: tuple[float, float]
    phase: tuple[float, float]
    depth: float = 2.0
    before_mm: np.ndarray = field(default_factory=lambda: np.zeros(3))
    after_mm: np.ndarray = field(default_factory=lambda: np.zeros(3))
    ease_mm: float = 25.0

    def distance(self, tube: TubeCoordinates) -> np.ndarray:
        """Signed distance of voxels from the rough plane along the rib, in mm, negative towards the spine."""
        slant = self.tilt[0] * tube.u + self.tilt[1] * tube.v
        rough = 0.35 * np.sin(1.9 * tube.u + self.phase[0]) + 0.35 * np.sin(1.4 * tube.v + self.phase[1])
        return tube.s - self.s_mm - slant - rough


@dataclass
class Fracture:
    """
    An annotated fracture.

    Args:
        rib: index into the list of ribs.
        code: type, a key of ``CODES``.
        s_mm: arc length of its middle on the rib's axis.
        breaks: one, two in a segmental fracture, none in a buckle fracture.
        bump_mm: height of a buckle, positive outwards, and 0 for the others.
        bump_length_mm: its length.
        half_length_mm: half of the mask along the rib, beyond the breaks.
        margin_mm: how far the mask reaches over the bone, along u and v.
        swelling: share of swollen tissue around it, in [0, 1].
        subtle: whether it is of the kind that is easily missed.
        healing: signs of its age; ``None`` is fresh.
    """

    rib: int
    code: int
    s_mm: float
    breaks: list[Break]
    bump_mm: float
    bump_length_mm: float
    half_length_mm: float
    margin_mm: tuple[float, float]
    swelling: float
    subtle: bool = False
    healing: Healing | None = None

    @property
    def age(self) -> str:
        """A key of :py:data:`scripts.synthetic.phantom.healing.AGES`."""
        return "fresh" if self.healing is None else self.healing.age

    @property
    def centers_mm(self) -> list[float]:
        """Arc lengths of its breaks, or of a buckle's middle."""
        return [one.s_mm for one in self.breaks] or [self.s_mm]

    @property
    def half_core_mm(self) -> float:
        """Half of the distance between the breaks of a segmental fracture, else 0."""
        return (self.breaks[-1].s_mm - self.breaks[0].s_mm) / 2 if len(self.breaks) > 1 else 0.0

    def level(self, rib: Rib, tube: TubeCoordinates) -> np.ndarray:
        """Level of the mask at voxels: below 1 inside; an ellipsoid about the break, stretched between two breaks."""
        ahead = tube.s - self.s_mm
        beyond = np.maximum(np.abs(ahead) - self.half_core_mm, 0) / self.half_length_mm
        # an annotator draws less of the bone between two breaks
        waist = 1 - 0.25 * np.clip(1 - np.abs(ahead) / max(self.half_core_mm, 1e-3), 0, 1)
        cuff = 0.0 if self.healing is None else self.healing.cuff_mm(tube.s, tube.u, tube.v, self.centers_mm)
        u = tube.u / ((rib.along(rib.half_thickness_mm, tube.s) + self.margin_mm[0] + 0.7 * cuff) * waist)
        v = tube.v / ((rib.along(rib.half_height_mm, tube.s) + self.margin_mm[1] + 0.7 * cuff) * waist)
        hand = 1 + 0.12 * np.sin(0.45 * tube.s + 0.5 * tube.v) + 0.08 * np.sin(0.9 * tube.u - 0.3 * tube.v)
        return (beyond**2 + u**2 + v**2) * hand


@dataclass(frozen=True)
class SyntheticFracture:
    """
    What was drawn of a fracture. Offset and contact are those of the break whose stubs are farthest apart.

    Args:
        label_id: its id in the label.
        code: type, a key of ``CODES``.
        rib_id: id of its rib.
        gap_mm: width of the widest gap or cleft, negative where the stubs overlap, 0 without a break.
        offset_mm: distance of the stubs' axes across the rib; 0 without a complete break.
        contact: share of the section that still faces the other stub, 0 to 1; 1 without a complete break.
        subtle: whether it is of the kind that is easily missed.
        age: ``fresh``, ``soft callus``, ``hard callus``, ``remodeled`` or ``ununited``.
    """

    label_id: int
    code: int
    rib_id: int
    gap_mm: float
    offset_mm: float
    contact: float
    subtle: bool
    age: str

    @classmethod
    def drawn(
        cls,
        label_id: int,
        fracture: Fracture,
        rib_id: int,
        frame: tuple[np.ndarray, np.ndarray],
        half_mm: tuple[float, float],
        scale: float = 1.0,
        **more: Any,
    ) -> Self:
        """
        Tell what is drawn of a fracture.

        Args:
            label_id: its id in the label.
            fracture: the fracture.
            rib_id: id of its rib.
            frame: unit vectors along the rib and out of the chest, each of shape ``(3,)``.
            half_mm: half thickness and half height of the rib's section, taken for an ellipse.
            scale: size of the scan against what ``fracture`` was drawn for.
            more: the fields that a derived class adds.
        """
        tangent, normal = frame
        across = np.array([normal, np.cross(tangent, normal)])
        cuts = [across @ (one.after_mm - one.before_mm) for one in fracture.breaks if one.depth == 2.0]
        half_axes = max((float(np.linalg.norm(moved / half_mm)) for moved in cuts), default=0.0)
        half = min(half_axes / 2, 1.0)  # two circles of radius 1
        return cls(
            label_id,
            fracture.code,
            rib_id,
            scale * max((one.width_mm for one in fracture.breaks), key=abs, default=0.0),
            scale * max((float(np.linalg.norm(moved)) for moved in cuts), default=0.0),
            float(2 / np.pi * (np.arccos(half) - half * np.sqrt(1 - half**2))),
            fracture.subtle,
            fracture.age,
            **more,
        )


@dataclass
class Mimic:
    """
    Something in an intact rib that looks like a fracture.

    Args:
        rib: index into the list of ribs.
        kind: ``callus`` (healed: thick and dense), ``groove`` (of a vessel, along the lower inner edge) or ``island``
            (of compact bone).
        s_mm: arc length of its middle.
        size_mm: height of the callus, depth of the groove or radius of the island.
        length_mm: its length along the rib.
    """

    rib: int
    kind: str
    s_mm: float
    size_mm: float
    length_mm: float


def draw_fractures(
    grid: Grid, ribs: Sequence[Rib], spine_mm: np.ndarray, count: int, rng: np.random.Generator, subtle: float = 0.0
) -> list[Fracture]:
    """
    Draw fractures where accidents make them: in runs over neighboring ribs, mostly of one side, mostly lateral.

    Args:
        grid: the scan; a fracture lies inside it as a whole.
        ribs: the ribs.
        spine_mm: points on the axis of the vertebral bodies in world coordinates, shape ``(n, 3)``.
        count: number wanted.
        rng: source of the draw.
        subtle: share of fractures that are subtle, 0 to 1: they also lie near the spine, near the cartilage, and on
            the first and last ribs; above 0, a quarter of the others are healing.

    Returns:
        At most ``count`` fractures: fewer where the scan shows too little of the ribs.
    """
    where = {(rib.side, rib.number): i for i, rib in enumerate(ribs)}
    main_side = int(rng.choice([1, -1]))
    fractures: list[Fracture] = []
    for _ in range(300):
        side = main_side if rng.random() < 0.85 else -main_side
        first, run, place = int(rng.integers(1, 12)), int(rng.geometric(0.35)), rng.beta(4.5, 3.0)
        for number in range(first, min(first + run, 12) + 1):
            if len(fractures) == count:
                return fractures
            is_subtle = subtle > 0 and rng.random() < subtle
            if number in (1, 12) and not is_subtle and rng.random() < 0.6:
                continue
            index = where[side, number]
            if is_subtle:
                at = rng.uniform(0, 1) if rng.random() < 0.5 else np.clip(place + rng.normal(0, 0.04), 0, 1)
                fracture = _draw_subtle_fracture(ribs[index], index, float(ribs[index].curve.length_mm * at), rng)
                if _fits(grid, fracture, fractures, ribs, spine_mm):
                    fractures.append(fracture)
                continue
            code = int(rng.choice(list(CODE_SHARES), p=list(CODE_SHARES.values())))
            s_mm = float(ribs[index].curve.length_mm * np.clip(place + rng.normal(0, 0.04), 0, 1))
            fracture = _draw_fracture(ribs[index], index, code, s_mm, rng)
            if subtle > 0:
                fracture = with_age(fracture, rng)
            unlikely = _is_mirrored(fracture, fractures, ribs) and rng.random() < 0.9
            if not unlikely and _fits(grid, fracture, fractures, ribs, spine_mm):
                fractures.append(fracture)
    return fractures


def draw_flail(
    grid: Grid,
    ribs: Sequence[Rib],
    spine_mm: np.ndarray,
    others: Sequence[Fracture],
    rng: np.random.Generator,
) -> list[Fracture]:
    """
    Draw displaced fractures of 3 to 6 neighboring ribs of one side, some broken twice, as in a flail chest.

    The ends are moved by up to 14 mm, lie up to 8 mm over each other or up to 12 mm apart.

    Args:
        grid: the scan; a fracture lies inside it as a whole.
        ribs: the ribs.
        spine_mm: points on the axis of the vertebral bodies in world coordinates, shape ``(n, 3)``.
        others: fractures that are there already; the new ones keep off them.
        rng: source of the draw.

    Returns:
        The new fractures; fewer where they do not fit.
    """
    best: list[Fracture] = []
    for _ in range(30):
        found = _draw_run(grid, ribs, spine_mm, others, rng)
        if len({fracture.rib for fracture in found}) >= 3:
            return found
        best = max(best, found, key=len)
    return best


def _draw_run(
    grid: Grid, ribs: Sequence[Rib], spine_mm: np.ndarray, others: Sequence[Fracture], rng: np.random.Generator
) -> list[Fracture]:
    """Try one run of 3 to 6 neighboring ribs; returns the fractures that fit."""
    side, first = int(rng.choice([1, -1])), int(rng.integers(2, 8))
    numbers, place = range(first, first + int(rng.integers(3, 7))), rng.uniform(0.3, 0.75)
    found: list[Fracture] = []
    for index, rib in enumerate(ribs):
        if rib.side != side or rib.number not in numbers:
            continue
        apart = rng.uniform(0.2, 0.3) if rng.random() < 0.5 else 0.0
        for share in (place - apart / 2, place + apart / 2) if apart else (place,):
            s_mm = float(rib.curve.length_mm * np.clip(share + rng.normal(0, 0.03), 0, 1))
            fracture = _draw_fracture(rib, index, 1, s_mm, rng)
            _move_apart(fracture.breaks[0], rng)
            if _fits(grid, fracture, [*others, *found], ribs, spine_mm):
                found.append(fracture)
    return found


def _move_apart(one: Break, rng: np.random.Generator) -> None:
    """Move the stubs of a break farther: apart, over each other, or sideways."""
    moved = one.after_mm - one.before_mm
    away = moved / np.linalg.norm(moved)
    kind = rng.choice(["apart", "over", "aside"])
    distance = {"apart": rng.uniform(2, 8), "over": rng.uniform(8, 12), "aside": rng.uniform(8, 14)}[kind]
    one.before_mm, one.after_mm = -0.4 * distance * away, 0.6 * distance * away
    if kind == "apart":
        one.width_mm = rng.uniform(5, 12)
    elif kind == "over":
        one.width_mm = -rng.uniform(3, 8)  # both stubs reach beyond the plane


def _is_mirrored(fracture: Fracture, others: Sequence[Fracture], ribs: Sequence[Rib]) -> bool:
    rib = ribs[fracture.rib]
    return any(
        ribs[other.rib].side != rib.side
        and ribs[other.rib].number == rib.number
        and abs(other.s_mm - fracture.s_mm) < 30
        for other in others
    )


def _fits(
    grid: Grid, fracture: Fracture, others: Sequence[Fracture], ribs: Sequence[Rib], spine_mm: np.ndarray
) -> bool:
    """Whether a fracture keeps its distance from spine, end of the rib, edge of the scan and other fractures."""
    curve = ribs[fracture.rib].curve
    reach = fracture.half_core_mm + fracture.half_length_mm
    to_front = curve.length_mm - fracture.s_mm
    # the mask of a subtle one may reach over the cartilage
    if to_front < (fracture.half_core_mm + _SUBTLE_FROM_FRONT_MM if fracture.subtle else reach + _FROM_END_MM):
        return False
    points = np.array([curve.at(fracture.s_mm + ahead) for ahead in (-reach, 0, reach)])
    from_spine_mm = _SUBTLE_FROM_SPINE_MM if fracture.subtle else _FROM_SPINE_MM
    if np.linalg.norm(points[:, None] - spine_mm[None], axis=2).min() < from_spine_mm:
        return False
    voxels = (points - grid.origin_mm) / grid.spacing_mm
    margin = 14.0 / np.array(grid.spacing_mm)
    if (voxels < margin).any() or (voxels > np.array(grid.shape) - 1 - margin).any():
        return False
    return all(
        other.rib != fracture.rib
        or abs(other.s_mm - fracture.s_mm) > _BETWEEN_MM + other.half_core_mm + fracture.half_core_mm
        for other in others
    )


def _draw_fracture(rib: Rib, index: int, code: int, s_mm: float, rng: np.random.Generator) -> Fracture:
    away, tangent = _draw_direction(rib, s_mm, rng)
    breaks: list[Break] = []
    if code == 1:
        one = _draw_break(s_mm, rng.uniform(1, 3), rng)
        moved = rng.uniform(3, 8) * away - rng.uniform(0, 2) * tangent
        one.before_mm, one.after_mm = (-0.25 * moved, 0.75 * moved) if rng.random() < 0.7 else (-moved, 0 * moved)
        one.ease_mm = rng.uniform(20, 30)
        breaks = [one]
    elif code == 2:
        one = _draw_break(s_mm, rng.uniform(0.5, 1.5), rng)
        one.depth = 2.0 if rng.random() < 0.55 else float(rng.choice([-1, 1]) * rng.uniform(0.4, 0.9))
        if one.depth == 2.0:
            one.after_mm, one.ease_mm = rng.uniform(0, 0.8) * away, rng.uniform(15, 25)
        breaks = [one]
    elif code == 4:
        half = rng.uniform(25, 40) / 2
        breaks = [_draw_break(s_mm + side * half, rng.uniform(0.8, 2.5), rng) for side in (-1, 1)]
        shift = rng.uniform(1, 4)
        breaks[0].after_mm, breaks[1].before_mm = shift * away, rng.uniform(0.4, 1) * shift * away
        for one in breaks:
            one.ease_mm = 60.0  # the piece between moves as a whole
    return Fracture(
        rib=index,
        code=code,
        s_mm=s_mm,
        breaks=breaks,
        bump_mm=float(rng.choice([1, -1]) * rng.uniform(1.5, 3)) if code == 3 else 0.0,
        bump_length_mm=rng.uniform(6, 10),
        half_length_mm={1: rng.uniform(8.5, 13.5), 2: rng.uniform(7, 12), 3: rng.uniform(6, 10.5), 4: 6.5}[code],
        margin_mm=(rng.uniform(*_MARGIN_MM[0]), rng.uniform(*_MARGIN_MM[1])) if code != 4 else (1.6, 1.1),
        swelling=rng.uniform(0.4, 0.9) if rng.random() < 0.45 else 0.0,
    )


def draw_subtle_parts(
    code: int,
    s_mm: float,
    away: np.ndarray,
    least_bump_mm: float,
    rng: np.random.Generator,
) -> tuple[list[Break], float]:
    """
    Draw breaks and bump of a fracture that is easily missed.

    Args:
        code: type, a key of ``CODES``.
        s_mm: arc length of its middle.
        away: unit vector to which stubs are moved, across the rib, shape ``(3,)``.
        least_bump_mm: least height of a buckle, within ``SUBTLE_BUMP_MM``.
        rng: source of the draw.

    Returns:
        The breaks, with clefts of 0.3 to 0.9 mm, complete with a shift of up to 1.2 mm or through one cortex alone, or
        stubs displaced by 1.2 to 3 mm; and the height of a buckle in mm, positive outwards, else 0.
    """
    breaks: list[Break] = []
    bump_mm = 0.0
    if code == 1:
        one = _draw_break(s_mm, rng.uniform(0.4, 1.2), rng)
        one.ease_mm = rng.uniform(15, 25)
        moved = rng.uniform(1.2, 3) * away
        one.before_mm, one.after_mm = (moved, 0 * moved) if rng.random() < 0.5 else (0 * moved, moved)
        breaks = [one]
    elif code == 2:
        one = _draw_break(s_mm, rng.uniform(*SUBTLE_GAP_MM), rng)
        if rng.random() < 0.55:
            one.after_mm, one.ease_mm = rng.uniform(0, 1.2) * away, rng.uniform(12, 22)
        else:  # through one cortex
            one.depth = float(rng.choice([-1, 1]) * rng.uniform(0.4, 0.8))
        breaks = [one]
    elif code == 3:
        bump_mm = float(rng.choice([1, -1]) * rng.uniform(least_bump_mm, SUBTLE_BUMP_MM[1]))
    elif code == 4:
        half = rng.uniform(20, 35) / 2
        breaks = [_draw_break(s_mm + side * half, rng.uniform(*SUBTLE_GAP_MM), rng) for side in (-1, 1)]
        shift = rng.uniform(0.2, 1.2)
        breaks[0].after_mm, breaks[1].before_mm = shift * away, rng.uniform(0.4, 1) * shift * away
        for one in breaks:
            one.ease_mm = 60.0  # the piece between moves as a whole
    return breaks, bump_mm


def with_age(fracture: Fracture, rng: np.random.Generator) -> Fracture:
    """Draw the age of a fracture; swelling is gone when callus is there, and an ununited line gapes."""
    healing = draw_healing(draw_age(fracture.code, fracture.subtle, rng), rng)
    if healing is None:
        return fracture
    if healing.age == "ununited":
        for one in fracture.breaks:
            one.width_mm = max(one.width_mm, rng.uniform(0.7, 1.5))
    return replace(fracture, healing=healing, swelling=0.0)


def _draw_subtle_fracture(rib: Rib, index: int, s_mm: float, rng: np.random.Generator) -> Fracture:
    code = int(rng.choice(list(SUBTLE_CODE_SHARES), p=list(SUBTLE_CODE_SHARES.values())))
    away, _ = _draw_direction(rib, s_mm, rng)
    breaks, bump_mm = draw_subtle_parts(code, s_mm, away, SUBTLE_BUMP_MM[0], rng)
    fracture = Fracture(
        rib=index,
        code=code,
        s_mm=s_mm,
        breaks=breaks,
        bump_mm=bump_mm,
        bump_length_mm=rng.uniform(4, 8),
        half_length_mm=rng.uniform(7, 12) if code != 4 else 6.5,
        margin_mm=(rng.uniform(*_MARGIN_MM[0]), rng.uniform(*_MARGIN_MM[1])),
        swelling=rng.uniform(0.3, 0.8) if rng.random() < 0.35 else 0.0,
        subtle=True,
    )
    return with_age(fracture, rng)


def _draw_direction(rib: Rib, s_mm: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw to which side stubs are moved at a place on a rib; return that unit vector, and the one along the rib."""
    i = int(np.clip(round(s_mm / rib.curve.length_mm * (len(rib.curve.points) - 1)), 0, len(rib.curve.points) - 1))
    normal, tangent = rib.curve.normals[i], rib.curve.tangents[i]
    angle = rng.choice([0, np.pi]) + rng.normal(0, 0.7)
    away = np.cos(angle) * normal + np.sin(angle) * np.cross(tangent, normal)
    return away, tangent


def _draw_break(s_mm: float, width_mm: float, rng: np.random.Generator) -> Break:
    tilt = (float(rng.normal(0, 0.35)), float(rng.normal(0, 0.45)))
    return Break(s_mm, width_mm, tilt, (rng.uniform(0, 6), rng.uniform(0, 6)))


def draw_mimics(ribs: Sequence[Rib], fractures: Sequence[Fracture], rng: np.random.Generator) -> list[Mimic]:
    """Draw healed calluses, grooves and islands into ribs, away from their fractures."""
    mimics = []
    for _ in range(rng.poisson(5)):
        index = int(rng.integers(len(ribs)))
        kind = str(rng.choice(["callus", "groove", "island"], p=[0.35, 0.4, 0.25]))
        s_mm = float(rng.uniform(0.2, 0.9) * ribs[index].curve.length_mm)
        size = {"callus": rng.uniform(1, 2.5), "groove": rng.uniform(0.8, 2), "island": rng.uniform(1, 2.2)}[kind]
        length = {"callus": rng.uniform(12, 22), "groove": rng.uniform(8, 25), "island": rng.uniform(2, 5)}[kind]
        if all(f.rib != index or abs(f.s_mm - s_mm) > 30 + f.half_core_mm for f in fractures):
            mimics.append(Mimic(index, kind, s_mm, size, length))
    return mimics


def paint_swelling(grid: Grid, rib: Rib, fracture: Fracture, rng: np.random.Generator) -> None:
    """Paint swollen tissue and blood around a fracture; call it before the bones are painted."""
    half_length, out, up = rng.uniform(12, 24), rng.uniform(7, 11), rng.uniform(9, 15)
    core = fracture.half_core_mm
    start, stop = fracture.s_mm - core - half_length, fracture.s_mm + core + half_length
    tube = tube_coordinates(grid, rib.curve, up + 2, start, stop)
    beyond = np.maximum(np.abs(tube.s - fracture.s_mm) - core, 0) / half_length
    level = np.sqrt(beyond**2 + ((tube.u + 1) / out) ** 2 + (tube.v / up) ** 2)
    alpha = fracture.swelling * coverage((level - 1) * out, 3 * grid.voxel_mm)
    grid.paint(tube.index, alpha, 45 + 8 * grid.texture(tube.index))


def paint_rib(
    grid: Grid,
    rib: Rib,
    fractures: Sequence[tuple[int, Fracture]],
    mimics: Sequence[Mimic],
    label: np.ndarray,
    rib_ids: np.ndarray,
) -> None:
    """
    Paint a rib with its fractures, and annotate them.

    The rib is painted in the frame of its axis. A complete break cuts it in pieces, each with an axis of its own that
    is bent away at the break; a cleft takes away bone near its plane; a buckle widens the section on one side. Callus
    lies around the bone and in the line, and the marrow beside an old line is dense.

    Args:
        grid: the scan.
        rib: the rib.
        fractures: instance id and fracture, those of this rib only.
        mimics: those of this rib only.
        label: instance ids, written in place, of the grid's shape.
        rib_ids: rib ids, written in place, of the grid's shape.
    """
    breaks = [one for _, fracture in fractures for one in fracture.breaks]
    cuts = sorted((one for one in breaks if one.depth == 2.0), key=lambda one: one.s_mm)
    clefts = [one for one in breaks if one.depth != 2.0]
    ends: list[Break | None] = [None, *cuts, None]
    for _, fracture in fractures:
        if fracture.healing is not None:
            for before, after in zip(ends[:-1], ends[1:]):
                tube = _piece(grid, rib, before, after)
                own = np.ones(len(tube.s), dtype=bool)  # up to the middle of the line
                own &= True if before is None else before.distance(tube) >= 0
                own &= True if after is None else after.distance(tube) < 0
                distance = _section(rib, tube, fractures, mimics)
                _paint_callus(grid, tube, distance, own, fracture, fracture.healing)
    for before, after in zip(ends[:-1], ends[1:]):
        tube = _piece(grid, rib, before, after)
        distance = _section(rib, tube, fractures, mimics)
        distance = np.maximum(distance, np.maximum(-tube.s, tube.s - rib.curve.length_mm))
        marrow, cortex = _material(rib, tube, fractures, mimics)
        present = np.ones_like(tube.s)
        for cut, direction in ((before, -1), (after, 1)):  # a stub shows its marrow, no cortex closes it
            if cut is not None:
                behind = direction * cut.distance(tube) + cut.width_mm / 2 + _rounding(rib, tube, cut, fractures)
                present *= coverage(behind, grid.voxel_mm)
        for cleft in clefts:
            present *= 1 - _emptied(rib, cleft, tube, grid.voxel_mm)
        bone = paint_bone(grid, tube, distance, cortex, rib.cortex_hu, marrow, present)
        rib_ids.reshape(-1)[tube.index[bone > 0.5]] = rib.rib_id
        for instance, fracture in fractures:
            inside = tube.index[fracture.level(rib, tube) < 1]
            flat = label.reshape(-1)
            flat[inside[flat[inside] == 0]] = instance


def _paint_callus(
    grid: Grid, tube: TubeCoordinates, distance: np.ndarray, own: np.ndarray, fracture: Fracture, healing: Healing
) -> None:
    """Paint callus around the bone, and in the line as far as it is closed; call it before the bone is painted."""
    cuff = healing.cuff_mm(tube.s, tube.u, tube.v, fracture.centers_mm)
    edge_mm = max(grid.voxel_mm, 2.5 if healing.age == "soft callus" else 0.8)
    alpha = np.where(distance > 0, coverage(distance - cuff, edge_mm), healing.line_filled) * (own & (cuff > 0))
    woven = 1 + healing.texture * grid.texture(tube.index)
    grid.paint(tube.index, alpha, healing.callus_hu * woven)


def _rounding(
    rib: Rib, tube: TubeCoordinates, cut: Break, fractures: Sequence[tuple[int, Fracture]]
) -> np.ndarray | float:
    """How far the surface of a stub lies behind the plane of its break, in mm."""
    for _, fracture in fractures:
        if fracture.healing is not None and any(one is cut for one in fracture.breaks):
            u = tube.u / rib.along(rib.half_thickness_mm, tube.s)
            v = tube.v / rib.along(rib.half_height_mm, tube.s)
            return fracture.healing.rounding_mm * np.minimum(u**2 + v**2, 1.5)
    return 0.0


def _piece(grid: Grid, rib: Rib, before: Break | None, after: Break | None) -> TubeCoordinates:
    """Voxels near the piece of a rib between two complete breaks, in the frame of its bent axis."""
    s = rib.curve.s_mm[:, None]
    offsets = np.zeros_like(rib.curve.points)
    if before is not None:
        offsets += np.clip(1 - np.abs(s - before.s_mm) / before.ease_mm, 0, 1) ** 1.5 * before.after_mm
    if after is not None:
        offsets += np.clip(1 - np.abs(s - after.s_mm) / after.ease_mm, 0, 1) ** 1.5 * after.before_mm
    start = -1.0 if before is None else before.s_mm - _OVERHANG_MM
    stop = rib.curve.length_mm + 1.0 if after is None else after.s_mm + _OVERHANG_MM
    return tube_coordinates(grid, rib.curve.moved(offsets), _REACH_MM, start, stop)


def _section(
    rib: Rib, tube: TubeCoordinates, fractures: Sequence[tuple[int, Fracture]], mimics: Sequence[Mimic]
) -> np.ndarray:
    """Signed distance from the rib's outline in mm, with the bumps of buckles and calluses, and grooves."""
    half_u, half_v = rib.along(rib.half_thickness_mm, tube.s), rib.along(rib.half_height_mm, tube.s)
    u, v = tube.u, tube.v
    for _, fracture in fractures:
        if fracture.bump_mm != 0:
            bump = np.abs(fracture.bump_mm) * _bell(tube.s, fracture.s_mm, fracture.bump_length_mm)
            u = np.where(u * fracture.bump_mm > 0, u / (1 + bump / half_u), u)
    for mimic in mimics:
        if mimic.kind == "callus":
            bump = mimic.size_mm * _bell(tube.s, mimic.s_mm, mimic.length_mm)
            u, v = u / (1 + bump / half_u), v / (1 + 0.6 * bump / half_v)
    distance = section_distance(u, v, half_u, half_v)
    for mimic in mimics:
        if mimic.kind == "groove":
            along = np.maximum(np.abs(tube.s - mimic.s_mm) - mimic.length_mm / 2, 0)
            ball = mimic.size_mm - np.sqrt((tube.u + 0.75 * half_u) ** 2 + (tube.v + 0.65 * half_v) ** 2 + along**2)
            distance = np.maximum(distance, ball)
    return distance


def _material(
    rib: Rib, tube: TubeCoordinates, fractures: Sequence[tuple[int, Fracture]], mimics: Sequence[Mimic]
) -> tuple[np.ndarray, np.ndarray]:
    """HU of the marrow and thickness of the cortex in mm at voxels."""
    marrow, cortex = rib.along(rib.marrow_hu, tube.s), rib.along(rib.cortex_mm, tube.s)
    cortex = cortex * (1 + 0.25 * np.tanh(tube.u / 3))  # the outer table is thicker
    for _, fracture in fractures:
        if fracture.bump_mm != 0:  # crushed trabeculae are denser
            marrow = marrow + 130 * _bell(tube.s, fracture.s_mm, fracture.bump_length_mm)
        if fracture.healing is not None:
            to_line = [np.abs(one.distance(tube)) for one in fracture.breaks] or [np.abs(tube.s - fracture.s_mm)]
            share = np.exp(-((np.min(to_line, axis=0) / fracture.healing.sclerosis_mm) ** 2))
            marrow = marrow + share * np.maximum(fracture.healing.sclerosis_hu - marrow, 0)
    for mimic in mimics:
        if mimic.kind == "callus":
            bell = _bell(tube.s, mimic.s_mm, mimic.length_mm)
            marrow, cortex = marrow + 250 * bell, cortex * (1 + 0.8 * bell)
        elif mimic.kind == "island":
            away = np.sqrt(tube.u**2 + tube.v**2 + ((tube.s - mimic.s_mm) * 2 / mimic.length_mm) ** 2)
            marrow = marrow + 700 * np.clip(1.5 - away / mimic.size_mm, 0, 1)
    return marrow, cortex


def _bell(s: np.ndarray, center: float, length: float) -> np.ndarray:
    """1 at ``center``, falling to 1 % half a ``length`` away."""
    return np.exp(-(((s - center) / (0.233 * length)) ** 2))


def _emptied(rib: Rib, cleft: Break, tube: TubeCoordinates, voxel_mm: float) -> np.ndarray:
    """Share of each voxel that a cleft through a part of the section takes away, in [0, 1]."""
    slab = (cleft.width_mm + voxel_mm) / 2 - np.abs(cleft.distance(tube))
    share = np.clip(slab / voxel_mm, 0, min(1.0, cleft.width_mm / voxel_mm))
    height = np.sign(cleft.depth) * tube.u / rib.along(rib.half_thickness_mm, tube.s)
    reached = np.clip((height - 1 + 2 * abs(cleft.depth)) * 3 + 0.5, 0, 1)
    return share * reached

"""What trauma and age bring: traits by which a thorax phantom differs from the others on request."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from scripts.anatomy.rib_cage import CERVICAL, LUMBAR
from scripts.synthetic.choices import TRAITS
from scripts.synthetic.phantom.anatomy import SPINE_BEHIND_MM, Filling, Patient
from scripts.synthetic.phantom.geometry import Grid
from scripts.synthetic.phantom.skeleton import VERTEBRAE_MM, Rib, draw_extra_rib, fork

__all__ = [
    "LOOKALIKES",
    "SUBSLICES",
    "change_patient",
    "change_ribs",
    "change_view",
    "check_traits",
    "draw_bridges",
    "extra_bones",
    "size_of",
    "trait_rng",
]

LOOKALIKES = ("joints", "cupped", "streaks", "breathing", "soft")  # of a fracture, or of bone with one
SUBSLICES = 3  # a thick slice is the mean of so many thin ones
_FEWEST_VOXELS = 8  # of a scan along each axis


def check_traits(traits: Sequence[str]) -> frozenset[str]:
    """Return the traits as a set; raises ``ValueError`` where one is not in ``TRAITS``."""
    names = frozenset([traits] if isinstance(traits, str) else traits)
    unknown = sorted(names - set(TRAITS))
    if unknown:
        raise ValueError(f"traits has {', '.join(map(repr, unknown))}; choose from {', '.join(TRAITS)}.")
    return names


def trait_rng(seed: int | Sequence[int], trait: str) -> np.random.Generator:
    """Give a trait a source of its own, so that it leaves what else is drawn from the seed as it is."""
    return np.random.default_rng([*np.ravel(seed).tolist(), zlib.crc32(trait.encode())])


def size_of(traits: frozenset[str], seed: int | Sequence[int]) -> float:
    """Draw the patient's size relative to an adult: 1, or that of a child."""
    return float(trait_rng(seed, "child").uniform(0.55, 0.75)) if "child" in traits else 1.0


def change_patient(patient: Patient, traits: frozenset[str], seed: int | Sequence[int]) -> Patient:
    """Give a patient the traits of spine, bone, blood and lungs."""
    changes: dict[str, Callable[[Patient, np.random.Generator], Patient]] = {
        "scoliosis": _bent,
        "osteopenia": lambda patient, rng: replace(patient, bone_scale=rng.uniform(0.35, 0.5)),
        "contrast": lambda patient, rng: replace(
            patient, blood_hu=rng.uniform(250, 400), liver_hu=rng.uniform(90, 130)
        ),
        "effusion": _with_fluid,
        "consolidation": _consolidated,
    }
    for trait, change in changes.items():
        if trait in traits:
            patient = change(patient, trait_rng(seed, trait))
    return patient


def _bent(patient: Patient, rng: np.random.Generator) -> Patient:
    """Bend the spine: an S of about a wave over the chest, or a C of half a wave."""
    sideways, top = rng.choice([-1, 1]) * rng.uniform(15, 30), rng.uniform(-30, 30)
    wave, phase = (rng.uniform(260, 340), 0.0) if rng.random() < 0.5 else (rng.uniform(500, 620), np.pi / 2)
    return replace(patient, bend_mm=sideways, bend_wave_mm=wave, bend_phase=phase - 2 * np.pi * top / wave)


def _with_fluid(patient: Patient, rng: np.random.Generator) -> Patient:
    """Put fluid behind a level into the pleural space of one side or both."""
    sides = (1, -1) if rng.random() < 0.4 else (int(rng.choice([1, -1])),)
    back, front = float(patient.spine_y(-10)) - SPINE_BEHIND_MM * patient.scale[1], float(patient.front_y(-10))
    fluids = [
        Filling(side, (0.0, -1.0, 0.0), -(back + rng.uniform(0.2, 0.6) * (front - back)), rng.uniform(5, 30), 3.0)
        for side in sides
    ]
    return replace(patient, fillings=[*patient.fillings, *fluids])


def _consolidated(patient: Patient, rng: np.random.Generator) -> Patient:
    """Take the air out of a lower lobe, behind and below the oblique fissure, or of an upper one."""
    side, slope = int(rng.choice([1, -1])), np.radians(rng.uniform(35, 55))
    # the fissure runs from high at the back to low in front; the normal points down and back, into the lower lobe
    normal = np.array([0.0, -np.cos(slope), -np.sin(slope)])
    offset = float(normal @ [0.0, 0.0, rng.uniform(-15, 15)])
    if rng.random() < 0.35:
        normal, offset = -normal, -offset + rng.uniform(5, 20)
    lobe = Filling(side, (0.0, float(normal[1]), float(normal[2])), offset, rng.uniform(20, 60), rng.uniform(5, 15))
    return replace(patient, fillings=[*patient.fillings, lobe])


def change_view(grid: Grid, patient: Patient, traits: frozenset[str], seed: int | Sequence[int], size: float) -> Grid:
    """
    Change field of view and thickness of slices; without a trait that does, the grid stays as it is.

    Args:
        grid: the grid without traits.
        patient: the patient.
        traits: the traits.
        seed: seed of the phantom.
        size: the patient's size relative to an adult, :py:func:`size_of`; lengths of the grid are an adult's.

    Returns:
        The grid. With ``thick`` it has ``SUBSLICES`` for each slice of the scan.

    Raises:
        ValueError: when so little is left of the scan that it has fewer than 8 voxels along an axis.
    """
    if not traits & {"arms_down", "cut_top", "cut_bottom", "cut_side", "thick"}:
        return grid
    spacing = list(grid.spacing_mm)
    low = np.array(grid.origin_mm)
    high = low + (np.array(grid.shape) - 1) * grid.spacing_mm
    heads = VERTEBRAE_MM * patient.scale[2]
    if "arms_down" in traits:
        low[0], high[0] = low[0] - 95, high[0] + 95
    if "cut_top" in traits:
        rng = trait_rng(seed, "cut_top")
        high[2] = min(high[2], heads[int(rng.integers(3, 7))] + rng.uniform(-8, 8))
    if "cut_bottom" in traits:
        low[2] = max(low[2], trait_rng(seed, "cut_bottom").uniform(heads[11] - 12, heads[9] - 12))
    if "cut_side" in traits:
        half = 137 * patient.scale[0] - trait_rng(seed, "cut_side").uniform(8, 30, size=2)
        low[0], high[0] = max(low[0], -half[0]), min(high[0], half[1])
    rng = trait_rng(seed, "thick")
    if "thick" in traits:
        spacing[2] = float(np.round(rng.uniform(4, 5) / SUBSLICES, 3)) / size
    shape = np.floor((high - low) / spacing + 1e-6).astype(int) + 1
    if "thick" in traits:
        shape[2] -= shape[2] % SUBSLICES
    if (shape // [1, 1, SUBSLICES if "thick" in traits else 1]).min() < _FEWEST_VOXELS:
        raise ValueError(f"{', '.join(sorted(traits))} leave too little of the scan; ask for a larger shape.")
    low = high - (shape - 1) * spacing if "cut_bottom" not in traits else low
    return Grid(
        (int(shape[0]), int(shape[1]), int(shape[2])),
        (float(spacing[0]), float(spacing[1]), float(spacing[2])),
        (float(low[0]), float(low[1]), float(low[2])),
        rng,
    )


def change_ribs(ribs: Sequence[Rib], traits: frozenset[str], seed: int | Sequence[int]) -> list[Rib]:
    """Give the ribs a thin cortex where bone is osteopenic."""
    if "osteopenia" not in traits:
        return list(ribs)
    thin = trait_rng(seed, "osteopenia").uniform(0.5, 0.75)
    return [replace(rib, cortex_mm=np.clip(thin * rib.cortex_mm, 0.3, 0.8)) for rib in ribs]


def extra_bones(
    patient: Patient, ribs: Sequence[Rib], traits: frozenset[str], seed: int | Sequence[int]
) -> tuple[list[Rib], list[Rib]]:
    """
    Draw the ribs that few people have.

    Args:
        patient: the patient.
        ribs: the 24 ribs.
        traits: the traits.
        seed: seed of the phantom.

    Returns:
        Cervical and lumbar ribs, and the second branches of forked ribs, which have the numbers of those.
    """
    extra = []
    for trait, number, lengths in (("cervical", CERVICAL, (20, 50)), ("lumbar", LUMBAR, (15, 40))):
        if trait in traits:
            rng = trait_rng(seed, trait)
            for side in (1, -1) if rng.random() < 0.5 else (int(rng.choice([1, -1])),):
                extra.append(draw_extra_rib(patient, number, side, rng.uniform(*lengths), rng))
    branches = []
    if "bifid" in traits:
        rng = trait_rng(seed, "bifid")
        side, number = int(rng.choice([1, -1])), int(rng.integers(3, 6))
        forked = next(rib for rib in ribs if rib.side == side and rib.number == number)
        branches = [fork(forked, rng.uniform(35, 60), float(rng.choice([-1, 1]) * rng.uniform(12, 17)))]
    return extra, branches


def draw_bridges(
    ribs: Sequence[Rib], traits: frozenset[str], seed: int | Sequence[int]
) -> list[list[tuple[Rib, float]]]:
    """Choose where bridges join neighboring ribs: for each the two ribs, and the arc length on each."""
    if "bridged" not in traits:
        return []
    rng = trait_rng(seed, "bridged")
    bridges = []
    for _ in range(int(rng.integers(1, 3))):
        side, number = int(rng.choice([1, -1])), int(rng.integers(3, 10))
        upper, lower = (next(r for r in ribs if r.side == side and r.number == n) for n in (number, number + 1))
        s_mm = float(rng.uniform(0.2, 0.75) * upper.curve.length_mm)
        nearest = np.linalg.norm(lower.curve.points - upper.curve.at(s_mm), axis=1).argmin()
        bridges.append([(upper, s_mm), (lower, float(lower.curve.s_mm[nearest]))])
    return bridges

"""A whole thorax phantom: patient, fractures, and the scanner that sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from scripts.synthetic.choices import SIZES
from scripts.synthetic.phantom.anatomy import Patient, paint_lung_vessels, paint_soft_parts, paint_table
from scripts.synthetic.phantom.devices import paint_arms, paint_implants, paint_lead, paint_streaks, paint_wire
from scripts.synthetic.phantom.fractures import (
    Fracture,
    SyntheticFracture,
    draw_flail,
    draw_fractures,
    draw_mimics,
    paint_rib,
    paint_swelling,
)
from scripts.synthetic.phantom.geometry import STEP_MM, Grid
from scripts.synthetic.phantom.lookalikes import add_shoulder_streaks, draw_breath, paint_cups, paint_joints
from scripts.synthetic.phantom.skeleton import (
    VERTEBRAE_MM,
    Rib,
    draw_ribs,
    paint_bridge,
    paint_cartilage,
    paint_girdle,
    paint_spine,
)
from scripts.synthetic.phantom.traits import (
    SUBSLICES,
    change_patient,
    change_ribs,
    change_view,
    check_traits,
    draw_bridges,
    extra_bones,
    size_of,
    trait_rng,
)

__all__ = ["Phantom", "draw_axes", "draw_count", "draw_grid", "make_phantom"]

_LPS = (-1, -1, 1)
_OTHER_AXES = ((1, 1, 1), (-1, 1, 1), (1, -1, 1))
_MAX_FRACTURES = 20
_CENTERLINE_STEP_MM = 2.0


@dataclass
class Phantom:
    """
    A synthetic chest CT and the truth about it; arrays of shape ``(H, W, D)`` in the scan's own axes.

    Args:
        image: HU, int16, -1024 to 3071.
        label: instance ids of the fractures, 1 to n, uint8; 0 is background.
        affine: from voxels to RAS world coordinates in mm, as in NIfTI, shape ``(4, 4)``.
        label_codes: type of each instance: 1 displaced, 2 nondisplaced, 3 buckle, 4 segmental. One id covers both
            breaks of a segmental fracture and the bone between them.
        ribs: 1 to 12 the left ribs from above, 13 to 24 the right ones, 31 to 34 cervical and lumbar ribs, uint8; the
            ids of :func:`scripts.anatomy.rib_cage.rib_id`.
        centerlines_mm: axis of each rib in the RAS world, from the head to the front end, points 2 mm apart, shape
            ``(n, 3)``; all of it, also where the scan does not show it, and as it was before a fracture.
        vertebrae: where a vertebra is, from C7 to L2, bool.
        midplane_point_mm: a point on the mid-sagittal plane, RAS world.
        midplane_normal: its unit normal, to the patient's right, RAS world.
        fractures: what was drawn, in the order of the ids.
    """

    image: np.ndarray
    label: np.ndarray
    affine: np.ndarray
    label_codes: dict[int, int]
    ribs: np.ndarray
    centerlines_mm: dict[int, np.ndarray]
    vertebrae: np.ndarray
    midplane_point_mm: np.ndarray
    midplane_normal: np.ndarray
    fractures: list[SyntheticFracture]


def make_phantom(
    seed: int | Sequence[int],
    size: str = "full",
    shape: tuple[int, int, int] | None = None,
    spacing: tuple[float, float, float] | None = None,
    fractures: int | None = None,
    traits: Sequence[str] = (),
    subtle: float = 0.0,
) -> Phantom:
    """
    Make a thorax phantom.

    Patient, fractures, kernel, noise and orientation are drawn from the seed. The patient lies in one of four
    orientations: five times in six L, P, S as in most of RibFrac.

    Args:
        seed: a number or numbers; the same ones give the same phantom.
        size: ``full``, the whole thorax (about 400×320×260 voxels), or ``slab``, 96 to 112 slices of it.
        shape: voxels along the patient's left-right, anterior-posterior and long axis instead, about the same center.
        spacing: mm per voxel along the same axes instead; drawn from 0.62-0.94 in plane and 0.8-1.5 between slices.
        fractures: number of fractures. Drawn where it is ``None``: 1 to 20, median 6 in a whole thorax, fewer where
            the scan shows less of it.
        traits: names in :py:data:`scripts.synthetic.choices.TRAITS`, in any combination; each is drawn by
            itself from the seed. ``displaced`` adds fractures; ``thick`` counts before ``spacing``, and traits of the
            field of view before ``shape``.
        subtle: share of fractures that are subtle, 0 to 1, half of them healing; above 0, so are a quarter of the
            others.

    Raises:
        ValueError: when ``size`` or a trait is unknown, ``subtle`` is no share, so many fractures do not fit into the
            scan, or the traits leave too little of it.

    References:
        Jin et al. (2020), EBioMedicine, doi:10.1016/j.ebiom.2020.103106: types and number of fractures, spacing.
    """
    if size not in SIZES:
        raise ValueError(f"size is {size!r}; choose one of {', '.join(SIZES)}.")
    if fractures is not None and not 0 <= fractures <= _MAX_FRACTURES:
        raise ValueError(f"fractures is {fractures}; ask for 0 to {_MAX_FRACTURES}.")
    if not 0 <= subtle <= 1:
        raise ValueError(f"subtle is {subtle}; it is a share, 0 to 1.")
    names = check_traits(traits)
    scale = size_of(names, seed)  # a child is an adult in smaller millimeters
    if spacing is not None:
        spacing = (spacing[0] / scale, spacing[1] / scale, spacing[2] / scale)
    rng = np.random.default_rng(seed)
    patient = change_patient(Patient.draw(rng), names, seed)
    grid = change_view(draw_grid(patient, size, shape, spacing, rng), patient, names, seed, scale)
    ribs = change_ribs(draw_ribs(patient, rng), names, seed)
    extra, branches = extra_bones(patient, ribs, names, seed)
    spine_z = VERTEBRAE_MM * patient.scale[2]
    spine = np.stack([patient.midline(spine_z), patient.spine_y(spine_z), spine_z], axis=1) @ patient.turn.T
    wanted = draw_count(grid, rng) if fractures is None else fractures
    if fractures is None and "crowded" in names:
        wanted = draw_crowd(trait_rng(seed, "crowded"))
    found = draw_fractures(grid, ribs, spine, wanted, rng, subtle)
    if fractures is not None and len(found) < fractures:
        raise ValueError(
            f"{fractures} fractures do not fit into {grid.shape} voxels of {grid.spacing_mm} mm, {len(found)} do; "
            "ask for fewer or for a larger shape."
        )
    if "displaced" in names:
        found += draw_flail(grid, ribs, spine, found, trait_rng(seed, "displaced"))
    mimics = draw_mimics(ribs, found, rng)

    paint_soft_parts(grid, patient, rng)
    if "arms_down" in names:
        paint_arms(grid, patient, trait_rng(seed, "arms_down"))
    paint_lung_vessels(grid, patient, rng)
    for fracture in found:
        if fracture.swelling > 0:
            paint_swelling(grid, ribs[fracture.rib], fracture, rng)
    paint_cartilage(grid, patient, ribs, rng)
    vertebrae = paint_spine(grid, patient, rng)
    paint_girdle(grid, patient, rng)
    label, rib_ids = np.zeros(grid.shape, dtype=np.uint8), np.zeros(grid.shape, dtype=np.uint8)
    for index, rib in enumerate(ribs):
        own = [(instance, f) for instance, f in enumerate(found, start=1) if f.rib == index]
        paint_rib(grid, rib, own, [mimic for mimic in mimics if mimic.rib == index], label, rib_ids)
    for bone in [*extra, *branches]:
        paint_rib(grid, bone, [], [], label, rib_ids)
    for ends in draw_bridges(ribs, names, seed):
        paint_bridge(grid, ends, rib_ids, trait_rng(seed, "bridged"))
    if "joints" in names:
        paint_joints(grid, patient, ribs, trait_rng(seed, "joints"))
    if "cupped" in names:
        paint_cups(grid, ribs, trait_rng(seed, "cupped"))
    _paint_metal(grid, patient, rng)
    if "metal" in names:
        paint_implants(grid, patient, trait_rng(seed, "metal"))
    paint_table(grid, patient, rng)
    if "metal" in names:
        paint_streaks(grid, trait_rng(seed, "metal"))
    image = _scanned(grid, rng, *(trait_rng(seed, name) if name in names else None for name in ("noise", "soft")))
    if "streaks" in names:
        image = add_shoulder_streaks(image, grid, trait_rng(seed, "streaks"))
    breath = draw_breath(grid, patient, trait_rng(seed, "breathing")) if "breathing" in names else None
    if breath is not None:
        image = breath.moved(image, grid, nearest=False)
        label, rib_ids, vertebrae = (breath.moved(ids, grid, nearest=True) for ids in (label, rib_ids, vertebrae))

    axes = draw_axes(rng)
    subslices = SUBSLICES if "thick" in names else 1
    if subslices > 1:
        image = image.reshape(*grid.shape[:2], -1, subslices).mean(axis=3).round().astype(np.int16)
    middle = slice(subslices // 2, None, subslices)
    label, rib_ids, vertebrae = (array[:, :, middle] for array in (label, rib_ids, vertebrae))
    spacing_mm = scale * np.array(grid.spacing_mm) * (1, 1, subslices)
    first = scale * (np.array(grid.origin_mm) + (0, 0, (subslices // 2) * grid.spacing_mm[2]))
    flips = tuple(slice(None, None, step) for step in axes)
    affine = np.diag([*(spacing_mm * axes), 1.0])
    last = first + (np.array(image.shape) - 1) * spacing_mm
    shift = np.round(rng.uniform(-150, 150, 3), 1)  # scanners put their origin anywhere
    affine[:3, 3] = np.where(np.array(axes) > 0, first, last) + shift
    step = round(_CENTERLINE_STEP_MM / STEP_MM)
    lines = {rib.rib_id: rib.curve.points[::step] for rib in [*ribs, *extra]}
    if breath is not None:
        lines = {number: breath.moved_points(line, grid) for number, line in lines.items()}
    return Phantom(
        image=np.ascontiguousarray(image[flips]),
        label=np.ascontiguousarray(label[flips]),
        affine=affine,
        label_codes={instance: f.code for instance, f in enumerate(found, start=1)},
        ribs=np.ascontiguousarray(rib_ids[flips]),
        centerlines_mm={number: scale * line + shift for number, line in lines.items()},
        vertebrae=np.ascontiguousarray(vertebrae[flips]),
        midplane_point_mm=shift,
        midplane_normal=patient.turn @ np.array([1.0, 0.0, 0.0]),
        fractures=[_drawn(instance, f, ribs[f.rib], scale) for instance, f in enumerate(found, start=1)],
    )


def _drawn(label_id: int, fracture: Fracture, rib: Rib, scale: float) -> SyntheticFracture:
    """Tell what was drawn of a fracture; a child is drawn as an adult, in millimeters of another size."""
    sample = int(np.abs(rib.curve.s_mm - fracture.s_mm).argmin())
    frame = (rib.curve.tangents[sample], rib.curve.normals[sample])
    half_mm = (float(rib.half_thickness_mm[sample]), float(rib.half_height_mm[sample]))
    return SyntheticFracture.drawn(label_id, fracture, rib.rib_id, frame, half_mm, scale)


def draw_grid(
    patient: Patient,
    size: str,
    shape: tuple[int, int, int] | None,
    spacing: tuple[float, float, float] | None,
    rng: np.random.Generator,
) -> Grid:
    """Draw spacing and field of view; the arguments are those of :py:func:`make_phantom`."""
    in_plane, between = 0.62 + 0.32 * float(rng.beta(3, 1)), 0.8 + 0.7 * float(rng.beta(2, 1.2))
    slices, height = int(rng.integers(96, 113)), rng.uniform(-75, 55)
    spacing = spacing or (round(in_plane, 4), round(in_plane, 4), round(between, 3))
    top, bottom = 152 * patient.scale[2], -172 * patient.scale[2]
    # the field of view ends 15 mm beside the patient, and shows the table
    half = 155 * patient.scale[0] + patient.fat_mm + 15
    front, back = 118 * patient.scale[1] + 0.6 * patient.fat_mm + 12 + patient.breast_mm / 3, -(
        120 * patient.scale[1] + 0.5 * patient.fat_mm + 24
    )
    center = np.array([0, (front + back) / 2, height if size == "slab" else (top + bottom) / 2])
    if shape is None:
        extent = np.array([2 * half, front - back, top - bottom])
        whole = np.ceil(extent / spacing).astype(int)
        shape = (int(whole[0]), int(whole[1]), slices if size == "slab" else int(whole[2]))
    origin = center - (np.array(shape) - 1) / 2 * spacing
    return Grid(shape, spacing, (float(origin[0]), float(origin[1]), float(origin[2])), rng)


def draw_axes(rng: np.random.Generator) -> tuple[int, int, int]:
    """Draw the direction of the voxel axes in RAS: (-1, -1, 1), as L, P, S, five times in six."""
    return _LPS if rng.random() < 5 / 6 else _OTHER_AXES[int(rng.integers(len(_OTHER_AXES)))]


def draw_count(grid: Grid, rng: np.random.Generator) -> int:
    """Draw the number of fractures: log-normal with median 6.5 as in RibFrac, fewer where the scan is short."""
    seen = min(1.0, grid.shape[2] * grid.spacing_mm[2] / 200)
    return int(np.clip(round(rng.lognormal(np.log(6.5), 0.65) * seen), 1, _MAX_FRACTURES))


def draw_crowd(rng: np.random.Generator) -> int:
    """Draw the number of fractures of a crowded scan: 9 to 36, where half of RibFrac's scans are."""
    return int(np.clip(round(rng.lognormal(np.log(14), 0.4)), 9, 36))


def _paint_metal(grid: Grid, patient: Patient, rng: np.random.Generator) -> None:
    """Paint wires into some patients: around the sternum after surgery, or a lead on the skin."""
    kind = rng.choice(["none", "sternum", "lead"], p=[0.72, 0.14, 0.14])
    if kind == "sternum":
        for z in np.linspace(85, -5, 5) * patient.scale[2]:
            around = np.linspace(0, 2 * np.pi, 17)
            ring = np.stack([22 * np.cos(around), patient.front_y(z) + 1 + 9 * np.sin(around), z + 0 * around], axis=1)
            paint_wire(grid, ring @ patient.turn.T, 0.5)
    elif kind == "lead":
        paint_lead(grid, patient, rng)


def _scanned(
    grid: Grid,
    rng: np.random.Generator,
    harsh: np.random.Generator | None = None,
    soft: np.random.Generator | None = None,
) -> np.ndarray:
    """
    Blur the scan as a kernel does, add its noise and round to HU, int16.

    It is sharper and noisier where ``harsh``, and blurred with less noise where ``soft``.
    """
    in_plane, between = rng.uniform(0.4, 0.75), rng.uniform(0.45, 0.6) * grid.spacing_mm[2]
    sharpen = rng.uniform(0.3, 1.0) if rng.random() < 0.35 else 0.0
    noise_hu = rng.uniform(9, 24) * (1 + 0.8 * sharpen)
    if harsh is not None:
        sharpen, noise_hu = harsh.uniform(1.0, 1.6), noise_hu * harsh.uniform(2, 3)
    if soft is not None:
        in_plane, sharpen, noise_hu = soft.uniform(0.9, 1.3), 0.0, 0.5 * noise_hu
    image = gaussian_filter(grid.image, [in_plane / grid.spacing_mm[0], in_plane / grid.spacing_mm[1], 0], truncate=3)
    image = gaussian_filter(image, [0, 0, between / grid.spacing_mm[2]], truncate=3)
    if sharpen > 0:
        wide = gaussian_filter(image, [1.1 / grid.spacing_mm[0], 1.1 / grid.spacing_mm[1], 0], truncate=3)
        image += sharpen * (image - wide)
    noise = rng.standard_normal(grid.shape, dtype=np.float32)
    noise = gaussian_filter(noise, [0.6, 0.6, 0.35], truncate=3)
    # more noise where the rays cross the shoulders
    shoulders = 1 + 0.9 / (1 + np.exp(-(grid.axes_mm[2] - 75) / 12))
    image += noise * (noise_hu / float(noise.std()) * shoulders)
    return np.clip(np.round(image), -1024, 3071).astype(np.int16)

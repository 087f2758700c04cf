"""A whole thorax phantom: patient, fractures, and the scanner that sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from scripts.synthetic.phantom.anatomy import Patient, paint_lung_vessels, paint_soft_parts, paint_table
from scripts.synthetic.phantom.fractures import draw_fractures, draw_mimics, paint_rib, paint_swelling
from scripts.synthetic.phantom.geometry import Grid, paint_segment
from scripts.synthetic.phantom.skeleton import (
    VERTEBRAE_MM,
    draw_ribs,
    paint_cartilage,
    paint_girdle,
    paint_spine,
)

__all__ = ["SIZES", "Phantom", "draw_axes", "draw_count", "draw_grid", "make_phantom"]

SIZES = ("full", "slab")
_LPS = (-1, -1, 1)
_OTHER_AXES = ((1, 1, 1), (-1, 1, 1), (1, -1, 1))
_MAX_FRACTURES = 20


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
        ribs: 1 to 12 the left ribs from above, 13 to 24 the right ones, uint8.
        vertebrae: where a vertebra is, from C7 to L2, bool.
        midplane_point_mm: a point on the mid-sagittal plane, RAS world.
        midplane_normal: its unit normal, to the patient's right, RAS world.
    """

    image: np.ndarray
    label: np.ndarray
    affine: np.ndarray
    label_codes: dict[int, int]
    ribs: np.ndarray
    vertebrae: np.ndarray
    midplane_point_mm: np.ndarray
    midplane_normal: np.ndarray


def make_phantom(
    seed: int | Sequence[int],
    size: str = "full",
    shape: tuple[int, int, int] | None = None,
    spacing: tuple[float, float, float] | None = None,
    fractures: int | None = None,
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

    Raises:
        ValueError: when ``size`` is unknown, or so many fractures do not fit into the scan.

    References:
        Jin et al. (2020), EBioMedicine, doi:10.1016/j.ebiom.2020.103106: types and number of fractures, spacing.
    """
    if size not in SIZES:
        raise ValueError(f"size is {size!r}; choose one of {', '.join(SIZES)}.")
    if fractures is not None and not 0 <= fractures <= _MAX_FRACTURES:
        raise ValueError(f"fractures is {fractures}; ask for 0 to {_MAX_FRACTURES}.")
    rng = np.random.default_rng(seed)
    patient = Patient.draw(rng)
    grid = draw_grid(patient, size, shape, spacing, rng)
    ribs = draw_ribs(patient, rng)
    spine_z = VERTEBRAE_MM * patient.scale[2]
    spine = np.stack([patient.midline(spine_z), patient.spine_y(spine_z), spine_z], axis=1) @ patient.turn.T
    wanted = draw_count(grid, rng) if fractures is None else fractures
    found = draw_fractures(grid, ribs, spine, wanted, rng)
    if fractures is not None and len(found) < fractures:
        raise ValueError(
            f"{fractures} fractures do not fit into {grid.shape} voxels of {grid.spacing_mm} mm, {len(found)} do; "
            "ask for fewer or for a larger shape."
        )
    mimics = draw_mimics(ribs, found, rng)

    paint_soft_parts(grid, patient, rng)
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
    _paint_metal(grid, patient, rng)
    paint_table(grid, patient, rng)
    image = _scanned(grid, rng)

    axes = draw_axes(rng)
    flips = tuple(slice(None, None, step) for step in axes)
    affine = np.diag([*(np.array(grid.spacing_mm) * axes), 1.0])
    last = np.array(grid.origin_mm) + (np.array(grid.shape) - 1) * grid.spacing_mm
    shift = np.round(rng.uniform(-150, 150, 3), 1)  # scanners put their origin anywhere
    affine[:3, 3] = np.where(np.array(axes) > 0, grid.origin_mm, last) + shift
    return Phantom(
        image=np.ascontiguousarray(image[flips]),
        label=np.ascontiguousarray(label[flips]),
        affine=affine,
        label_codes={instance: f.code for instance, f in enumerate(found, start=1)},
        ribs=np.ascontiguousarray(rib_ids[flips]),
        vertebrae=np.ascontiguousarray(vertebrae[flips]),
        midplane_point_mm=shift,
        midplane_normal=patient.turn @ np.array([1.0, 0.0, 0.0]),
    )


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


def _paint_metal(grid: Grid, patient: Patient, rng: np.random.Generator) -> None:
    """Paint wires into some patients: around the sternum after surgery, or a lead on the skin."""
    kind = rng.choice(["none", "sternum", "lead"], p=[0.72, 0.14, 0.14])
    if kind == "sternum":
        for z in np.linspace(85, -5, 5) * patient.scale[2]:
            around = np.linspace(0, 2 * np.pi, 17)
            ring = np.stack([22 * np.cos(around), patient.front_y(z) + 1 + 9 * np.sin(around), z + 0 * around], axis=1)
            _paint_wire(grid, ring @ patient.turn.T, 0.5)
    elif kind == "lead":
        x = np.linspace(rng.uniform(-90, 0), rng.uniform(10, 100), 25)
        z = np.linspace(rng.uniform(-110, 0), rng.uniform(10, 60), 25) + 6 * np.sin(x / 15)
        depth = patient.skin_distance(x[:, None], np.arange(220.0)[None, :], z[:, None])
        y = (depth < 0).sum(axis=1) + 0.5  # on the skin
        _paint_wire(grid, np.stack([x, y, z], axis=1) @ patient.turn.T, 0.6)


def _paint_wire(grid: Grid, points: np.ndarray, radius_mm: float) -> None:
    for start, end in zip(points[:-1], points[1:]):
        paint_segment(grid, start, end, radius_mm, 6000)


def _scanned(grid: Grid, rng: np.random.Generator) -> np.ndarray:
    """Blur the scan as a kernel does, add its noise and round to HU, int16."""
    in_plane, between = rng.uniform(0.4, 0.75), rng.uniform(0.45, 0.6) * grid.spacing_mm[2]
    sharpen = rng.uniform(0.3, 1.0) if rng.random() < 0.35 else 0.0
    noise_hu = rng.uniform(9, 24) * (1 + 0.8 * sharpen)
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

"""
Measure whether the sides are told right, or not at all, in scans cut to a narrow field of view.

    python benchmarks/field_of_view.py --sample_ct_dir data/sample_ct --scans /data/whole_chests --json fov.json

Each whole chest is cut to windows of several widths and places across the body, some without its back or front, or to a
slab of 50 mm. Truth is the side that the ribs have in the whole scan: by the segmentation of the sample CT; in other
scans that of ribs (``scripts.anatomy.rib_finding``), by the plane of the whole scan. A row is a width or another cut:
its windows, those with a plane through them, those known to show one side alone, those that are doubted, and of those
that are not the ones in which more than 2 % of the rib voxels lie on the wrong side, with the highest such share. Last,
the highest share of a window's rib voxels that is marked as spine.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

from scripts.anatomy.midline import midsagittal_plane  # noqa: E402
from scripts.anatomy.rib_finding import find_rib_mask  # noqa: E402
from scripts.anatomy.spine import spine_mask  # noqa: E402
from scripts.commands.sample_ct import load_sample_ct  # noqa: E402

__all__ = ["Chest", "Window", "load_chest", "sample_chest", "window_figures", "windows"]

WIDTHS_MM = (120, 160, 200, 240, 280, 320)
CUT_WIDTHS_MM = (200, None)  # of windows without back or front, and of slabs; None is the whole width
SLAB_MM = 50.0
RIB_IDS = (92, 115)  # left 1 to 12, right 1 to 12
FIRST_RIGHT_ID = 104
MAX_WRONG_SHARE = 0.02
PLANE_PIXEL_MM = 1.5  # in plane: the search itself works at 3 and 4 mm


class Chest(NamedTuple):
    """
    A whole chest, in RAS orientation, and where its ribs lie.

    Args:
        image_hu: the scan, shape ``(H, W, D)``.
        sides: 1 in ribs of the right side, -1 in those of the left, 0 elsewhere, likewise.
        spacing_mm: voxel size along each axis, shape ``(3,)``.
    """

    image_hu: NDArray
    sides: NDArray[np.int8]
    spacing_mm: NDArray[np.float64]


class Window(NamedTuple):
    """A part of a chest: the kind that its row is named after, and the voxels of it."""

    kind: str
    part: tuple[slice, slice, slice]


def sample_chest(sample_ct_dir: str) -> Chest:
    """Load the sample CT, with the sides that its segmentation tells."""
    image_hu, organs, spacing_mm = load_sample_ct(sample_ct_dir)
    is_rib = (organs >= RIB_IDS[0]) & (organs <= RIB_IDS[1])
    sides = np.where(is_rib, np.where(organs >= FIRST_RIGHT_ID, 1, -1), 0)
    return _smaller(Chest(image_hu, sides.astype(np.int8), spacing_mm))


def load_chest(path: Path) -> Chest:
    """
    Load a NIfTI file in HU that shows a whole chest.

    Raises:
        ValueError: when it does not show the midline.
    """
    scan = nib.as_closest_canonical(nib.Nifti1Image.from_filename(path))
    image_hu, spacing_mm = np.asarray(scan.dataobj), np.array(scan.header.get_zooms()[:3], dtype=float)
    plane = midsagittal_plane(image_hu, spacing_mm)
    if plane is None:
        raise ValueError(f"{path}: the midline is not surely in view, so it serves no comparison: take whole chests.")
    sides = np.zeros(image_hu.shape, dtype=np.int8)
    ribs = np.nonzero(find_rib_mask(image_hu, spacing_mm))
    sides[ribs] = np.where(np.stack(ribs, axis=1) * spacing_mm @ plane.normal > plane.offset_mm, 1, -1)
    return _smaller(Chest(image_hu, sides, spacing_mm))


def _smaller(chest: Chest) -> Chest:
    """Take every so manieth voxel in plane, and crop to the body as a prediction does."""
    steps = np.maximum(1, np.round(PLANE_PIXEL_MM / chest.spacing_mm[:2])).astype(int)
    image_hu, sides = (volume[:: steps[0], :: steps[1]] for volume in chest[:2])
    is_body = image_hu > -500
    found = [np.flatnonzero(is_body.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    box = tuple(slice(int(where[0]), int(where[-1]) + 1) for where in found)
    return Chest(image_hu[box], sides[box], chest.spacing_mm * (*steps, 1))


def windows(chest: Chest) -> Iterator[Window]:
    """Cut a chest; the whole comes first."""
    size_mm = chest.image_hu.shape * chest.spacing_mm
    ribs = np.argwhere(chest.sides) * chest.spacing_mm
    right = chest.sides[chest.sides != 0] > 0
    middle_mm = (np.median(ribs[right, 0]) + np.median(ribs[~right, 0])) / 2
    depth_mm = ribs[:, 1].min(), ribs[:, 1].max()

    def part(x_mm: tuple[float, float], y_mm: tuple[float, float] | None = None, z_mm: float | None = None) -> Any:
        limits = [x_mm, y_mm or (0.0, size_mm[1]), (0.0, size_mm[2])]
        if z_mm is not None:
            limits[2] = ((size_mm[2] - z_mm) / 2, (size_mm[2] + z_mm) / 2)
        pairs = zip(limits, chest.spacing_mm, chest.image_hu.shape)
        return tuple(slice(max(0, round(a / s)), min(n, round(b / s))) for (a, b), s, n in pairs)

    def across(width_mm: float) -> list[tuple[float, float]]:
        centers = [middle_mm + share * width_mm for share in (0.0, -0.25, 0.25, -0.5, 0.5)]
        centers += [width_mm / 2, size_mm[0] - width_mm / 2]  # from either flank
        return [(center - width_mm / 2, center + width_mm / 2) for center in centers]

    yield Window("whole", part((0.0, size_mm[0])))
    for width_mm in WIDTHS_MM:
        if width_mm < size_mm[0]:
            for x_mm in across(width_mm):
                yield Window(f"{width_mm} mm wide", part(x_mm))
    quarter_mm = (depth_mm[1] - depth_mm[0]) / 4
    for cut_width_mm in CUT_WIDTHS_MM:
        for x_mm in [(0.0, size_mm[0])] if cut_width_mm is None else across(cut_width_mm):
            name = "whole width" if cut_width_mm is None else f"{cut_width_mm} mm wide"
            yield Window(f"{name}, back cut", part(x_mm, (depth_mm[0] + 2 * quarter_mm, size_mm[1])))
            yield Window(f"{name}, front cut", part(x_mm, (0.0, depth_mm[0] + 2 * quarter_mm)))
            yield Window(f"{name}, {SLAB_MM:.0f} mm high", part(x_mm, None, SLAB_MM))


def window_figures(chest: Chest, window: Window) -> dict[str, Any]:
    """
    Tell what is known of the sides in a window.

    Returns:
        its ``kind``; ``answer``, ``plane``, ``one side`` or ``doubted``; of its rib voxels the shares ``wrong``, on the
        wrong side, and ``spine``, marked as spine, in [0, 1].
    """
    image_hu, sides = np.ascontiguousarray(chest.image_hu[window.part]), chest.sides[window.part]
    ribs = np.nonzero(sides)
    figures: dict[str, Any] = {"kind": window.kind, "answer": "doubted", "wrong": 0.0, "spine": 0.0}
    plane = midsagittal_plane(image_hu, chest.spacing_mm)
    if plane is not None:
        corners_mm = np.argwhere(np.ones((2, 2, 2))) * (np.array(image_hu.shape) - 1) * chest.spacing_mm
        is_right = corners_mm @ plane.normal > plane.offset_mm
        figures["answer"] = "one side" if is_right.all() or not is_right.any() else "plane"
    if len(ribs[0]):
        figures["spine"] = float(spine_mask(image_hu, chest.spacing_mm)[ribs].mean())
        if plane is not None:
            told = np.stack(ribs, axis=1) * chest.spacing_mm @ plane.normal > plane.offset_mm
            figures["wrong"] = float((told != (sides[ribs] > 0)).mean())
    return figures


def chest_figures(path: Path | None, sample_ct_dir: str) -> list[dict[str, Any]]:
    """Measure all windows of a scan, or of the sample CT where ``path`` is None."""
    chest = sample_chest(sample_ct_dir) if path is None else load_chest(path)
    name = "sample CT" if path is None else path.name.split(".")[0]
    rows = []
    for window in windows(chest):
        where = [[axis.start, axis.stop] for axis in window.part]
        rows.append({"scan": name, "voxels": where, **window_figures(chest, window)})
    return rows


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print a line for each kind of window."""
    print(f"{'window':<28}{'windows':>8}{'plane':>7}{'one side':>10}{'doubted':>9}{'wrong':>7}{'worst':>8}{'spine':>8}")
    for kind in [*dict.fromkeys(row["kind"] for row in rows), "all"]:
        of_kind = [row for row in rows if kind in (row["kind"], "all")]
        answers = [row["answer"] for row in of_kind]
        wrong = [row["wrong"] for row in of_kind]
        print(
            f"{kind:<28}{len(of_kind):>8}{answers.count('plane'):>7}{answers.count('one side'):>10}"
            f"{answers.count('doubted'):>9}{sum(share > MAX_WRONG_SHARE for share in wrong):>7}{max(wrong):>8.1%}"
            f"{max(row['spine'] for row in of_kind):>8.2%}"
        )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--sample_ct_dir", required=True, help="folder of the sample CT; fetched where it is missing")
    parser.add_argument("--scans", type=Path, help="folder of further whole chests, *.nii.gz in HU")
    parser.add_argument("--workers", type=int, default=1, help="scans measured side by side")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args()
    paths = [None, *(sorted(options.scans.glob("*.nii.gz")) if options.scans else [])]
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(options.workers) as pool:
        for figures in pool.map(partial(chest_figures, sample_ct_dir=options.sample_ct_dir), paths):
            rows += figures
    print_table(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()

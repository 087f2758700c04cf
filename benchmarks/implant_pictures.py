"""
Draw a dozen implanted fractures on the sample CT, three of each type, before and after.

    python benchmarks/implant_pictures.py --sample_ct_dir data/sample_ct --output docs/images/implanted.png

Each is cut along its rib, in the plane of the rib's tangent and the direction out of the chest, in the bone window.
With `--subtle` they are two dozen subtle ones, with type and age, in the sample CT or in another scan whose ribs are
searched (`--image`).
"""

import argparse
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

from scripts.anatomy.rib_finding import find_rib_mask  # noqa: E402
from scripts.commands.sample_ct import load_sample_ct  # noqa: E402
from scripts.files.atomic_write import whole_file  # noqa: E402
from scripts.images.hounsfield import BONE_WINDOW_HU  # noqa: E402
from scripts.reporting.figures import ORANGE  # noqa: E402
from scripts.synthetic.implant import ImplantedFracture, implant_fractures  # noqa: E402
from scripts.synthetic.phantom.fractures import CODES  # noqa: E402

__all__ = ["implanted_picture", "plane_along_rib", "subtle_picture"]

RIB_IDS = (92, 115)
PER_TYPE = 3
SUBTLE_COUNT, SUBTLE_COLUMNS = 24, 6
HALF_LENGTH_MM, HALF_HEIGHT_MM, STEP_MM = 36.0, 18.0, 0.4


def plane_along_rib(volume: NDArray, fracture: ImplantedFracture, spacing_mm: NDArray) -> NDArray[np.float32]:
    """
    Cut a volume in the plane of a rib's tangent and its outward direction.

    Args:
        volume: shape ``(H, W, D)``, RAS axes.
        fracture: the place.
        spacing_mm: voxel size in mm, shape ``(3,)``.

    Returns:
        The cut, outward upward, tangent to the right, pixels of 0.4 mm.
    """
    along = np.arange(-HALF_LENGTH_MM, HALF_LENGTH_MM + STEP_MM, STEP_MM)
    out = np.arange(HALF_HEIGHT_MM, -HALF_HEIGHT_MM - STEP_MM, -STEP_MM)
    center = np.array(fracture.center_voxel) * spacing_mm
    tangent, outward = np.array(fracture.tangent), np.array(fracture.outward)
    points = center + along[None, :, None] * tangent + out[:, None, None] * outward
    return ndimage.map_coordinates(volume, np.moveaxis(points / spacing_mm, -1, 0), order=1, output=np.float32)


def implanted_picture(image_hu: NDArray, rib_ids: NDArray, spacing_mm: NDArray, seed: int) -> Figure:
    """
    Implant three fractures of each type and draw them.

    Args:
        image_hu: the scan in HU, shape ``(H, W, D)``, RAS axes.
        rib_ids: one id a rib, of the same shape.
        spacing_mm: voxel size in mm, shape ``(3,)``.
        seed: seed of the fractures.
    """
    codes = tuple(CODES) * PER_TYPE
    made = implant_fractures(image_hu, rib_ids, spacing_mm, len(codes), np.random.default_rng(seed), codes=codes)
    figure = Figure(figsize=(12, 8.4), layout="constrained")
    axes = figure.subplots(2 * PER_TYPE, len(CODES))
    for column, (code, name) in enumerate(CODES.items()):
        for row, fracture in enumerate(one for one in made.fractures if one.code == code):
            outline = plane_along_rib((made.label == fracture.label_id).astype(np.float32), fracture, spacing_mm)
            for step, (volume, when) in enumerate(((image_hu, "before"), (made.image_hu, "after"))):
                ax = axes[2 * row + step, column]
                low, high = BONE_WINDOW_HU
                ax.imshow(plane_along_rib(volume, fracture, spacing_mm), cmap="gray", vmin=low, vmax=high)
                ax.text(3, 12, when, color="white", fontsize=8)
                ax.set(xticks=[], yticks=[])
                if when == "after":
                    ax.contour(outline, [0.5], colors=ORANGE, linewidths=0.7)
                elif row == 0:
                    ax.set_title(name, fontsize=11)
    return figure


def subtle_picture(image_hu: NDArray, rib_ids: NDArray, spacing_mm: NDArray, seed: int) -> Figure:
    """
    Implant two dozen subtle fractures and draw each before and after, with its type, movement, gap and age.

    Args:
        image_hu: the scan in HU, shape ``(H, W, D)``, RAS axes.
        rib_ids: one id a rib, of the same shape.
        spacing_mm: voxel size in mm, shape ``(3,)``.
        seed: seed of the fractures.
    """
    rng = np.random.default_rng(seed)
    made = implant_fractures(image_hu, rib_ids, spacing_mm, SUBTLE_COUNT, rng, subtle=1.0)
    figure = Figure(figsize=(15, 15.5), layout="constrained")
    axes = figure.subplots(2 * SUBTLE_COUNT // SUBTLE_COLUMNS, SUBTLE_COLUMNS)
    for ax in axes.ravel():
        ax.set_axis_off()
    low, high = BONE_WINDOW_HU
    for number, fracture in enumerate(made.fractures):
        row, column = 2 * (number // SUBTLE_COLUMNS), number % SUBTLE_COLUMNS
        outline = plane_along_rib((made.label == fracture.label_id).astype(np.float32), fracture, spacing_mm)
        for step, volume in enumerate((image_hu, made.image_hu)):
            ax = axes[row + step, column]
            ax.imshow(plane_along_rib(volume, fracture, spacing_mm), cmap="gray", vmin=low, vmax=high)
            if step:
                ax.contour(outline, [0.5], colors=ORANGE, linewidths=0.5)
        size = f"{fracture.moved_mm:.1f} mm" + (f", gap {fracture.gap_mm:.1f} mm" if fracture.gap_mm else "")
        axes[row, column].set_title(f"{CODES[fracture.code]}, {fracture.age}\n{size}", fontsize=9)
    return figure


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--sample_ct_dir", help="folder of the sample CT; fetched where it is missing")
    source.add_argument("--image", type=Path, help="another scan in HU, a NIfTI file")
    parser.add_argument("--output", type=Path, required=True, help="PNG to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the fractures")
    parser.add_argument("--subtle", action="store_true", help="draw two dozen subtle ones")
    options = parser.parse_args()
    if options.image is None:
        image_hu, organs, spacing_mm = load_sample_ct(options.sample_ct_dir)
        ribs = np.where((organs >= RIB_IDS[0]) & (organs <= RIB_IDS[1]), organs, 0)
    else:
        scan = nib.as_closest_canonical(nib.load(options.image))
        image_hu, spacing_mm = np.asarray(scan.dataobj), np.linalg.norm(scan.affine[:3, :3], axis=0)
        ribs = find_rib_mask(image_hu, spacing_mm)
    draw = subtle_picture if options.subtle else implanted_picture
    figure = draw(image_hu, ribs, spacing_mm, options.seed)
    with whole_file(options.output) as temporary:
        figure.savefig(temporary, dpi=75)


if __name__ == "__main__":
    main()

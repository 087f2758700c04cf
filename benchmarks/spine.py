"""
Measure how well the vertebral column is found on the sample CT, against its segmentation.

    python benchmarks/spine.py --sample_ct_dir data/sample_ct --json spine.json

Each method is a row: the share of vertebra voxels it covers (more is better), of rib voxels farther than 30 mm from
any vertebra voxel, and of all rib voxels (both lost to the search for fractures), and its seconds.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import label
from skimage.morphology import convex_hull_image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

from scripts.anatomy.midline import midsagittal_plane  # noqa: E402
from scripts.anatomy.spine import spine_mask  # noqa: E402
from scripts.commands.sample_ct import load_sample_ct  # noqa: E402

__all__ = ["column_through_all_slices", "plane_error_mm", "spine_figures"]

VERTEBRA_IDS = (29, 46)
RIB_IDS = (92, 115)
FAR_MM = 30.0


def column_through_all_slices(image_hu: NDArray, spacing_mm: NDArray) -> NDArray[np.bool_]:
    """
    Mark the spine by the report's rule: the connected region with the largest sum of brightness along the long axis.

    Bone (above 200 HU) is summed over the slices; of the places with at least a third of the highest sum the largest
    connected region is kept, and its convex hull is taken in every slice.

    Args:
        image_hu: the scan in HU, shape ``(H, W, D)``, RAS axes.
        spacing_mm: not used; here so that the methods are called alike.

    Returns:
        ``True`` on the spine, shape ``(H, W, D)``.
    """
    height = ndimage.median_filter((image_hu > 200).sum(axis=2), size=10)
    regions = label(height > height.max() / 3)
    largest = regions == 1 + np.argmax(np.bincount(regions.ravel())[1:])
    return np.broadcast_to(convex_hull_image(largest)[:, :, None], image_hu.shape)


METHODS: dict[str, Callable[[NDArray, NDArray], NDArray[np.bool_]]] = {
    "canal followed (ours)": spine_mask,
    "one hull through all slices": column_through_all_slices,
}


def spine_figures(image_hu: NDArray, segmentation: NDArray, spacing_mm: NDArray) -> dict[str, dict[str, float]]:
    """
    Measure every method.

    Args:
        image_hu: the scan in HU, shape ``(H, W, D)``, RAS axes.
        segmentation: organ ids on the same grid.
        spacing_mm: voxel size in mm, shape ``(3,)``.

    Returns:
        per method the shares covered, in [0, 1], and ``seconds``.
    """
    vertebrae = (segmentation >= VERTEBRA_IDS[0]) & (segmentation <= VERTEBRA_IDS[1])
    ribs = (segmentation >= RIB_IDS[0]) & (segmentation <= RIB_IDS[1])
    far_ribs = ribs & (ndimage.distance_transform_edt(~vertebrae, sampling=spacing_mm) > FAR_MM)
    figures = {}
    for name, method in METHODS.items():
        start = time.perf_counter()
        mask = method(image_hu, spacing_mm)
        seconds = time.perf_counter() - start
        parts = {"vertebrae": vertebrae, "ribs_beyond_30_mm": far_ribs, "ribs": ribs}
        figures[name] = {part: float(mask[voxels].mean()) for part, voxels in parts.items()}
        figures[name]["seconds"] = seconds
    return figures


def plane_error_mm(image_hu: NDArray, segmentation: NDArray, spacing_mm: NDArray) -> float:
    """
    Measure the mid-sagittal plane: mirror every left rib's centroid, take the distance to the right rib's.

    Args:
        image_hu: the scan in HU, shape ``(H, W, D)``, RAS axes.
        segmentation: organ ids on the same grid.
        spacing_mm: voxel size in mm, shape ``(3,)``.

    Returns:
        the median distance over the 12 pairs, mm.
    """
    plane = midsagittal_plane(image_hu, spacing_mm)
    ids = np.arange(RIB_IDS[0], RIB_IDS[1] + 1)
    centers = np.array(ndimage.center_of_mass(segmentation > 0, segmentation, ids)) * spacing_mm
    left, right = centers[:12], centers[12:]
    mirrored = left - 2 * np.outer(left @ plane.normal - plane.offset_mm, plane.normal)
    return float(np.median(np.linalg.norm(mirrored - right, axis=1)))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--sample_ct_dir", required=True, help="folder of the sample CT; fetched where it is missing")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args()
    image_hu, organs, spacing_mm = load_sample_ct(options.sample_ct_dir)
    figures = spine_figures(image_hu, organs, spacing_mm)
    error_mm = plane_error_mm(image_hu, organs, spacing_mm)
    print(f"{'method':<30}{'vertebrae':>11}{'ribs > 30 mm':>14}{'all ribs':>10}{'seconds':>9}")
    for name, row in figures.items():
        print(
            f"{name:<30}{row['vertebrae']:>11.1%}{row['ribs_beyond_30_mm']:>14.3%}{row['ribs']:>10.2%}"
            f"{row['seconds']:>9.2f}"
        )
    print(f"mid-sagittal plane: mirrored left ribs lie {error_mm:.1f} mm (median) from the right ones")
    if options.json:
        options.json.write_text(json.dumps({"spine": figures, "plane_error_mm": error_mm}, indent=2) + "\n")


if __name__ == "__main__":
    main()

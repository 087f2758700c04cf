"""
Measure how well pieces of ribs are found without a segmentation, on the sample CT, against its labelled ribs.

    python benchmarks/ribs.py --sample_ct_dir data/sample_ct --json ribs.json

Precision is what counts: the share of marked voxels on a labelled rib or within 2 mm of one, and the number of pieces
that hold two ribs. Of each rib the share of its length is told that lies in a piece.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.graph import MCP_Geometric

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

from scripts.anatomy.ribs import find_ribs  # noqa: E402
from scripts.commands.sample_ct import load_sample_ct  # noqa: E402

__all__ = ["length_found", "rib_figures", "ribs_held"]

LEFT_IDS = range(92, 104)
RIGHT_IDS = range(104, 116)
NEAR_MM = 2.0
STEP_MM = 5.0
# A second rib counts from this share of a piece's labelled voxels.
SECOND_RIB_SHARE = 0.02


def length_found(rib: NDArray[np.bool_], found: NDArray[np.bool_], spacing_mm: NDArray) -> float:
    """
    Measure how much of a rib's length is found: of its steps of 5 mm, those with at least half of their voxels found.

    Args:
        rib: the rib, shape ``(H, W, D)``.
        found: what is marked as rib, same shape.
        spacing_mm: voxel size in mm, shape ``(3,)``.

    Returns:
        the share in [0, 1].
    """
    ways = MCP_Geometric(np.where(rib, 1.0, -1.0), sampling=tuple(spacing_mm))
    start = np.argwhere(rib)[0]
    for _ in range(2):  # what is farthest from anywhere is an end
        way_mm = ways.find_costs([start])[0]
        way_mm = np.where(rib & np.isfinite(way_mm), way_mm, -1.0)
        start = np.array(np.unravel_index(way_mm.argmax(), rib.shape))
    reached = way_mm >= 0
    steps = (way_mm[reached] // STEP_MM).astype(int)
    return float((np.bincount(steps, found[reached]) >= 0.5 * np.bincount(steps)).mean())


def ribs_held(piece: NDArray[np.bool_], organs: NDArray) -> list[int]:
    """
    Name the ribs that a piece lies on.

    Args:
        piece: one piece, shape ``(H, W, D)``.
        organs: organ ids on the same grid.

    Returns:
        ids of the ribs that have at least 2 % of the piece's voxels on any rib.
    """
    counts = np.bincount(organs[piece], minlength=RIGHT_IDS.stop)[LEFT_IDS.start : RIGHT_IDS.stop]
    return [LEFT_IDS.start + int(i) for i in np.flatnonzero(counts > SECOND_RIB_SHARE * counts.sum())]


def rib_figures(image_hu: NDArray, organs: NDArray, spacing_mm: NDArray) -> dict[str, Any]:
    """
    Find the ribs and compare them with the labelled ones.

    Args:
        image_hu: the scan in HU, shape ``(H, W, D)``, RAS axes.
        organs: organ ids on the same grid.
        spacing_mm: voxel size in mm, shape ``(3,)``.

    Returns:
        ``seconds``, ``pieces``, ``precision`` (voxels within 2 mm of a labelled rib, in [0, 1]),
        ``precision_of_worst_piece``, ``pieces_on_two_ribs``, ``length_found`` per side (``left``, ``right``) as a list
        for ribs 1 to 12, and ``length_found_2_to_10``, their mean over ribs 2 to 10 of both sides.
    """
    start = time.perf_counter()
    found = find_ribs(image_hu, spacing_mm)
    seconds = time.perf_counter() - start
    is_rib = (organs >= LEFT_IDS.start) & (organs < RIGHT_IDS.stop)
    near = ndimage.distance_transform_edt(~is_rib, sampling=spacing_mm) <= NEAR_MM
    pieces = ndimage.find_objects(found)
    precisions = [near[box][found[box] == i].mean() for i, box in enumerate(pieces, start=1)]
    held = [ribs_held(found[box] == i, organs[box]) for i, box in enumerate(pieces, start=1)]
    boxes = ndimage.find_objects(organs)
    lengths = {}
    for side, ids in (("left", LEFT_IDS), ("right", RIGHT_IDS)):
        lengths[side] = [length_found(organs[boxes[i - 1]] == i, found[boxes[i - 1]] > 0, spacing_mm) for i in ids]
    return {
        "seconds": seconds,
        "pieces": len(pieces),
        "precision": float(near[found > 0].mean()),
        "precision_of_worst_piece": float(min(precisions)),
        "pieces_on_two_ribs": sum(len(ribs) > 1 for ribs in held),
        "length_found": lengths,
        "length_found_2_to_10": float(np.mean([lengths[side][1:10] for side in lengths])),
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--sample_ct_dir", required=True, help="folder of the sample CT; fetched where it is missing")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    options = parser.parse_args()
    image_hu, organs, spacing_mm = load_sample_ct(options.sample_ct_dir)
    figures = rib_figures(image_hu, organs, spacing_mm)
    print(
        f"{figures['pieces']} pieces in {figures['seconds']:.1f} s; within {NEAR_MM:g} mm of a labelled rib: "
        f"{figures['precision']:.2%} of the voxels, {figures['precision_of_worst_piece']:.1%} of the worst piece's; "
        f"pieces on two ribs: {figures['pieces_on_two_ribs']}"
    )
    print(f"length found of ribs 2-10: {figures['length_found_2_to_10']:.1%}")
    print("rib   " + "".join(f"{rib:>6}" for rib in range(1, 13)))
    for side, shares in figures["length_found"].items():
        print(f"{side:<6}" + "".join(f"{share:>6.0%}" for share in shares))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""
Measure how often side, part and level of a fracture are told right, on synthetic scans, where the truth is known.

    python benchmarks/places.py --scans 20 --seed 0 --json places.json

The fractures are the annotated ones: it is the words that are measured, not the detection. The truth comes from the
phantom's own patient, not from the image: the side from the rib that is broken, the angle about the middle of the rib
cage at that level, and the height of the fracture below T1. Fractures within 5 degrees of the border of two parts are
counted apart too, since there the word is a matter of taste.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Orientationd

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

from scripts.anatomy.thorax import PART_DEGREES, PARTS  # noqa: E402
from scripts.candidates import Candidate, describe_candidates  # noqa: E402
from scripts.synthetic.phantom.anatomy import SPINE_BEHIND_MM, Patient  # noqa: E402
from scripts.synthetic.phantom.scan import Phantom, make_phantom  # noqa: E402
from scripts.transforms import CropBodyd, MidsagittalPlaned, ThoraxAxisd  # noqa: E402

__all__ = ["fracture_places", "summary"]

BORDER_DEGREES = 5.0
RIBS_PER_SIDE = 12


def fracture_places(phantom: Phantom, patient: Patient) -> list[dict[str, Any]]:
    """
    Tell the place of each annotated fracture as a prediction would, and as the phantom has it.

    Args:
        phantom: the synthetic scan.
        patient: whom it shows.

    Returns:
        For each fracture ``side``, ``part``, ``degrees`` and ``from_apex_mm`` as told, and with ``true_`` before them
        (but of the apex: ``height_mm`` in the patient's frame).
    """
    affine = torch.as_tensor(phantom.affine)
    image = MetaTensor(torch.as_tensor(phantom.image[None]).float(), affine=affine)
    prepare = Compose(
        [Orientationd("image", axcodes="RAS", labels=None), CropBodyd("image", body_hu=-500.0)]
        + [MidsagittalPlaned("image"), ThoraxAxisd("image")]
    )
    data = prepare({"image": image})
    label = MetaTensor(torch.as_tensor(phantom.label[None].astype(np.int32)), affine=affine)
    fractures = describe_candidates(label, [1.0] * int(label.max()), data["midsagittal_plane"], data["thorax_axis"])
    return [told | _truth(phantom, patient, told["id"]) for told in map(_told, fractures)]


def _told(fracture: Candidate) -> dict[str, Any]:
    told = {name: getattr(fracture, name) for name in ("id", "side", "part", "level")}
    known = {"degrees": fracture.angle_degrees, "from_apex_mm": fracture.from_apex_mm}
    return told | {name: float("nan") if value is None else value for name, value in known.items()}


def _truth(phantom: Phantom, patient: Patient, fracture: int) -> dict[str, Any]:
    voxels = np.argwhere(phantom.label == fracture)
    ribs = phantom.ribs[tuple(voxels.T)]
    rib = int(np.bincount(ribs[ribs > 0]).argmax())
    center_mm = phantom.affine[:3, :3] @ voxels.mean(axis=0) + phantom.affine[:3, 3]
    x, y, z = patient.turn.T @ (center_mm - phantom.midplane_point_mm)
    back, front = patient.spine_y(z) - SPINE_BEHIND_MM * patient.scale[1], patient.front_y(z)
    degrees = float(np.degrees(np.arctan2(abs(x - patient.midline(z)), y - (front + back) / 2)))
    return {
        "true_side": "left" if rib <= RIBS_PER_SIDE else "right",
        "true_degrees": degrees,
        "true_part": PARTS[min(int(degrees // PART_DEGREES), len(PARTS) - 1)],
        "height_mm": float(z),
    }


def summary(places: list[dict[str, Any]]) -> dict[str, Any]:
    """
    Count how often the words are right.

    Args:
        places: those of all scans, at least one.

    Returns:
        ``fractures``; ``side`` and ``part``, how many were told right; ``clear``, how many lie farther than 5 degrees
        from a border of parts, and of them ``clear_part`` right; ``median_degrees`` and ``largest_degrees``, how far
        the angles are off.
    """
    off = np.array([abs(place["degrees"] - place["true_degrees"]) for place in places])
    true_degrees = np.array([place["true_degrees"] for place in places])
    clear = np.abs(true_degrees[:, None] - PART_DEGREES * np.arange(1, len(PARTS))).min(axis=1) > BORDER_DEGREES
    right = np.array([place["part"] == place["true_part"] for place in places])
    return {
        "fractures": len(places),
        "side": sum(place["side"] == place["true_side"] for place in places),
        "part": int(right.sum()),
        "clear": int(clear.sum()),
        "clear_part": int((right & clear).sum()),
        "median_degrees": round(float(np.median(off)), 1),
        "largest_degrees": round(float(off.max()), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=20, help="synthetic scans of the whole thorax")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", choices=("full", "slab"), default="full")
    parser.add_argument("--json", help="file to write every fracture's place to")
    options = parser.parse_args()
    places = []
    for scan in range(options.scans):
        seed = (options.seed, scan)
        found = fracture_places(make_phantom(seed, options.size), Patient.draw(np.random.default_rng(seed)))
        places += [{"scan": scan} | place for place in found]
        print(f"scan {scan + 1} of {options.scans}: {len(found)} fractures", file=sys.stderr)
    if options.json:
        Path(options.json).write_text(json.dumps(places, indent=1) + "\n")
    print(json.dumps(summary(places), indent=1))


if __name__ == "__main__":
    main()

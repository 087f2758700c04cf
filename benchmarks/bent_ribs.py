"""
How often a network takes a rib that was warped like an implanted fracture, but is whole, for a fracture.

    python benchmarks/bent_ribs.py --sample_ct_dir data/sample_ct --output_dir output/bent_ribs

Implants lie in places where the scan was warped, and warping smooths its noise. A network that had learned this trace
would find implants, and nothing else. Here ribs of the sample CT are warped by 1 to 2 mm and read by linear
interpolation, which smooths more than the implants' cubic splines do, and nothing is broken.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bundle"))

from scripts.commands.sample_ct import SampleCT, load_sample_ct  # noqa: E402
from scripts.files.atomic_write import write_volume  # noqa: E402

RIB_IDS = (*range(93, 102), *range(105, 114))  # ribs 2 to 10 of both sides
REACH_MM = 18.0  # of a warp
SITE_MM = 12.0  # a candidate within this of its middle is there
LEAST_SCORE = 0.1


def bend(scan: SampleCT, seed: int = 0) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """
    Warp whole ribs at up to two places each.

    Args:
        scan: the sample CT.
        seed: seed of the places and of the warps.

    Returns:
        The scan in HU, and the number of the place, 1, 2 ..., around each of them.
    """
    rng = np.random.default_rng(seed)
    image, bent = scan.image_hu.astype(np.float32), scan.image_hu.astype(np.float32)
    sites = np.zeros(image.shape, np.uint8)
    reach = np.ceil(REACH_MM / scan.spacing_mm).astype(int)
    spacing = scan.spacing_mm[:, None, None, None]
    for rib in RIB_IDS:
        voxels = np.argwhere(scan.structures == rib)
        for _ in range(2):
            center = voxels[rng.integers(len(voxels))]
            first, last = np.maximum(center - reach, 0), np.minimum(center + reach + 1, image.shape)
            box = tuple(slice(a, b) for a, b in zip(first, last))
            if sites[box].any():
                continue
            place = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(first, last)), indexing="ij")).astype(float)
            distance = np.sqrt((((place - center[:, None, None, None]) * spacing) ** 2).sum(0))
            moved_mm = rng.normal(size=3)
            moved_mm *= rng.uniform(1, 2) / np.linalg.norm(moved_mm)
            share = np.clip(1 - (distance / REACH_MM) ** 2, 0, 1) ** 2
            source = place + moved_mm[:, None, None, None] / spacing * share
            bent[box] = ndimage.map_coordinates(image, source, order=1, mode="nearest")
            sites[box][distance < SITE_MM] = sites.max() + 1
    return np.round(bent).astype(np.int16), sites


def main() -> None:
    """Warp, predict, and print what was marked."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--sample_ct_dir", type=Path, required=True, help="folder of the sample CT; fetched if missing")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the scan and of its prediction")
    options = parser.parse_args()
    output = options.output_dir.resolve()
    scan = load_sample_ct(options.sample_ct_dir)
    bent, sites = bend(scan)
    write_volume(output / "scan" / "bent.nii.gz", bent, np.diag([*scan.spacing_mm, 1.0]))
    command = [sys.executable, "-m", "monai.bundle", "run", "inference", "--config_file", "configs/inference.yaml"]
    command += ["--dataset_dir", str(output / "scan"), "--output_dir", str(output / "prediction")]
    command += ["--candidates#min_score", str(LEAST_SCORE), "--outputs#pictures", "false"]
    subprocess.run(command, cwd=ROOT / "bundle", check=True, stdout=subprocess.DEVNULL)
    pred = np.asarray(nib.load(output / "prediction" / "predictions" / "bent.nii.gz").dataobj)
    best: dict[int, float] = {}
    with (output / "prediction" / "fractures.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["id"]:
                for site in np.unique(sites[pred == int(row["id"])]):
                    best[int(site)] = max(best.get(int(site), 0.0), float(row["score"]))
    scores = sorted((score for site, score in best.items() if site), reverse=True)
    print(f"{sites.max()} places of whole ribs; marked: {sum(score >= 0.5 for score in scores)} with a score of 0.5 on")
    print(f"scores of all that were marked from {LEAST_SCORE:g} on: {', '.join(f'{score:.2f}' for score in scores)}")


if __name__ == "__main__":
    main()

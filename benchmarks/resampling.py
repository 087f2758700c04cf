"""
Time the resampling of a thick-slice scan, along its axes and by MONAI, on the CPU.

    python benchmarks/resampling.py --threads 1

A row for each: seconds, the least of three runs, how many times as fast, and the greatest difference in HU.
"""

import argparse
import sys
from pathlib import Path

import torch
from monai.data import MetaTensor
from monai.transforms import Spacingd

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bundle")]

from benchmarks.timing import least_seconds  # noqa: E402
from scripts.transforms import SpacingOnlyd  # noqa: E402

__all__ = ["main"]

SHAPE, SPACING_MM = (1, 450, 330, 120), (0.74, 0.74, 3.0)  # a body in slices of 3 mm
PIXDIM_MM = (0.74, 0.74, 1.25)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="threads to compute with")
    torch.set_num_threads(parser.parse_args().threads)
    hu = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)) * 3000 - 1000
    scan = {"image": MetaTensor(hu, affine=torch.diag(torch.tensor([*SPACING_MM, 1.0], dtype=torch.float64)))}
    monai, ours = (kind("image", PIXDIM_MM, dtype=torch.float32) for kind in (Spacingd, SpacingOnlyd))
    first, second = least_seconds(lambda: monai(scan)), least_seconds(lambda: ours(scan))
    difference = (monai(scan)["image"] - ours(scan)["image"]).abs().max()
    print(f"Spacingd      {first:6.2f} s")
    print(f"SpacingOnlyd  {second:6.2f} s, {first / second:.1f} times as fast, within {difference:.3f} HU")


if __name__ == "__main__":
    main()

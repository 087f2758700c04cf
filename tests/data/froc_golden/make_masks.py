"""
Make random masks and tables in the RibFrac challenge's layout, of the kinds that README.md beside this file names.

    python tests/data/froc_golden/make_masks.py --kind touching --seed 7 --output_dir SET

What the evaluator computes for them is not made here.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

__all__ = ["KINDS", "main", "make_set"]

KINDS = ("plain", "touching", "split", "many", "no_hit", "nothing_predicted", "perfect")
SHAPE = (56, 48, 40)  # voxels
PLACES = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), axis=-1)  # of each voxel
SPACING_MM = (0.74, 0.74, 1.25)  # RibFrac's medians
FIRST = 900  # number of the first scan
CODES = (-1, 1, 2, 3, 4)  # of a fracture, as in the challenge's tables
SCANS = {"many": 20}  # and 8 of every other kind
# Cells of a coarse grid, one fracture each at most, keep them apart
CELL = (14, 16, 13)  # voxels
FURTHEST = 2  # voxels from a cell's middle
RADII = (2, 4)  # voxels, so that an ellipsoid keeps within its cell


def make_set(folder: Path, kind: str, seed: int) -> None:
    """
    Write the annotated and the predicted masks of a set, and their tables.

    Args:
        folder: gets ``gt`` and ``pred``.
        kind: one of :data:`KINDS`.
        seed: of all that is random.
    """
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    annotated, predicted = [], []
    for number in range(FIRST, FIRST + SCANS.get(kind, 8)):
        style = rng.choice(["plain", "touching", "split"]) if kind == "many" else kind
        label, pred = _scan(rng, str(style), position=number - FIRST)
        name = f"RibFrac{number}"
        _save(label, folder / "gt" / f"{name}-label.nii.gz")
        _save(pred, folder / "pred" / f"{name}.nii.gz")
        annotated += [[name, 0, 0], *([name, i, rng.choice(CODES)] for i in range(1, label.max() + 1))]
        scores = rng.uniform(0.05, 1, pred.max()).round(4)
        predicted += [[name, 0, 0.0, 0], *([name, i, s, rng.choice(CODES[1:])] for i, s in enumerate(scores, 1))]
    _write(folder / "gt" / "ribfrac-val-info.csv", ["public_id", "label_id", "label_code"], annotated)
    _write(folder / "pred" / "ribfrac-val-pred.csv", ["public_id", "label_id", "confidence", "label_code"], predicted)


def _scan(rng: np.random.Generator, kind: str, position: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a scan's annotation and prediction; the first has no fracture, the second no candidate."""
    label, pred = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    cells = rng.permutation(list(np.ndindex(*(size // cell for size, cell in zip(SHAPE, CELL)))))
    middles = (cells + 0.5) * CELL
    fractures, others = middles[:4], middles[4:7]
    if position != 0:
        for number, middle in enumerate(fractures, start=1):
            _draw(label, middle + rng.uniform(-FURTHEST, FURTHEST, 3), rng.uniform(*RADII, 3), number)
    if kind == "touching" and position != 0:
        _draw(label, fractures[0] + [RADII[1], 0, 0], [RADII[1]] * 3, 5)  # runs into the first one
    if kind == "perfect":
        return label, label.copy()
    if kind == "nothing_predicted" or position == 1:
        return label, pred
    on = [] if kind == "no_hit" else [middle for middle in fractures if rng.random() < 0.8]
    candidate = 0
    for middle in (*on, *others):
        candidate += 1
        _draw(pred, middle + rng.uniform(-FURTHEST, FURTHEST, 3), rng.uniform(*RADII, 3), candidate)
        if kind == "split":
            half = pred == candidate
            half[:, :, : round(middle[2])] = False
            candidate += bool(half.any())
            pred[half] = candidate
        elif kind == "touching":
            candidate += 1
            _draw(pred, middle + [RADII[0] + 1, 0, 0], [RADII[0]] * 3, candidate)
    _, ids = np.unique(pred, return_inverse=True)  # without those that others were drawn over
    return label, ids.reshape(SHAPE).astype(np.uint8)


def _draw(volume: np.ndarray, middle: np.ndarray, radii: Sequence[float] | np.ndarray, number: int) -> None:
    """Draw an ellipsoid, in voxels."""
    volume[(((PLACES - middle) / radii) ** 2).sum(axis=-1) <= 1] = number


def _save(volume: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.nifti1.Nifti1Image(volume, np.diag([*SPACING_MM, 1.0])), path)


def _write(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--kind", choices=KINDS, required=True, help="what the set shows")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the set")
    options = parser.parse_args(arguments)
    make_set(options.output_dir, options.kind, options.seed)


if __name__ == "__main__":
    main()

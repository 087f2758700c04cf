"""
Predict one scan that is stored in many ways, and compare what is found, in the patient's coordinates.

    python benchmarks/invariance.py --scan SCAN.nii.gz --json invariance.json

By ``inference.yaml`` and the shipped weights.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.bundle import ConfigWorkflow
from nibabel.nifti1 import Nifti1Image
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
BUNDLE_DIR = ROOT / "bundle"
sys.path[:0] = [str(ROOT), str(BUNDLE_DIR)]

from benchmarks.markdown import table  # noqa: E402
from scripts.files.atomic_write import write_json  # noqa: E402
from scripts.runs.records import RECORDS_DIR  # noqa: E402

__all__ = ["WAYS", "compare", "main"]

AIR_HU, PADDING_HU, WATER_HU = -1024, -3024, 0
FRAME = ((5, 9), (0, 11), (3, 1))  # voxels before and behind, along each axis


def _hu(scan: Nifti1Image) -> NDArray:
    return np.asanyarray(scan.dataobj)


def _as(dtype: str) -> Callable[[Nifti1Image], Nifti1Image]:
    return lambda scan: Nifti1Image(_hu(scan).astype(dtype), scan.affine)


def _scaled(slope: float, intercept: float, dtype: str) -> Callable[[Nifti1Image], Nifti1Image]:
    """Store integers that the header's slope and intercept make HU again."""

    def store(scan: Nifti1Image) -> Nifti1Image:
        image = Nifti1Image(((_hu(scan) - intercept) / slope).astype(dtype), scan.affine)
        image.header.set_slope_inter(slope, intercept)
        return image

    return store


def _reoriented(signs: Sequence[int], axes: Sequence[int]) -> Callable[[Nifti1Image], Nifti1Image]:
    """Store axis i as axis ``axes[i]``, backward where ``signs[i]`` is -1."""
    return lambda scan: scan.as_reoriented(np.column_stack([axes, signs]).astype(float))


def _framed(value: int) -> Callable[[Nifti1Image], Nifti1Image]:
    """Add a frame of one value."""

    def store(scan: Nifti1Image) -> Nifti1Image:
        affine = scan.affine.copy()
        affine[:3, 3] -= affine[:3, :3] @ [before for before, _ in FRAME]
        return Nifti1Image(np.pad(_hu(scan), FRAME, constant_values=value), affine)

    return store


# What each does to a scan of integers, which it leaves as it is in the patient
WAYS: dict[str, Callable[[Nifti1Image], Nifti1Image]] = {
    "float32": _as("<f4"),
    "float64": _as("<f8"),
    "int16, big endian": _as(">i2"),
    "NIfTI-2": lambda scan: nib.Nifti2Image(_hu(scan), scan.affine),
    "uint16, intercept -4000": _scaled(1, -4000, "<u2"),
    "int16, slope 0.5, intercept -2000": _scaled(0.5, -2000, "<i2"),
    "first axis flipped": _reoriented((-1, 1, 1), (0, 1, 2)),
    "second axis flipped": _reoriented((1, -1, 1), (0, 1, 2)),
    "third axis flipped": _reoriented((1, 1, -1), (0, 1, 2)),
    "turned by 90 degrees in the slice": _reoriented((1, -1, 1), (1, 0, 2)),
    "turned by 90 degrees out of it": _reoriented((1, 1, -1), (0, 2, 1)),
    "three axes exchanged": _reoriented((1, 1, 1), (1, 2, 0)),
    "a frame of air": _framed(AIR_HU),
    "a frame of -3024, as some scanners pad": _framed(PADDING_HU),
}
# Nothing can tell a frame of water from the patient: this moves him under the windows' grid.
MOVED = {"a frame of water (0 HU)": _framed(WATER_HU)}


def _predict(dataset_dir: Path, output_dir: Path) -> None:
    """Predict a folder by ``inference.yaml``."""
    run = ConfigWorkflow(
        str(BUNDLE_DIR / "configs" / "inference.yaml"),
        logging_file=False,
        run_id="inference",
        workflow_type="infer",
        bundle_root=str(BUNDLE_DIR),
        dataset_dir=str(dataset_dir),
        output_dir=str(output_dir),
        **{"outputs::pictures": False},
        **{"outputs::review_page": False},
    )
    run.initialize()
    run.run()
    run.finalize()


def compare(reference: Nifti1Image, scores: Sequence[float], other: Nifti1Image, others: Sequence[float]) -> dict:
    """
    Compare two masks of candidates in the patient's coordinates.

    Args:
        reference: candidates 1 to n.
        scores: their scores.
        other: candidates of the other prediction, whose grid holds the reference's.
        others: their scores.

    Returns:
        ``candidates``, how many the other has; ``dice`` of the two masks; ``score_difference``, the largest between a
        candidate and the one that covers most of it, 1 where none does.
    """
    ids, found = _hu(reference), _hu(other)
    to_other = np.linalg.inv(other.affine) @ reference.affine
    at = np.argwhere(ids)
    there = found[tuple(np.rint(at @ to_other[:3, :3].T + to_other[:3, 3]).astype(int).T)]
    marked = int(np.count_nonzero(ids)) + int(np.count_nonzero(found))
    differences = [0.0]
    for number, score in enumerate(scores, start=1):
        over = np.bincount(there[ids[tuple(at.T)] == number], minlength=1)
        best = int(over[1:].argmax()) + 1 if over[1:].any() else 0
        differences.append(abs(score - others[best - 1]) if best else 1.0)
    return {
        "candidates": len(others),
        "dice": 2 * int(np.count_nonzero(there)) / marked if marked else 1.0,
        "score_difference": max(differences),
    }


def _prediction(output_dir: Path, scan: str) -> tuple[Any, list[float]]:
    """The mask of a scan and its candidates' scores."""
    record = json.loads((output_dir / RECORDS_DIR / f"{scan}.json").read_text(encoding="utf-8"))
    return nib.load(output_dir / "predictions" / f"{scan}.nii.gz"), [
        candidate["score"] for candidate in record["candidates"]
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--scan", type=Path, required=True, help="a scan of integers, NIfTI")
    parser.add_argument("--slices", type=int, nargs=2, default=(0, None), help="first, and the one behind the last")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args(arguments)
    scan = nib.load(options.scan).slicer[:, :, slice(*options.slices)]
    scan = Nifti1Image(np.asanyarray(scan.dataobj).astype("<i2"), scan.affine)
    names = {"as it is": "0"} | {way: str(number) for number, way in enumerate({**WAYS, **MOVED}, start=1)}
    with tempfile.TemporaryDirectory() as folder:
        dataset_dir, output_dir = Path(folder, "scans"), Path(folder, "out")
        dataset_dir.mkdir()
        nib.save(scan, dataset_dir / "0.nii.gz")
        for way, store in {**WAYS, **MOVED}.items():
            nib.save(store(scan), dataset_dir / f"{names[way]}.nii.gz")
        _predict(dataset_dir, output_dir)
        reference = _prediction(output_dir, "0")
        figures = {way: compare(*reference, *_prediction(output_dir, name)) for way, name in names.items()}
    rows = [[w, f"{f['candidates']}", f"{f['dice']:.4f}", f"{f['score_difference']:.6f}"] for w, f in figures.items()]
    print("\n".join(table(["stored", "candidates", "Dice", "largest difference of a score"], rows)))
    if options.json:
        write_json(options.json, figures, indent=1)


if __name__ == "__main__":
    main()

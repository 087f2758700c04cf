"""
Time the challenge's overlap rule on a scan of RibFrac's size, beside a plain writing of it with scikit-image.

    python benchmarks/evaluation.py --json evaluation.json --markdown docs/speed.md

The masks are balls: 12 fractures, and candidates that hit ten of them, or lie beside. Both ways get the same arrays,
and must give the same overlaps. Seconds without reading files, the least of ``--repeats`` runs, and their ratio.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from skimage.measure import label as connected_pieces
from skimage.measure import regionprops

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bundle")]

from benchmarks.markdown import show  # noqa: E402
from benchmarks.timing import least_seconds  # noqa: E402
from scripts.files.atomic_write import write_json  # noqa: E402
from scripts.metrics.froc import instance_overlaps  # noqa: E402

__all__ = ["main", "make_masks", "plain_overlaps"]

RADIUS_VOXELS = 9  # about 3,000 voxels, a fracture's mean mask


def make_masks(shape: Sequence[int], fractures: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """
    Draw ids of candidates and of fractures, uint8.

    Args:
        shape: of the volumes, each axis at least ``4 * RADIUS_VOXELS``.
        fractures: how many; all but two have a candidate, moved by up to a third of a radius, and there are as many
            candidates elsewhere.
        seed: of the places.
    """
    rng = np.random.default_rng(seed)
    pred, label = (np.zeros(shape, dtype=np.uint8) for _ in range(2))
    offsets = np.indices([2 * RADIUS_VOXELS + 1] * 3) - RADIUS_VOXELS
    ball = (offsets**2).sum(0) <= RADIUS_VOXELS**2
    border = 2 * RADIUS_VOXELS

    def draw(volume: np.ndarray, center: np.ndarray, number: int) -> None:
        box = tuple(slice(place - RADIUS_VOXELS, place + RADIUS_VOXELS + 1) for place in center)
        volume[box][ball] = number

    for fracture in range(1, fractures + 1):
        center = rng.integers(border, np.array(shape) - border)
        draw(label, center, fracture)
        if fracture <= fractures - 2:
            draw(pred, center + rng.integers(-3, 4, 3), fracture)
        draw(pred, rng.integers(border, np.array(shape) - border), fractures + fracture)
    return pred, label


def plain_overlaps(pred: np.ndarray, label: np.ndarray) -> dict[tuple[int, int], float]:
    """Return the overlap of each candidate and fracture that share voxels, piece by piece over the whole volume."""
    union = connected_pieces((pred > 0) | (label > 0), connectivity=3)
    shared = connected_pieces((pred > 0) & (label > 0), connectivity=3)
    sizes = {part.label: part.area for part in regionprops(union)}
    overlaps = {}
    for piece in regionprops(shared):  # of several pieces of a pair the last one counts
        first = tuple(piece.coords[0])
        overlaps[int(pred[first]), int(label[first])] = piece.area / sizes[union[first]]
    return overlaps


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, default=[512, 512, 330], help="voxels of the scan")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each; the fastest counts")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--markdown", type=Path, help="file with the markers that the text goes between")
    options = parser.parse_args(arguments)
    pred, label = make_masks(options.shape)
    plain, ours = plain_overlaps(pred, label), instance_overlaps(pred, label)
    rows, columns = np.nonzero(ours.overlap)
    found = {
        (int(ours.candidate_ids[row]), int(ours.fracture_ids[column])): float(ours.overlap[row, column])
        for row, column in zip(rows, columns)
    }
    if found.keys() != plain.keys() or not np.allclose([found[pair] for pair in plain], list(plain.values())):
        sys.exit("error: the two ways differ: one of them breaks the rule.")
    seconds_plain = least_seconds(lambda: plain_overlaps(pred, label), options.repeats)
    seconds_ours = least_seconds(lambda: instance_overlaps(pred, label), options.repeats)
    figures = {
        "shape": options.shape,
        "overlaps": len(plain),
        "seconds_plain": seconds_plain,
        "seconds_ours": seconds_ours,
        "times_as_fast": seconds_plain / seconds_ours,
    }
    shape = " x ".join(map(str, options.shape))
    text = (
        f"The overlaps of 12 fractures and 22 candidates in a scan of {shape} voxels that were read before: "
        f"{seconds_plain:.2f} s by a plain writing of the rule with scikit-image, {seconds_ours:.2f} s by "
        f"`scripts.metrics.froc`, {figures['times_as_fast']:.0f} times as fast, with the same {len(plain)} overlaps. "
        "`python -m scripts score` scores several scans at a time (`--workers`)."
    )
    text = textwrap.fill(text, 120, break_on_hyphens=False) + "\n"
    if options.json:
        write_json(options.json, figures)
    show(text, options.markdown, "evaluation")


if __name__ == "__main__":
    main()

"""
Measure the review page of a run of 100 scans: its size, how long it takes to make, and to open in a browser.

    python benchmarks/review_page.py --output output/review_page/report.html --chromium /usr/bin/chromium

The scans are one synthetic slab, with other synthetic candidates each time: half on fractures, half beside them. The
time to open is that from the address to the end of loading, with threshold and sorting ready, in a browser without a
window; without --chromium it is left out.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bundle")]

from benchmarks.browser import chromium_page  # noqa: E402
from scripts.candidates import describe_candidates  # noqa: E402
from scripts.files.atomic_write import write_json  # noqa: E402
from scripts.metrics import scan_result  # noqa: E402
from scripts.reporting.pages.findings import scan_findings  # noqa: E402
from scripts.reporting.pages.page import ReviewPage  # noqa: E402
from scripts.reporting.pages.views import Scan, projections  # noqa: E402
from scripts.synthetic.phantom.scan import make_phantom  # noqa: E402

__all__ = ["synthetic_masks", "seconds_to_open", "write_page"]

RADIUS_MM = 9.0
BONE_HU = 400
REPEATS = 3  # of opening the page
_MOST_SECONDS = 300


def synthetic_masks(image: MetaTensor, candidates: int, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    """Return ids of candidates, balls around voxels of bone, and of fractures at every second of them."""
    volume, spacing_mm = image.numpy()[0], image.pixdim.numpy()
    pred = np.zeros(volume.shape, dtype=np.int32)
    label = np.zeros_like(pred)
    bone = np.argwhere(volume[::3, ::3, ::3] > BONE_HU) * 3
    reach = np.ceil(RADIUS_MM / spacing_mm).astype(int)
    for number, center in enumerate(bone[rng.choice(len(bone), candidates, replace=False)], start=1):
        first, last = np.maximum(center - reach, 0), np.minimum(center + reach + 1, pred.shape)
        box = tuple(slice(a, b) for a, b in zip(first, last))
        places = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(first, last)), indexing="ij"), axis=-1)
        ball = (((places - center) * spacing_mm) ** 2).sum(axis=-1) < RADIUS_MM**2
        pred[box][ball] = number
        if number % 2:
            label[box][ball] = number // 2 + 1
    return pred, label


def write_page(path: Path, scans: int, count: int) -> float:
    """Write a page; return the seconds that a scan takes, without making its masks."""
    phantom = make_phantom((0, 2, 0), "slab")
    image = MetaTensor(torch.from_numpy(phantom.image[None]), affine=torch.as_tensor(phantom.affine))
    image = cast(MetaTensor, Orientation("RAS", labels=None)(image))
    middle = image.affine.numpy() @ [*((n - 1) / 2 for n in image.shape[1:]), 1]
    plane = torch.tensor([1.0, 0.0, 0.0, middle[0]])
    page = ReviewPage(path, {"bundle": "benchmark"})
    seconds = 0.0
    for number in range(1, scans + 1):
        masks = synthetic_masks(image, count, np.random.default_rng(number))
        pred, label = (MetaTensor(torch.from_numpy(ids)[None], affine=image.affine) for ids in masks)
        scores = np.linspace(0.95, 0.05, count).tolist()
        candidates = describe_candidates(pred, scores, plane)  # part of the prediction
        start = time.perf_counter()
        instances = dict(zip(("candidate", "fracture"), masks))
        scan = Scan(image.numpy()[0], image.affine.numpy(), (-200.0, 1000.0), instances)
        result = scan_result({"pred": pred, "label_scores": scores}, {"label": label})
        findings = scan_findings(f"synthetic-{number}", scan, candidates, (label, result), plane)
        page.add_scan(f"synthetic-{number}", findings, projections(scan, plane), result)
        seconds += time.perf_counter() - start
    page.write()
    return seconds / scans


def seconds_to_open(path: Path, chromium: str) -> dict[str, float]:
    """
    Open a page some times.

    Returns:
        Medians: of the seconds until its script has run and it has loaded, and of those that the page's process
        computed, which other programs on the machine hardly change.
    """
    seconds, computed = [], []
    for _ in range(REPEATS):
        with chromium_page(chromium) as page:
            session = page.context.new_cdp_session(page)
            session.send("Performance.enable")
            start = time.perf_counter()
            page.goto(path.resolve().as_uri(), wait_until="load", timeout=_MOST_SECONDS * 1000)
            seconds.append(time.perf_counter() - start)
            metrics = session.send("Performance.getMetrics")["metrics"]
            computed.append(next(metric["value"] for metric in metrics if metric["name"] == "ProcessTime"))
    return {"seconds_to_open": statistics.median(seconds), "cpu_seconds_to_open": statistics.median(computed)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("output/review_page/report.html"), help="page to write")
    parser.add_argument("--scans", type=int, default=100, help="scans of the run")
    parser.add_argument("--candidates", type=int, default=10, help="candidates of each")
    parser.add_argument("--chromium", help="the program; without it the page is not opened")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args(arguments)
    per_scan = write_page(options.output, options.scans, options.candidates)
    figures = {
        "scans": options.scans,
        "candidates_per_scan": options.candidates,
        "megabytes": options.output.stat().st_size / 1e6,
        "seconds_per_scan": per_scan,
    }
    if options.chromium:
        figures |= seconds_to_open(options.output, options.chromium)
    if options.json:
        write_json(options.json, figures)
    print("\n".join(f"{name:<24}{value:.2f}" for name, value in figures.items()))


if __name__ == "__main__":
    main()

"""
Time what feeds a training, and a training's step, beside MONAI's plain way, on the same scans and cores.

    python benchmarks/training.py --output_dir output/training_speed --json training.json --markdown docs/speed.md

Feeding: ROIs a second out of the data loader of ``train.yaml``, once scans are prepared, beside the same transforms on
scans that are read anew in each epoch. Step: forward, loss, backward and update on a batch of ``train.yaml``'s ROIs, in
bfloat16 and channels last, beside float32 as torch keeps it. The scans are synthetic thoraces, 512 x 512 x
``--slices``.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

ROOT = Path(__file__).resolve().parents[1]
BUNDLE_DIR = ROOT / "bundle"
sys.path[:0] = [str(ROOT), str(BUNDLE_DIR)]

from benchmarks.markdown import show  # noqa: E402
from benchmarks.timing import computing_threads, least_seconds  # noqa: E402
from scripts.files.atomic_write import write_json  # noqa: E402
from scripts.synthetic.phantom import generate_phantoms  # noqa: E402

__all__ = ["main", "rois_a_second", "seconds_a_step"]

SPACING_MM = (0.74, 0.74, 1.25)  # RibFrac's medians


def _config(**settings: Any) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config(str(BUNDLE_DIR / "configs" / "train.yaml"))
    parser.update({"bundle_root": str(BUNDLE_DIR), "device": "cpu", **settings})
    return parser


def rois_a_second(dataset_dir: Path, cache_dir: Path | None, workers: int, epochs: int) -> tuple[float, float]:
    """
    Time the data loader of ``train.yaml``.

    Args:
        dataset_dir: the data set.
        cache_dir: folder of the prepared scans; None reads each scan anew.
        workers: processes that load.
        epochs: how often all scans are sampled.

    Returns:
        Seconds that preparing the scans took, and ROIs a second after it.
    """
    cache = None if cache_dir is None else str(cache_dir)
    config = _config(dataset_dir=str(dataset_dir), cache_dir=cache, num_workers=workers)
    start = time.perf_counter()
    config.get_parsed_content("train::dataset").prepare()
    prepared = time.perf_counter() - start
    loader = config.get_parsed_content("train::dataloader")
    start = time.perf_counter()
    rois = sum(len(batch["image"]) for _ in range(epochs) for batch in loader)
    return prepared, rois / (time.perf_counter() - start)


def seconds_a_step(bfloat16: bool, repeats: int = 5) -> float:
    """Return the least time of a step on a batch of ``train.yaml``, in bfloat16 and channels last, or plain float32."""
    config = _config()
    if not bfloat16:
        config["network"] = "@network_def"
    network, loss, optimizer = (config.get_parsed_content(name) for name in ("network", "loss", "optimizer"))
    rois = config.get_parsed_content("rois::per_scan") * config.get_parsed_content("scans_per_batch")
    image = torch.randn(rois, 1, *config.get_parsed_content("rois::roi_size"))
    label = (torch.rand_like(image) > 0.97).float()

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            outputs = network.train()(image)
        optimizer.zero_grad()
        loss([output.float() for output in outputs], label).backward()
        optimizer.step()

    return least_seconds(step, repeats) / rois


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the scans")
    parser.add_argument("--scans", type=int, default=4, help="how many")
    parser.add_argument("--slices", type=int, default=357, help="of each scan")
    parser.add_argument("--threads", type=int, default=2, help="threads to compute with, and processes that load")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--markdown", type=Path, help="file with the markers that the text goes between")
    options = parser.parse_args(arguments)
    scans = options.output_dir / f"scans_{options.slices}"
    generate_phantoms(
        scans, options.scans, 0, 0, seed=9, shape=(512, 512, options.slices), spacing=SPACING_MM, workers=2
    )
    with computing_threads(options.threads):
        _, plain = rois_a_second(scans, None, options.threads, epochs=1)
        prepared, ours = rois_a_second(scans, options.output_dir / "cache", options.threads, epochs=20)
        float32, bfloat16 = seconds_a_step(False), seconds_a_step(True)
    figures = {
        "scans": options.scans,
        "slices": options.slices,
        "threads": options.threads,
        "rois_a_second_plain": plain,
        "rois_a_second_ours": ours,
        "times_as_fast_feeding": ours / plain,
        "seconds_to_prepare_a_scan": prepared / options.scans,
        "seconds_a_roi_float32": float32,
        "seconds_a_roi_bfloat16": bfloat16,
        "times_as_fast_step": float32 / bfloat16,
    }
    feeding = (
        f"Out of the data loader of `train.yaml`, with {options.threads} processes, on {options.scans} scans of "
        f"512 x 512 x {options.slices} voxels: {ours:.0f} ROIs a second where scans were prepared before, {plain:.1f} "
        f"where each is read anew, {ours / plain:.0f} times as many. Preparing took {prepared / options.scans:.0f} s a "
        "scan, once."
    )
    stepping = (
        f"A step on the CPU, with {options.threads} threads: {float32:.3f} s for an ROI in float32, {bfloat16:.3f} s "
        f"in bfloat16 and channels last, {float32 / bfloat16:.1f} times as fast."
    )
    text = "\n\n".join(textwrap.fill(part, 120, break_on_hyphens=False) for part in (feeding, stepping)) + "\n"
    if options.json:
        write_json(options.json, figures)
    show(text, options.markdown, "training")


if __name__ == "__main__":
    main()

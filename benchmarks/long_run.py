"""
Predict many small scans in one process, and train for many short epochs, and tell whether memory or open files grow.

    python benchmarks/long_run.py --json docs/long-run.json --picture docs/images/long-run.png

By ``inference.yaml`` with the shipped weights, and by ``train.yaml``, on a CPU; scans and results lie in a temporary
folder.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import nibabel as nib
import numpy as np
from ignite.engine import Engine, Events
from matplotlib.figure import Figure
from monai.bundle import ConfigWorkflow

ROOT = Path(__file__).resolve().parents[1]
BUNDLE_DIR = ROOT / "bundle"
sys.path[:0] = [str(ROOT), str(BUNDLE_DIR)]

from scripts.files.atomic_write import whole_file, write_json  # noqa: E402

__all__ = ["Watch", "growth", "main", "predict", "train"]

SPACING_MM = (0.75, 0.75, 1.25)
SHAPES = ((64, 56, 48), (72, 60, 40), (56, 64, 52))  # of one scan after the other
MIB = 2**20
WARM_UP = 0.5  # of a run: what is loaded and allocated once comes first
TRAINING = {"rois::per_scan": 2, "scans_per_batch": 2, "num_workers": 1, "cache_dir": "$None"}


class Watch:
    """
    Write down what a process holds after each step of an engine.

    Attach to:
        an evaluator or a trainer, behind the handlers that write files.

    Args:
        event: after which it looks.
        folder: of the results, whose size is told.
    """

    def __init__(self, event: Events, folder: Path) -> None:
        self.event = event
        self.folder = folder
        self.figures: dict[str, list[float]] = {
            name: [] for name in ("memory_mib", "loader_memory_mib", "open_files", "disk_mib")
        }

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(self.event, self)

    def __call__(self, engine: Engine) -> None:
        loaders = [child.pid for child in multiprocessing.active_children() if child.pid is not None]
        sizes = [path.stat().st_size for path in self.folder.rglob("*") if path.is_file()]
        self.figures["memory_mib"].append(_memory_mib("self"))
        self.figures["loader_memory_mib"].append(sum(_memory_mib(str(pid)) for pid in loaders))
        self.figures["open_files"].append(len(os.listdir("/proc/self/fd")))
        self.figures["disk_mib"].append(sum(sizes) / MIB)


def _memory_mib(process: str) -> float:
    """Resident memory of a process, of Linux."""
    return int(Path("/proc", process, "statm").read_text().split()[1]) * resource.getpagesize() / MIB


def growth(values: Sequence[float]) -> float:
    """Slope a step of the straight line through the values, by least squares, without the warm-up."""
    kept = values[int(len(values) * WARM_UP) :]
    return float(np.polyfit(np.arange(len(kept)), kept, 1)[0])


def _write_scans(folder: Path, scans: int, labels: bool) -> None:
    """Write small scans of tissue and bone at random, and their annotation: a bright block each."""
    affine = np.diag([*SPACING_MM, 1.0])
    for number in range(scans):
        rng = np.random.default_rng(number)
        shape = SHAPES[number % len(SHAPES)]
        image = rng.normal(40, 100, shape)
        image[[0, -1]] = image[:, [0, -1]] = -1000
        label = np.zeros(shape, np.uint8)
        start = rng.integers(4, 30, 3)
        block = tuple(slice(first, first + 10) for first in start)
        image[block], label[block] = 700, 1
        for kind, volume in (("image", image.round().astype(np.int16)), ("label", label)):
            if labels or kind == "image":
                path = folder / f"{kind}s" / f"case{number}-{kind}.nii.gz"
                path.parent.mkdir(parents=True, exist_ok=True)
                nib.save(nib.Nifti1Image(volume, affine), path)


def _workflow(config: str, kind: str, run_id: str, **settings: Any) -> ConfigWorkflow:
    run = ConfigWorkflow(
        str(BUNDLE_DIR / "configs" / config),
        logging_file=False,
        run_id=run_id,
        workflow_type=kind,
        bundle_root=str(BUNDLE_DIR),
        device="cpu",
        **settings,
    )
    run.initialize()
    return run


def predict(scans: int, folder: Path) -> dict[str, list[float]]:
    """Predict so many scans, with pictures, page and probabilities, and return what was held after each."""
    _write_scans(folder / "scans", scans, labels=False)
    settings = {"dataset_dir": str(folder / "scans"), "output_dir": str(folder / "out"), "outputs::probabilities": True}
    run = _workflow("inference.yaml", "infer", "inference", **settings)
    watch = Watch(Events.ITERATION_COMPLETED, folder / "out")
    watch.attach(run.parser.get_parsed_content("evaluator"))
    run.run()
    run.finalize()
    return watch.figures


def train(epochs: int, folder: Path) -> dict[str, list[float]]:
    """Train for so many epochs of three steps, with all that is written, and return what was held after each."""
    _write_scans(folder / "scans", 8, labels=True)
    settings = {"dataset_dir": str(folder / "scans"), "output_dir": str(folder / "out"), **TRAINING}
    run = _workflow("train.yaml", "train", "training", max_epochs=epochs, patience_epochs=epochs, **settings)
    watch = Watch(Events.EPOCH_COMPLETED, folder / "out")
    watch.attach(run.parser.get_parsed_content("train::trainer"))
    run.run()
    run.finalize()
    return watch.figures


def _draw(runs: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Draw the figures of each run over its steps."""
    matplotlib.use("Agg")
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots(2, len(runs), squeeze=False, sharex="col")
    for column, (name, figures) in enumerate(runs.items()):
        axes[0, column].plot(figures["memory_mib"], label="the program")
        axes[0, column].plot(figures["loader_memory_mib"], label="the process that loads")
        axes[0, column].set(ylabel="resident memory, MiB", ylim=(0, None), title=name)
        axes[0, column].legend()
        axes[1, column].plot(figures["open_files"])
        axes[1, column].set(ylabel="open files", ylim=(0, None), xlabel="scan" if column == 0 else "epoch")
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--scans", type=int, default=200, help="to predict")
    parser.add_argument("--epochs", type=int, default=100, help="to train for")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--picture", type=Path, help="PNG of the figures over time")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            f"{options.scans} predictions": predict(options.scans, Path(folder, "prediction")),
            f"{options.epochs} epochs": train(options.epochs, Path(folder, "training")),
        }
    for run, figures in runs.items():
        for name, values in figures.items():
            print(f"{run}: {name} {values[0]:.1f} at first, {values[-1]:.1f} at last, {growth(values):+.3f} a step")
    if options.json:
        content = {
            run: {
                name: {"growth_a_step": round(growth(values), 4), "values": [round(value, 1) for value in values]}
                for name, values in figures.items()
            }
            for run, figures in runs.items()
        }
        write_json(options.json, content)
    if options.picture:
        _draw(runs, options.picture)


if __name__ == "__main__":
    main()

"""
Time a prediction from file to files, beside MONAI's stock sliding window and the public baseline, on the same scan.

    python benchmarks/inference.py --output_dir output/speed --json docs/speed.json --markdown docs/speed.md \\
      --picture docs/images/speed.png

The scan is a synthetic thorax of RibFrac's size, 512 x 512 x 357 voxels; ``--slices`` makes a shorter one, and
``--slice_mm`` one of thicker slices. Each row is a run of the bundle in a process of its own, one after the other:
seconds from its start to its end, less those of the program's start; how many times as fast as the first row it is; the
most memory that it and the process that loads scans held together; and how far its mask agrees with that of the default
in float32, as a Dice coefficient. The picture shows how seconds and memory of the default grow with the slices.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
import yaml
from matplotlib.figure import Figure
from monai.bundle import ConfigParser
from monai.data import list_data_collate
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[1]
BUNDLE_DIR = ROOT / "bundle"
sys.path[:0] = [str(ROOT), str(BUNDLE_DIR)]

from benchmarks.markdown import show, table  # noqa: E402
from benchmarks.timing import computing_threads, least_seconds  # noqa: E402
from scripts.engines import has_fast_bfloat16  # noqa: E402
from scripts.files.atomic_write import whole_file, write_json  # noqa: E402
from scripts.synthetic.phantom import generate_phantoms  # noqa: E402

__all__ = ["ROWS", "Row", "main", "stock_settings"]

INFERENCE = BUNDLE_DIR / "configs" / "inference.yaml"
_FRACNET = [ROOT / "benchmarks" / "detection" / "configs" / f"fracnet_{name}.yaml" for name in ("network", "inference")]
_V0_11 = [ROOT / "benchmarks" / "detection" / "configs" / "v0.11_inference.yaml"]
PIXEL_MM, SLICE_MM = 0.74, 1.25  # RibFrac's medians
REPORTS_WINDOWS = {
    "bone::max_rib_mm": None,
    "rib_weight": 0.0,
    "windows::roi_size": [64, 64, 64],
    "windows::overlap": 0.5,
    "windows::mode": "constant",
    "large_windows::roi_size": None,
}
_SECONDS_BETWEEN_LOOKS = 0.2  # at the memory


@dataclass(frozen=True)
class Row:
    """
    What is timed.

    Args:
        says: what it is, for the table.
        settings: laid over ``inference.yaml``.
        overlays: laid over it before them.
        weights: whether it predicts with the weights that ship; otherwise with untrained ones.
        environment: variables of the environment.
    """

    says: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    overlays: Sequence[Path] = ()
    weights: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)


def stock_settings() -> dict[str, Any]:
    """Return what makes MONAI's own path of ``inference.yaml``: its inferer, the whole scan, float32, plain memory."""
    config = yaml.safe_load(INFERENCE.read_text(encoding="utf-8"))
    targets = [transform["_target_"] for transform in config["preprocessing"]["transforms"]]
    return {
        "network": "$torch.nn.Sequential(@network_def, torch.nn.Sigmoid()).to(@device)",
        "handlers::0::load_dict::model": "@network_def",
        "evaluator::prepare_batch": "$monai.engines.default_prepare_batch",
        "rib_weight": 0.0,
        f"preprocessing::transforms::{targets.index('scripts.transforms.CropBodyd')}::_disabled_": True,
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": REPORTS_WINDOWS["windows::roi_size"],
            "overlap": REPORTS_WINDOWS["windows::overlap"],
            "sw_batch_size": 4,
        },
    }


ROWS = {
    "stock": Row("MONAI's `SlidingWindowInferer`, our network, float32, windows of 64³ at stride 32", stock_settings()),
    "fracnet": Row("FracNet's network, untrained, and its windows, by our inferer", {}, _FRACNET, weights=False),
    "exact": Row("ours, the stock row's windows, none skipped", {**REPORTS_WINDOWS, "bone::min_voxels": 0}),
    "skipping": Row("the same, windows without bone skipped", {**REPORTS_WINDOWS, "bone::margin": 0.0}),
    "float32": Row("the default, in float32", {"amp": False}),
    "default": Row("the default of `inference.yaml`"),
    "torch": Row("the default, by torch", {"engine": "torch"}),
    "openvino": Row("the default, by OpenVINO", {"engine": "openvino"}),
    "all_ribs": Row("the default with windows along all ribs", {"least_look": 0.0}),
    "all_bone": Row("the default with windows on all bone", {"bone::max_rib_mm": None}),
    "two_passes": Row("the default with larger windows before", {"large_windows::roi_size": [96, 96, 64]}),
    "v0.11": Row("the default of version 0.11.0", {"engine": "torch", "bone::max_rib_mm": None}, _V0_11),
    "returned": Row(
        "the default, with memory that is freed given back to the system",
        environment={"MALLOC_ARENA_MAX": str(8 * (os.cpu_count() or 1))},  # glibc's own number: all is as it would be
    ),
    "fast": Row("the default with `--windows#overlap 0.25`", {"windows::overlap": 0.25}),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the scan and of the results")
    parser.add_argument("--slices", type=int, default=357, help="of the scan")
    parser.add_argument("--slice_mm", type=float, default=SLICE_MM, help="distance of the scan's slices")
    parser.add_argument("--threads", type=int, default=2, help="threads to compute with")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), help="what to time; all by default")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each row; the fastest counts")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--markdown", type=Path, help="file with the markers that the table goes between")
    parser.add_argument("--picture", type=Path, help="PNG of the growth with the number of slices; some runs more")
    options = parser.parse_args(arguments)
    scan = _scan(options.output_dir, (512, 512, options.slices), options.slice_mm)
    tiny = _scan(options.output_dir, (96, 64, 64), SLICE_MM)
    figures: dict[str, Any] = {"machine": _machine(), "threads": options.threads}
    figures |= {"slices": options.slices, "slice_mm": options.slice_mm, "rows": {}}
    start = min(_run(Row("", {}), tiny, options.output_dir / "start", options.threads)[0] for _ in range(2))
    figures["seconds_to_start"] = start
    for name in options.rows:
        folder = options.output_dir / name
        runs = [_run(ROWS[name], scan, folder, options.threads) for _ in range(options.repeats)]
        figures["rows"][name] = {
            "says": ROWS[name].says,
            "seconds": [seconds - start for seconds, _ in runs],
            "peak_gb": max(peak for _, peak in runs),
        }
        print(f"{name}: {figures['rows'][name]}", flush=True)
    masks = {name: _mask(options.output_dir / name) for name in options.rows if ROWS[name].weights}
    if "float32" in masks:
        for name, mask in masks.items():
            both = 2 * np.count_nonzero(mask & masks["float32"])
            figures["rows"][name]["dice"] = both / max(mask.sum() + masks["float32"].sum(), 1)
    with computing_threads(options.threads):
        figures["floor"] = _floor(scan)
    if options.picture:
        figures["growth"] = growth = []
        for slices in (options.slices * part // 4 for part in (1, 2, 3, 4)):
            shorter = _scan(options.output_dir, (512, 512, slices), options.slice_mm)
            seconds, peak = _run(ROWS["default"], shorter, options.output_dir / f"growth_{slices}", options.threads)
            growth.append({"slices": slices, "seconds": seconds - start, "peak_gb": peak})
        _picture(growth, options.picture)
    if options.json:
        write_json(options.json, figures)
    text = _table(figures)
    show(text, options.markdown, "inference")


def _scan(folder: Path, shape: tuple[int, int, int], slice_mm: float) -> Path:
    """Make a synthetic scan, unless it is there; return its folder."""
    scan = folder / f"scan_{shape[0]}_{shape[2]}_{slice_mm:g}mm"
    generate_phantoms(scan, 0, 0, 1, seed=9, shape=shape, spacing=(PIXEL_MM, PIXEL_MM, slice_mm), workers=1)
    return scan


def _run(row: Row, scan: Path, folder: Path, threads: int) -> tuple[float, float]:
    """Run the bundle in a process of its own; return its seconds, and the most GB that it and its loader held."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"dataset_dir": str(scan.resolve()), "output_dir": str(folder.resolve()), "outputs::pictures": False}
    if not row.weights:
        settings["checkpoint"] = str(_untrained([INFERENCE, *row.overlays], folder).resolve())
    overlay = folder / "overlay.yaml"
    overlay.write_text(yaml.safe_dump({**row.settings, **settings}, sort_keys=False))
    files = str([str(path.resolve()) for path in (INFERENCE, *row.overlays, overlay)])
    command = [sys.executable, "-m", "monai.bundle", "run", "inference", "--config_file", files]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), **row.environment}
    peak, start = 0.0, time.perf_counter()
    with (folder / "prediction.log").open("w") as log:
        process = subprocess.Popen(command, cwd=BUNDLE_DIR, env=environment, stdout=log, stderr=subprocess.STDOUT)
        while process.poll() is None:
            peak = max(peak, _memory_gb(process.pid))
            try:
                process.wait(_SECONDS_BETWEEN_LOOKS)
            except subprocess.TimeoutExpired:
                continue
    seconds = time.perf_counter() - start
    if process.returncode:
        sys.exit(f"error: {folder / 'prediction.log'}: the run failed, see the end of that file.")
    return seconds, peak


def _untrained(configs: Sequence[Path], folder: Path) -> Path:
    """Write weights for the network of configs as they are before a training."""
    parser = ConfigParser()
    parser.read_config([str(path) for path in configs])
    path = folder / "untrained.pt"
    torch.save(parser.get_parsed_content("network_def").state_dict(), path)
    return path


def _memory_gb(pid: int) -> float:
    """Add up what a process and its children hold, what they share counted once (Linux; 0 elsewhere)."""
    total, waiting = 0, [pid]
    while waiting:
        process = Path("/proc") / str(waiting.pop())
        try:
            lines = (process / "smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
            waiting += [int(child) for child in (process / "task" / process.name / "children").read_text().split()]
        except (OSError, ProcessLookupError):  # it has ended
            continue
    return total * 1024 / 1e9


def _floor(scan: Path) -> dict[str, Any]:
    """Tell how long what the default's network must compute for the scan takes at the processor's best."""
    windows, gflop = _work(scan)
    precision = torch.bfloat16 if has_fast_bfloat16(torch.device("cpu")) else torch.float32
    best = _matrix_product(precision)
    return {
        "windows": windows,
        "gflop": gflop,
        "precision": str(precision).removeprefix("torch."),
        "gflop_a_second_of_a_matrix_product": best,
        "seconds": gflop / best,
    }


def _work(scan: Path) -> tuple[int, float]:
    """Count the windows of a scan that the default shows to its network, and the GFLOP that the network takes."""
    parser = ConfigParser()
    parser.read_config(str(INFERENCE))
    parser.update({"bundle_root": str(BUNDLE_DIR), "dataset_dir": str(scan), "device": "cpu", "engine": "torch"})
    network = parser.get_parsed_content("network").eval()
    network.load_state_dict(torch.load(parser.get_parsed_content("checkpoint"), weights_only=True))
    windows: Counter[tuple[int, ...]] = Counter()

    def counted(batch: torch.Tensor) -> torch.Tensor:
        windows[tuple(batch.shape[2:])] += len(batch)
        return network(batch)

    batch = list_data_collate([parser.get_parsed_content("dataset")[0]])
    with torch.no_grad():
        image, _, _, near = parser.get_parsed_content("evaluator::prepare_batch")(batch, "cpu")
        parser.get_parsed_content("inferer")(image, counted, **near)
    gflop = 0.0
    for size, number in windows.items():
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros(1, 1, *size))
        gflop += number * counter.get_total_flops() / 1e9
    return sum(windows.values()), gflop


def _matrix_product(precision: torch.dtype, size: int = 4096) -> float:
    """Return the GFLOP a second at which the processor multiplies square matrices of this size."""
    matrix = torch.randn(size, size).to(precision)
    return 2 * size**3 / 1e9 / least_seconds(lambda: matrix @ matrix, 5)


def _mask(folder: Path) -> np.ndarray:
    (path,) = (folder / "predictions").glob("*.nii.gz")
    return np.asanyarray(nib.nifti1.Nifti1Image.from_filename(path).dataobj) > 0


def _machine() -> str:
    """Name the processor, and the instructions that matter."""
    known = getattr(torch.cpu, "get_capabilities", dict)()
    extras = [name for name in ("avx512_f", "avx512_bf16", "amx_bf16") if known.get(name)]
    return f"{known.get('cpu_name', platform.processor())} ({', '.join(extras)}), torch {torch.__version__}"


def _picture(growth: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw seconds and GB over the number of slices."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, key, title in zip(panels, ("seconds", "peak_gb"), ("seconds a scan", "most memory, GB")):
        axes.plot([run["slices"] for run in growth], [run[key] for run in growth], marker="o")
        axes.set(xlabel="slices of 512 x 512", ylabel=title, xlim=(0, None), ylim=(0, None))
        axes.grid(alpha=0.3)
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")


def _table(figures: Mapping[str, Any]) -> str:
    """Make the table; the first row is what the others are compared to."""
    seconds = {name: min(row["seconds"]) for name, row in figures["rows"].items()}
    first = next(iter(seconds.values()))
    has_dice = any("dice" in row for row in figures["rows"].values())
    rows = [
        [
            f"`{name}`",
            row["says"],
            f"{seconds[name]:.0f}",
            f"{first / seconds[name]:.1f}",
            f"{row['peak_gb']:.1f}",
            *([f"{row['dice']:.3f}" if "dice" in row else ""] if has_dice else []),
        ]
        for name, row in figures["rows"].items()
    ]
    header = ["row", "what it is", "s a scan", "times as fast", "peak GB", *(["Dice to `float32`"] if has_dice else [])]
    says = (
        f"512 x 512 x {figures['slices']} voxels, slices of {figures['slice_mm']:g} mm, {figures['threads']} threads, "
        f"{figures['machine']}. Starting the program took {figures['seconds_to_start']:.0f} s more."
    )
    floor = figures["floor"]
    ends = (
        f"The floor: the default shows the network {floor['windows']:,} windows, {floor['gflop']:,.0f} GFLOP in all, "
        f"which take {floor['seconds']:.0f} s at the {floor['gflop_a_second_of_a_matrix_product']:.0f} GFLOP a "
        f"second at which this processor multiplies large matrices in {floor['precision']}."
    )
    says, ends = (textwrap.fill(part, 120, break_on_hyphens=False) for part in (says, ends))
    return "\n".join([says, "", *table(header, rows), "", ends]) + "\n"


if __name__ == "__main__":
    main()

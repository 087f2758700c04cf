"""
How probable a network finds a fracture that lies off the middle of its window.

    python benchmarks/off_center.py --data data/benchmark/synthetic_test.json --output_dir output/benchmark \
      --recipes report fracnet ours shipped --picture docs/images/off-center.png

A network that was only shown fractures in the middle of their ROI learns the place with them: the windows of a
prediction meet a fracture anywhere. Windows of each recipe's size are laid around the fractures of the synthetic test
scans, moved in the plane of the slices by so many voxels, to two sides each.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from monai.bundle import ConfigParser
from monai.inferers import SimpleInferer
from monai.transforms import Compose
from numpy.typing import NDArray
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bundle")]

from benchmarks.detection.recipes import SHIPPED_WEIGHTS, Recipe, find_recipe  # noqa: E402
from benchmarks.markdown import table  # noqa: E402
from scripts.data.datalist import load_datalist  # noqa: E402
from scripts.files.atomic_write import whole_file  # noqa: E402
from scripts.inferers import AutocastInferer  # noqa: E402

OFF_CENTER_VOXELS = (0, 4, 8, 12, 16, 20)
DIRECTIONS = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0]])
DIRECTIONS_EACH = 2  # drawn anew for each fracture and distance
AIR = -1.0  # beyond a scan, in the scaled range


def window(volume: NDArray[Any], center: NDArray[np.intp], size: NDArray[np.intp], fill: float) -> NDArray[Any]:
    """Cut a window around a voxel, filled where it reaches beyond the volume."""
    first = center - size // 2
    last = first + size
    inside = tuple(slice(max(a, 0), max(b, 0)) for a, b in zip(first, last))
    missing = [(min(max(-a, 0), k), min(max(b - n, 0), k)) for a, b, n, k in zip(first, last, volume.shape, size)]
    return np.pad(volume[inside], missing, constant_values=fill)


def reading(recipe: Recipe) -> Compose:
    """Return what reads a scan as a recipe's training does, but whole: the image scaled, the fractures by their ids."""
    parser = ConfigParser()
    parser.read_config([str(config) for config in recipe.train_configs])
    parser.update({**recipe.train_settings, "rois::slice_margin_voxels": 10_000})
    return Compose([*parser.get_parsed_content("loading"), *parser.get_parsed_content("scaling")])


def load_network(recipe: Recipe, output_dir: Path) -> tuple[torch.nn.Module, NDArray[np.intp]]:
    """Return a recipe's trained network and the size of its windows."""
    parser = ConfigParser()
    parser.read_config([str(config) for config in recipe.inference_configs])
    parser.update(dict(recipe.inference_settings))
    weights = SHIPPED_WEIGHTS if recipe.shipped else output_dir / recipe.trained_as / "models" / recipe.weights
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return network.eval(), np.array(parser.get_parsed_content("windows::roi_size"))


@torch.inference_mode()
def mean_probabilities(recipe: Recipe, output_dir: Path, items: Sequence[dict[str, Any]]) -> dict[int, list[float]]:
    """
    Measure a recipe.

    Args:
        recipe: what is measured.
        output_dir: folder of the benchmark's results.
        items: annotated scans.

    Returns:
        By the distance off the middle in voxels: of each fracture the mean probability of its voxels in the window.
    """
    network, size = load_network(recipe, output_dir)
    read = reading(recipe)
    inferer = AutocastInferer(SimpleInferer())
    rng = np.random.default_rng(0)
    found: dict[int, list[float]] = {distance: [] for distance in OFF_CENTER_VOXELS}
    for item in tqdm(items, desc=recipe.name, unit="scan"):
        scan = read(item)
        image, label = np.asarray(scan["image"][0]), np.asarray(scan["label"][0])
        for fracture in np.unique(label[label > 0]):
            middle = np.argwhere(label == fracture).mean(0).round().astype(int)
            for distance in OFF_CENTER_VOXELS:
                moves = distance * DIRECTIONS[rng.choice(len(DIRECTIONS), DIRECTIONS_EACH if distance else 1, False)]
                shown = torch.from_numpy(np.stack([window(image, middle + move, size, AIR) for move in moves])[:, None])
                masks = np.stack([window(label, middle + move, size, 0) for move in moves]) == fracture
                probability = torch.sigmoid(inferer(shown, network).float())[:, 0].numpy()
                found[distance].append(float(probability[masks].mean()))
    return found


def picture(found: dict[str, dict[int, list[float]]], path: Path) -> None:
    """Draw the mean over all fractures by the distance, a line for each recipe."""
    figure = Figure(figsize=(6.2, 3.8), layout="constrained")
    axes = figure.subplots()
    for name, of_recipe in found.items():
        axes.plot(list(of_recipe), [np.mean(values) for values in of_recipe.values()], marker="o", label=name)
    axes.set(xlabel="fracture off the middle of its window (voxels)", ylabel="mean probability in the fracture")
    axes.set_xticks(OFF_CENTER_VOXELS)
    axes.set_ylim(0, 1)
    axes.legend()
    axes.grid(alpha=0.3)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def main() -> None:
    """Measure, draw, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="data set whose annotated test scans are shown")
    parser.add_argument(
        "--output_dir", type=Path, required=True, help="folder with RECIPE/models/model.pt of each recipe"
    )
    parser.add_argument("--recipes", nargs="+", required=True, help="recipes of the detection benchmark, trained")
    parser.add_argument("--picture", type=Path, required=True, help="PNG to write")
    options = parser.parse_args()
    items = load_datalist(options.data, "test")
    recipes = [find_recipe(name) for name in options.recipes]
    found = {recipe.name: mean_probabilities(recipe, options.output_dir, items) for recipe in recipes}
    picture(found, options.picture)
    rows = [[f"`{name}`", *(f"{np.mean(of[n]):.2f}" for n in OFF_CENTER_VOXELS)] for name, of in found.items()]
    print("\n".join(table(["recipe", *map(str, OFF_CENTER_VOXELS)], rows)))


if __name__ == "__main__":
    main()

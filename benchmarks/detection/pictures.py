"""Pictures of the benchmark: FROC curves of all recipes, and examples of what one found, missed and wrongly marked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from skimage.measure import find_contours

from benchmarks.detection.run import FIGURES_NAME
from scripts.data.datalist import load_datalist
from scripts.data.ribfrac import CLASS_NAMES, KEY_FALSE_POSITIVES
from scripts.files.atomic_write import whole_file
from scripts.images.hounsfield import BONE_WINDOW_HU
from scripts.reporting.figures import CANDIDATE_COLOR, DOTS_PER_INCH, FRACTURE_COLOR

__all__ = ["examples_picture", "froc_curves_picture"]

# Okabe and Ito's colors, which color-blind readers can tell apart; more curves than these cannot be told apart
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#000000")
_CROP_MM = 60.0
_PER_ROW = 6


def froc_curves_picture(curves: Mapping[str, Mapping[str, Mapping[str, Any]]], path: Path) -> None:
    """
    Draw the FROC curves of at most five recipes, one panel for each set.

    Args:
        curves: by the set's title, by recipe: ``curve`` and ``average_recall`` as `benchmarks.detection.report.summary`
            gives them.
        path: PNG to write.

    Raises:
        ValueError: when there are no curves, or too many.
    """
    if not curves:
        raise ValueError("no annotated set was predicted: there is no curve to draw.")
    recipes = list(dict.fromkeys(recipe for of_set in curves.values() for recipe in of_set))
    if len(recipes) > len(_COLORS):
        raise ValueError(f"{len(recipes)} recipes are too many to draw: name {len(_COLORS)} or fewer by --curves.")
    lines = -(-len(recipes) // 2)  # of the legend
    figure = Figure(figsize=(6.2 * len(curves), 5.4 + 0.19 * lines), layout="constrained")
    for axes, (title, of_set) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items()):
        for recipe, summary in of_set.items():
            fp, recall = np.array(summary["curve"]["fp"]), np.array(summary["curve"]["recall"])
            order = np.lexsort((recall, fp))
            # Where the curve ends, its last recall holds on: that is how the challenge reads it.
            fp, recall = np.append(fp[order], max(fp.max(), KEY_FALSE_POSITIVES[-1])), np.append(
                recall[order], recall.max()
            )
            axes.plot(
                fp,
                recall,
                color=_COLORS[recipes.index(recipe)],
                label=f"{recipe}: {summary['average_recall']:.3f}",
            )
        axes.set(
            xlim=(0, KEY_FALSE_POSITIVES[-1]),
            ylim=(0, 1.02),
            xlabel="false positives per scan",
            ylabel="recall",
            title=title,
        )
        axes.set_xticks([0, *KEY_FALSE_POSITIVES], ["0", "0.5", "1", "2", "4", "8"])
        axes.grid(alpha=0.3)
        axes.legend(title="average recall", fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.11), ncols=2)
    _save(figure, path)


class _Example(NamedTuple):
    """One panel: its scan, the fracture or else the candidate in its middle, and what is written above."""

    scan: str
    fracture: int | None
    candidate: int | None
    text: str


class _Volumes(NamedTuple):
    """A scan in HU, its fractures and its candidates, shape ``(H, W, D)``, axes to the left, the back and up."""

    image_hu: NDArray
    label: NDArray
    pred: NDArray
    spacing_mm: NDArray


def examples_picture(data_list: Path, folder: Path, path: Path) -> None:
    """
    Draw what a recipe found, missed and wrongly marked in a set, each a row of axial crops in a bone window.

    Found ones are taken evenly from the highest to the lowest score, missed ones from the largest to the smallest; of
    the false candidates those with the highest scores are shown. The patient's right is on the left of each panel.

    Args:
        data_list: the set's MONAI data list, its scans under ``test``.
        folder: prediction of the set, with its figures.
        path: PNG to write.

    Raises:
        FileNotFoundError: when the prediction is not there.
        ValueError: when the set has neither a fracture nor a candidate.
    """
    if not (folder / FIGURES_NAME).is_file():
        raise FileNotFoundError(f"{folder / FIGURES_NAME} does not exist: run the command 'predict' first.")
    figures = json.loads((folder / FIGURES_NAME).read_text())
    items = {item["scan"]: item for item in load_datalist(data_list, "test", labels="scores" in figures)}
    rows = {title: examples for title, examples in _choose(figures["scans"]).items() if examples}
    if not rows:
        raise ValueError(f"{folder}: there is no fracture and no candidate to show: choose another set.")
    figure = Figure(figsize=(2.3 * _PER_ROW, 2.7 * len(rows) + 0.5), layout="constrained", facecolor="white")
    panels = figure.subplots(len(rows), _PER_ROW, squeeze=False)
    volumes = {}  # of one scan at a time
    at = [(example, panels[row, i]) for row, of_row in enumerate(rows.values()) for i, example in enumerate(of_row)]
    for example, axes in sorted(at, key=lambda pair: pair[0].scan):
        if example.scan not in volumes:
            volumes = {example.scan: _load(items[example.scan], folder / "predictions" / f"{example.scan}.nii.gz")}
        _draw(axes, example, volumes[example.scan])
    for axes in panels.flat:
        if not axes.images:
            axes.set_axis_off()
    for of_row, title in zip(panels, rows):
        of_row[0].text(-0.05, 0.5, title, transform=of_row[0].transAxes, rotation=90, ha="right", va="center")
    handles = [
        Line2D([], [], color=color, label=what)
        for color, what in ((FRACTURE_COLOR, "fracture (annotated)"), (CANDIDATE_COLOR, "candidate (predicted)"))
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=2, fontsize=9, facecolor="#404040", labelcolor="white"
    )
    _save(figure, path)


def _choose(scans: Sequence[Mapping[str, Any]]) -> dict[str, list[_Example]]:
    """Choose what to show, by the row's title."""
    fractures = [(scan["scan"], fracture) for scan in scans for fracture in scan["fractures"]]
    candidates = [(scan["scan"], candidate) for scan in scans for candidate in scan["candidates"]]
    found = sorted((pair for pair in fractures if pair[1]["score"] is not None), key=lambda pair: -pair[1]["score"])
    missed = sorted((pair for pair in fractures if pair[1]["score"] is None), key=lambda pair: -pair[1]["volume_mm3"])
    false = sorted((pair for pair in candidates if not pair[1]["is_hit"]), key=lambda pair: -pair[1]["score"])
    return {
        "found": [_Example(s, f["id"], None, f"{_describe(f)}, {f['score']:.2f}") for s, f in _evenly(found)],
        "missed": [_Example(s, f["id"], None, _describe(f)) for s, f in _evenly(missed)],
        "false": [_Example(s, None, c["id"], f"{c['score']:.2f}") for s, c in false[:_PER_ROW]],
    }


def _describe(fracture: Mapping[str, Any]) -> str:
    return f"{CLASS_NAMES.get(fracture['code'], 'unknown').lower()}, {fracture['volume_mm3'] / 1000:.1f} mL"


def _evenly(pairs: Sequence[Any]) -> list[Any]:
    """Take as many as a row holds, evenly from the first to the last."""
    last = len(pairs) - 1
    return [pairs[place] for place in np.unique(np.linspace(0, last, _PER_ROW).round().astype(int))] if pairs else []


def _load(item: Mapping[str, Any], pred: Path) -> _Volumes:
    """Load a scan with its masks, turned, without resampling, to axes closest to left, posterior and superior."""
    image = _to_lps(item["image"])
    candidates = np.asarray(_to_lps(pred).dataobj)
    label = np.asarray(_to_lps(item["label"]).dataobj) if "label" in item else np.zeros_like(candidates)
    return _Volumes(image.get_fdata(dtype=np.float32), label, candidates, np.array(image.header.get_zooms()))


def _to_lps(path: str | Path) -> nib.nifti1.Nifti1Image:
    image = nib.nifti1.Nifti1Image.from_filename(path)
    wanted = nib.orientations.axcodes2ornt("LPS")
    return image.as_reoriented(nib.orientations.ornt_transform(nib.orientations.io_orientation(image.affine), wanted))


def _draw(axes: Axes, example: _Example, volumes: _Volumes) -> None:
    """Draw the slice with the largest section of the example, cut to a square about it."""
    ids, own = (volumes.label, example.fracture) if example.fracture is not None else (volumes.pred, example.candidate)
    at = np.argwhere(ids == own)
    index = np.bincount(at[:, 2]).argmax()
    middle = at[at[:, 2] == index][:, :2].mean(axis=0)
    half = _CROP_MM / 2
    low = np.floor(np.clip(middle - half / volumes.spacing_mm[:2], 0, None)).astype(int)
    high = np.ceil(np.minimum(middle + half / volumes.spacing_mm[:2] + 1, ids.shape[:2])).astype(int)
    plane = (slice(low[0], high[0]), slice(low[1], high[1]), index)
    (left, upper), (right, lower) = ((corner - 0.5 - middle) * volumes.spacing_mm[:2] for corner in (low, high))
    low_hu, high_hu = BONE_WINDOW_HU
    axes.imshow(volumes.image_hu[plane].T, cmap="gray", extent=(left, right, lower, upper), vmin=low_hu, vmax=high_hu)
    for mask, color in ((volumes.label, FRACTURE_COLOR), (volumes.pred, CANDIDATE_COLOR)):
        for line in find_contours((mask[plane] > 0).astype(float), 0.5):
            points = (line + low - middle) * volumes.spacing_mm[:2]
            axes.plot(points[:, 0], points[:, 1], color=color, linewidth=1.2)
    axes.set(xlim=(-half, half), ylim=(half, -half), xticks=[], yticks=[], facecolor="black")
    axes.set_title(f"{example.scan}\n{example.text}", fontsize=8)


def _save(figure: Figure, path: Path) -> None:
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DOTS_PER_INCH)

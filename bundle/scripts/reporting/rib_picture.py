"""The picture of the unfolded rib cage, with the candidates in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from skimage.measure import find_contours

from scripts.anatomy.rib_cage import RibCage
from scripts.reporting.figures import CANDIDATE_COLOR, DOTS_PER_INCH, FRACTURE_COLOR, IN_HU, RIM, in_hu, save_figure
from scripts.reporting.unfolding import HALF_HEIGHT_MM, NAMES_MM, Shadow, UnfoldedCage

__all__ = ["rib_picture"]

# Cortex is white, marrow gray. The mean is of soft tissue and lung, too.
_MAXIMUM_WINDOW_HU = (0.0, 900.0)
_MEAN_WINDOW_HU = (-300.0, 500.0)
_OUTSIDE_HU = -1000.0
_PIXELS_A_MM = 2
_NAME_MM = 42.0  # width of "C12 0.87"
_RULER_MM = 50


def rib_picture(
    image: NDArray,
    affine: NDArray,
    cage: RibCage,
    pred: NDArray,
    label_scores: Sequence[float] | NDArray,
    rib_of: Mapping[int, int],
    path: str | Path,
    label: NDArray | None = None,
    label_rib_of: Mapping[int, int] | None = None,
    title: str = "",
    operating_score: float = 0.0,
    hu_range: Sequence[float] = IN_HU,
) -> None:
    """
    Draw the unfolded rib cage of a scan, see :mod:`scripts.reporting.unfolding`.

    Above the maximum through the chest wall, 5 mm to both sides of the middle of each rib, below the mean.

    Args:
        image: the scan, shape ``(H, W, D)``.
        affine: from voxels to RAS mm, shape ``(4, 4)``.
        cage: its ribs; at least one.
        pred: ids 1 to n of the candidates, integer, shape ``(H, W, D)``.
        label_scores: score of each candidate in the order of the ids, in [0, 1], shape ``(n,)``.
        rib_of: id of the rib (:attr:`scripts.anatomy.rib_cage.Rib.id`) by the id of each candidate that lies on one;
            others are not drawn.
        path: PNG to write.
        label: ids of the fractures, likewise; without it only candidates are drawn.
        label_rib_of: id of the rib by the id of each fracture that lies on one.
        title: name of the scan, written above.
        operating_score: candidates of a lower score are not drawn.
        hu_range: HU of the values -1 and 1 of the scan; by default it is in HU.

    Raises:
        ValueError: when there are no ribs.
    """
    if not cage.ribs:
        raise ValueError("there is no rib to draw: leave out the picture.")
    unfolded = UnfoldedCage.of(cage)
    low_hu, high_hu = hu_range
    outside = (2 * _OUTSIDE_HU - low_hu - high_hu) / (high_hu - low_hu)
    maximum, mean = (in_hu(picture, hu_range) for picture in unfolded.pictures(image, affine, outside))
    on_ribs = {i: rib for i, rib in rib_of.items() if label_scores[i - 1] >= operating_score}
    candidates = unfolded.shadows(pred, affine, on_ribs)
    left_out = sum(score >= operating_score for score in label_scores) - len(candidates)
    fractures = [] if label is None else unfolded.shadows(label, affine, label_rib_of or {})
    names = {
        shadow.instance: f"C{shadow.instance} {float(label_scores[shadow.instance - 1]):.2f}" for shadow in candidates
    }

    width, height = (mm * _PIXELS_A_MM / DOTS_PER_INCH for mm in (unfolded.width_mm, unfolded.height_mm))
    figure = Figure(figsize=(width + 0.2, 2 * height + 1.6), layout="constrained", facecolor="white")
    panels = (
        ("maximum through the chest wall (10 mm)", maximum, _MAXIMUM_WINDOW_HU),
        ("mean through the chest wall (10 mm)", mean, _MEAN_WINDOW_HU),
    )
    for axes, (text, picture, window) in zip(figure.subplots(2, 1), panels):
        _show(axes, unfolded, picture, window)
        _outline(axes, fractures, {shadow.instance: f"F{shadow.instance}" for shadow in fractures}, FRACTURE_COLOR, -1)
        _outline(axes, candidates, names, CANDIDATE_COLOR, 1)
        axes.set_title(text, fontsize=9)
    heading = "ribs straightened, from the spine in the middle outward"
    figure.suptitle(f"{title}\n{heading}" if title else heading, fontsize=11, parse_math=False)
    words = f"C: candidate of score {operating_score:g} or more (predicted; id, score)"
    words += f"; {left_out} beside the ribs not drawn" if left_out else ""
    kinds = [(words, CANDIDATE_COLOR)]
    kinds = [("F: fracture (annotated)", FRACTURE_COLOR), *kinds] if label is not None else kinds
    figure.legend(
        handles=[Line2D([], [], label=text, linewidth=2, color=color) for text, color in kinds],
        loc="outside lower center",
        ncols=2,
        fontsize=9,
        facecolor="#404040",
        labelcolor="white",
    )
    save_figure(figure, path)


def _show(axes: Axes, unfolded: UnfoldedCage, picture: NDArray, window_hu: tuple[float, float]) -> None:
    """Show a picture in mm, with the names of the ribs in the middle and a ruler."""
    low, high = window_hu
    extent = (0.0, float(unfolded.width_mm), float(unfolded.height_mm), 0.0)
    axes.imshow(picture, cmap="gray", vmin=low, vmax=high, extent=extent, interpolation="bilinear")
    axes.set(xticks=[], yticks=[], xlim=extent[:2], ylim=extent[2:])
    middle = unfolded.width_mm / 2
    for placed in unfolded.ribs:
        x = middle + placed.direction * NAMES_MM / 4
        _write(axes, x, placed.middle_mm, placed.name, "white", "center", 7.5)
    for x, letter in ((6.0, "R"), (unfolded.width_mm - 6.0, "L")):
        _write(axes, x, 10.0, letter, "white", "center", 11)
    x, y = 10.0, unfolded.height_mm - 8.0
    axes.plot([x, x + _RULER_MM], [y, y], color="white", linewidth=2)
    _write(axes, x, y - 8, f"{_RULER_MM} mm", "white", "left", 7)


def _outline(axes: Axes, shadows: Sequence[Shadow], names: Mapping[int, str], color: str, above: int) -> None:
    """Draw the outline of each shadow, and its name above (1) or below it (-1) at the edge of the rib's row."""
    named: list[tuple[float, float]] = []
    for shadow in shadows:
        for line in find_contours(np.pad(shadow.mask.astype(float), 1), 0.5):
            y, x = (line - 0.5).T + [[shadow.top_mm], [shadow.left_mm]]
            axes.plot(x, y, linewidth=1.2, color=color, path_effects=RIM)
        left, _, right, _ = shadow.box_mm
        x, middle = (left + right) / 2, shadow.top_mm + shadow.mask.shape[0] / 2
        y = middle - above * (HALF_HEIGHT_MM - 3.5)
        if any(abs(x - a) < _NAME_MM and abs(y - b) < 1 for a, b in named):
            y = middle + above * (HALF_HEIGHT_MM - 3.5)
        named.append((x, y))
        _write(axes, x, y, names[shadow.instance], color, "center", 7.5)


def _write(axes: Axes, x: float, y: float, text: str, color: str, align: str, size: float) -> None:
    axes.text(x, y, text, color=color, fontsize=size, ha=align, va="center", path_effects=RIM, weight="bold")

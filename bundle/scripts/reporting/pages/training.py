"""The page of a training: its curves, and what its network sees, is told, and answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scripts.files.atomic_write import write_text
from scripts.reporting.figures import best_epoch
from scripts.reporting.pages.charts import Axis, Chart, Series
from scripts.reporting.pages.html import render
from scripts.reporting.pages.pictures import encode, gray_values, outline
from scripts.reporting.pages.views import Outline, View

__all__ = ["Example", "curve_charts", "roi_view", "write_training_page"]

Points = Sequence[tuple[int, float]]


class Example(NamedTuple):
    """
    An ROI that the network saw.

    Args:
        image: scaled to [-1, 1], shape ``(H, W, D)``.
        label: whether a voxel is annotated, bool.
        pred: whether the network marks it, bool; ``None`` where it is not shown.
    """

    image: NDArray
    label: NDArray
    pred: NDArray | None = None


def roi_view(example: Example) -> View:
    """Draw the axial slice of an ROI with the most annotated voxels, else marked ones, else the middle one."""
    marked = example.label
    if not marked.any() and example.pred is not None:
        marked = example.pred
    index = int(marked.sum(axis=(0, 1)).argmax()) if marked.any() else example.image.shape[2] // 2

    def turned(volume: NDArray) -> NDArray:
        return volume[::-1, ::-1, index]

    width, height = example.image.shape[:2]
    ones, zeros = np.ones(2), np.zeros(2)
    outlines = [Outline("fracture", 1, outline(turned(example.label), ones, zeros))]
    if example.pred is not None:
        outlines.append(Outline("candidate", 1, outline(turned(example.pred), ones, zeros)))
    picture = encode(np.ascontiguousarray(gray_values(turned(example.image), (-1.0, 1.0)).T))
    return View("axial", picture, float(width), float(height), ("", "", "", ""), outlines)


def curve_charts(points: Mapping[str, Points]) -> list[Chart]:
    """
    Draw the curves of a training: losses, the scores of the validation where it computes any, and the learning rate.

    Args:
        points: pairs of epoch and value by their names; those of a loss end in ``_loss``. The best epoch is marked.
    """
    best = best_epoch(points)
    marked = None if best is None else best[0]
    groups: dict[tuple[str, str], dict[str, Points]] = {("Losses", "loss"): {}}
    for name, pairs in points.items():
        apart = ("Learning rate", "learning rate") if name == "learning_rate" else ("Validation scores", "score")
        if pairs:
            groups.setdefault(("Losses", "loss") if name.endswith("_loss") else apart, {})[name] = pairs
    return [_chart(title, label, curves, marked) for (title, label), curves in groups.items()]


def _chart(title: str, label: str, points: Mapping[str, Points], best: int | None) -> Chart:
    """Draw some curves over the epochs, on a logarithmic scale where they span more than a factor of 20."""
    epochs = [epoch for pairs in points.values() for epoch, _ in pairs]
    values = [value for pairs in points.values() for _, value in pairs if np.isfinite(value)] or [0.0]
    low, high = min(values), max(values)
    logarithmic = low > 0 and high / low > 20
    if not logarithmic:
        low, high = (min(low, 0.0), high * 1.05) if low >= 0 else (low, high)
    high = high if high > low else low + 1
    x = Axis("epoch", 1, max(2, *epochs) if epochs else 2, whole=True)
    series = [Series(name.replace("_", " "), pairs) for name, pairs in points.items()]
    mark = None if best is None else (best, f"best: epoch {best}")
    return Chart(title, x, Axis(label, low, high, logarithmic), series, mark)


def write_training_page(
    path: Path,
    points: Mapping[str, Points],
    epochs: int,
    sampled: Sequence[Example],
    validated: Sequence[Example],
    settings: Mapping[str, Any] | None = None,
) -> None:
    """
    Write the page of a training, whole or not at all.

    Args:
        path: the page.
        points: see :func:`curve_charts`; the best epoch has the lowest ``validation_loss``.
        epochs: after which the training ends.
        sampled: ROIs that the network is trained on.
        validated: ROIs that it is validated on.
        settings: what is told of the run, by name.
    """
    last = max((pairs[-1][0] for pairs in points.values() if pairs), default=0)
    page = render(
        "training.html",
        epoch=last,
        epochs=epochs,
        best=best_epoch(points),
        charts=curve_charts(points),
        settings=settings or {},
        groups=[("Training", [roi_view(e) for e in sampled]), ("Validation", [roi_view(e) for e in validated])],
    )
    write_text(path, page)

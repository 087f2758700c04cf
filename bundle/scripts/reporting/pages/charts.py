"""Line charts as numbers that a template draws as SVG, which stays sharp in print and takes the page's colors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

from scripts.data.ribfrac import KEY_FALSE_POSITIVES
from scripts.metrics.froc import ScanResult, bootstrap_intervals, detection_scores

__all__ = ["Axis", "Chart", "Series", "froc_chart"]

WIDTH, HEIGHT = 560.0, 320.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 72.0, 12.0, 12.0, 44.0
_BOOTSTRAP = 1000  # draws, as in an evaluation


@dataclass(frozen=True)
class Axis:
    """
    One axis of a chart.

    Args:
        label: what it shows, with its unit.
        low: value at its start.
        high: value at its end.
        logarithmic: whether equal ratios are equal lengths; both ends are above 0 then.
        ticks: values that are named; chosen where none are given.
    """

    label: str
    low: float
    high: float
    logarithmic: bool = False
    ticks: Sequence[float] = ()

    def share(self, value: float) -> float:
        """Return where a value lies between the ends, 0 to 1; values beyond an end lie on it."""
        low, high, place = self.low, self.high, min(max(value, self.low), self.high)
        if self.logarithmic:
            low, high, place = (math.log10(number) for number in (low, high, place))
        return (place - low) / (high - low)

    def named(self) -> list[tuple[float, str]]:
        """Return the values that are named, and their names."""
        locator = LogLocator() if self.logarithmic else MaxNLocator(6)
        ticks = list(self.ticks) or [float(tick) for tick in locator.tick_values(self.low, self.high)]
        inside = [tick for tick in ticks if self.low - 1e-12 <= tick <= self.high * (1 + 1e-9)]
        return [(tick, f"{tick:g}") for tick in inside]


@dataclass(frozen=True)
class Series:
    """
    What is drawn.

    Args:
        name: in the legend.
        kind: ``line``, ``dots`` or ``band``; the points of a band go once around it.
        points: pairs of x and y.
    """

    name: str
    kind: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """
    A chart; a template draws it by its pixels.

    Args:
        title: what a reader who does not see it is told.
        x: the axis to the right.
        y: the axis up.
        series: what is drawn, the first one below.
    """

    title: str
    x: Axis
    y: Axis
    series: list[Series] = field(default_factory=list)

    width = WIDTH
    height = HEIGHT
    left, top = _LEFT, _TOP
    right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM

    def at_x(self, value: float) -> float:
        """Return the pixel of a value along x."""
        return round(self.left + self.x.share(value) * (self.right - self.left), 1)

    def at_y(self, value: float) -> float:
        """Return the pixel of a value along y."""
        return round(self.bottom - self.y.share(value) * (self.bottom - self.top), 1)

    def pixels(self, series: Series) -> list[tuple[float, float]]:
        """Return the pixels of the points of a series that are numbers."""
        return [(self.at_x(x), self.at_y(y)) for x, y in series.points if np.isfinite([x, y]).all()]


def froc_chart(results: Sequence[ScanResult]) -> tuple[Chart, dict[str, object]]:
    """
    Draw the FROC curve of a run.

    Args:
        results: what each scan adds, one at least.

    Returns:
        The chart; and the challenge's numbers: ``average_recall``, its 95 % ``interval`` where it is defined,
        ``max_recall``, and ``key_recall`` as pairs of false positives per scan and recall.
    """
    scores = detection_scores(results)
    fp, recall = np.array(scores["fp"]), np.array(scores["recall"])
    order = np.lexsort((recall, fp))
    key_recall = list(zip(KEY_FALSE_POSITIVES, scores["key_recall"]))
    series = [
        Series("thresholds 0, 0.01 … 0.99", "line", list(zip(fp[order].tolist(), recall[order].tolist()))),
        Series("the challenge's five points", "dots", key_recall),
    ]
    intervals = bootstrap_intervals(results, _BOOTSTRAP, 0)
    numbers: dict[str, object] = {
        "average_recall": scores["average_recall"],
        "interval": None if intervals is None else intervals["average_recall"],
        "max_recall": scores["max_recall"],
        "key_recall": key_recall,
    }
    if intervals is not None:
        curve = intervals["curve"]
        upper, lower = (list(zip(curve["fp"], curve[f"recall_{end}"])) for end in ("upper", "lower"))
        series.insert(0, Series("95 % interval (bootstrap over scans)", "band", [*upper, *reversed(lower)]))
    chart = Chart(
        "Recall against false alarms per scan (FROC)",
        Axis("false alarms per scan", 0, KEY_FALSE_POSITIVES[-1], ticks=(0, *KEY_FALSE_POSITIVES)),
        Axis("recall (share of fractures found)", 0, 1),
        series,
    )
    return chart, numbers

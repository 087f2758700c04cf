"""Line charts as numbers that a template draws as SVG, which stays sharp in print and takes the page's colors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator

__all__ = ["Axis", "Chart", "Series"]

WIDTH, HEIGHT = 560.0, 320.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 84.0, 12.0, 12.0, 44.0


@dataclass(frozen=True)
class Axis:
    """
    One axis of a chart.

    Args:
        label: what it shows, with its unit.
        low: value at its start.
        high: value at its end.
        logarithmic: whether equal ratios are equal lengths; both ends are above 0 then.
        whole: whether whole numbers alone are named.
    """

    label: str
    low: float
    high: float
    logarithmic: bool = False
    whole: bool = False

    def share(self, value: float) -> float:
        """Return where a value lies between the ends, 0 to 1; values beyond an end lie on it."""
        low, high, place = self.low, self.high, min(max(value, self.low), self.high)
        if self.logarithmic:
            low, high, place = (math.log10(number) for number in (low, high, place))
        return (place - low) / (high - low)

    def named(self) -> list[tuple[float, str]]:
        """Return the values that are named, and their names."""
        locators = (
            [LogLocator(), LogLocator(subs=(1, 2, 5))] if self.logarithmic else [MaxNLocator(6, integer=self.whole)]
        )
        for locator in locators:
            ticks = [float(tick) for tick in locator.tick_values(self.low, self.high)]
            inside = [tick for tick in ticks if self.low - 1e-12 <= tick <= self.high * (1 + 1e-9)]
            if len(inside) > 2:  # few powers of 10 tell no scale
                break
        return [(tick, f"{tick:g}") for tick in inside]


@dataclass(frozen=True)
class Series:
    """
    A line.

    Args:
        name: in the legend.
        points: pairs of x and y.
    """

    name: str
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
        mark: a value of x that is marked, and its name.
    """

    title: str
    x: Axis
    y: Axis
    series: list[Series] = field(default_factory=list)
    mark: tuple[float, str] | None = None

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

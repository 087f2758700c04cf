"""The figures of matplotlib as SVG inside a page, in the page's colors."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import matplotlib

from scripts.data.ribfrac import KEY_FALSE_POSITIVES
from scripts.reporting.figures import BLUE, VERMILION, froc_figure

__all__ = ["FROCDrawing", "froc_drawing"]

# Colors of the figure, and those of the page's style, which are others in the dark and in print. Black text has none.
_PAGE_COLORS = {
    "#000000": "var(--ink)",
    "#ffffff": "var(--paper)",
    "#b0b0b0": "var(--line)",  # the grid
    "#cccccc": "var(--line)",  # the frame of the legend
    BLUE.lower(): "var(--curve)",
    VERMILION.lower(): "var(--curve-2)",
}


@dataclass(frozen=True)
class FROCDrawing:
    """
    A FROC curve to stand in a page.

    Args:
        svg: what stands between the tags of an ``svg`` element.
        width: of the drawing, and
        height: of it, in the units of its coordinates.
        left: where 0 false positives per scan lie.
        right: where ``most`` lie.
        top: where the recall is 1.
        bottom: where it is 0.
        most: the most false positives per scan that have a place.
    """

    svg: str
    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    most: float = KEY_FALSE_POSITIVES[-1]


def froc_drawing(details: Mapping[str, Any]) -> FROCDrawing:
    """
    Draw the FROC curve of ``froc.png`` for a page.

    Args:
        details: scores as `scripts.metrics.challenge_scores` gives them.

    Returns:
        The drawing: the same for the same scores, byte for byte.
    """
    figure, text = froc_figure(details), io.StringIO()
    for words in figure.axes[0].texts:
        words.set_path_effects([])  # matplotlib would draw such words as outlines; the page's style gives them a rim
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "froc"}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    width, height = (float(inches) * 72 for inches in figure.get_size_inches())  # as points, matplotlib's unit in SVG
    corners = figure.axes[0].transData.transform([(0, 0), (KEY_FALSE_POSITIVES[-1], 1)])
    (left, bottom), (right, top) = figure.transFigure.inverted().transform(corners)
    places = (left * width, right * width, (1 - top) * height, (1 - bottom) * height)
    return FROCDrawing(_inside(text.getvalue()), *(round(float(number), 2) for number in (width, height, *places)))


def _inside(svg: str) -> str:
    """Return what stands in an SVG file, in short and in the page's colors, without rules for the whole page."""
    body = svg[svg.index(">", svg.index("<svg")) + 1 : svg.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    used = set(re.findall(r"#([\w-]+)", body))
    body = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", body)
    body = re.sub(r"#[0-9a-f]{6}\b", lambda found: _PAGE_COLORS.get(found[0], found[0]), body)
    body = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", body)
    # numbers in tags to hundredths of a point; those in words stay
    body = re.sub(r"<[^>]*>", lambda tag: re.sub(r"\d+\.\d{3,}", lambda n: f"{float(n[0]):.2f}", tag[0]), body)
    return re.sub(r"\s*\n\s*", " ", body)

"""Places for names beside outlines on a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["Box", "NamePlaces", "written"]

_LETTER_EM = 0.7  # width of a bold letter
_FROM_OUTLINE_MM = 2.0
_FARTHEST = 3.0  # heights of a name: farther from its outline nobody would tell which one it names
# As macros.html draws them: the way from an edge to its letter and to the bar, of the height of a letter; and the bar.
_EDGE_SHARE, _BAR_MM = 0.8, 50.0
# What a name costs: a whole one that it covers, as much of an outline, and a height of it away from its outline.
_COST_OF_NAME, _COST_OF_OUTLINE, _COST_OF_WAY = 40.0, 2.0, 0.5


class Box(NamedTuple):
    """Edges of what is on a picture, mm from its upper left corner."""

    left: float
    top: float
    right: float
    bottom: float


class NamePlaces:
    """
    Find for each name the place beside its outline, on its right or its left, where it covers the least.

    No name is cut. Where there is room it covers neither another name nor an outline; in a crowd it may.

    Args:
        width_mm: of the picture.
        height_mm: of the picture.
        text_mm: height of a letter.
        taken: what is written on the picture already.
        outlines: boxes of all outlines.
    """

    def __init__(
        self, width_mm: float, height_mm: float, text_mm: float, taken: Iterable[Box], outlines: Iterable[Box]
    ) -> None:
        self.width_mm = width_mm
        self.height_mm = height_mm
        self.text_mm = text_mm
        self.taken = list(taken)
        self.outlines = list(outlines)

    def take(self, outline: Box, letters: int) -> tuple[tuple[float, float], bool]:
        """
        Take the place for a name.

        Args:
            outline: what it names, one of the outlines.
            letters: of the name.

        Returns:
            Where its middle line starts, mm, or where it ends; and whether it ends there, to the left of its outline.
        """
        _, place, ends, box = min(self._choices(outline, letters), key=lambda choice: choice[0])
        self.taken.append(box)
        return place, ends

    def _choices(self, outline: Box, letters: int) -> Iterable[tuple[float, tuple[float, float], bool, Box]]:
        """Yield what each place costs, the place, its side, and the box of the name there."""
        text_mm, width_mm = self.text_mm, _LETTER_EM * self.text_mm * letters
        middle, lowest = (outline.top + outline.bottom) / 2, max(self.height_mm - text_mm / 2, text_mm / 2)
        right, left = outline.right + _FROM_OUTLINE_MM, outline.left - _FROM_OUTLINE_MM
        sides = [(right, False)] if right + width_mm <= self.width_mm else []
        sides += [(left, True)] if left >= width_mm or not sides else []
        for half_heights in range(int(2 * _FARTHEST) + 1):
            for sign in (1, -1):
                y = float(np.clip(middle + sign * half_heights * text_mm / 2, text_mm / 2, lowest))
                for x, ends in sides:
                    start = x - width_mm if ends else x
                    box = Box(start, y - text_mm / 2, start + width_mm, y + text_mm / 2)
                    cost = _COST_OF_NAME * _covered(box, self.taken) + _COST_OF_OUTLINE * _covered(box, self.outlines)
                    yield cost + _COST_OF_WAY * abs(y - middle) / text_mm, (x, y), ends, box


def written(width_mm: float, height_mm: float, text_mm: float, edges: Sequence[str]) -> list[Box]:
    """Return where the letters at the edges of a projection stand, and its bar; see ``View``."""
    edge_mm, half_mm = _EDGE_SHARE * text_mm, text_mm / 2
    places = [(edge_mm, height_mm / 2), (width_mm - edge_mm, height_mm / 2)]
    places += [(width_mm / 2, edge_mm), (width_mm / 2, height_mm - edge_mm)]
    boxes = [Box(edge_mm, height_mm - edge_mm - 1, edge_mm + _BAR_MM, height_mm - edge_mm + 1)]
    for letter, (x, y) in zip(edges, places):
        reach_mm = _LETTER_EM * text_mm * len(letter) / 2
        boxes.append(Box(x - reach_mm, y - half_mm, x + reach_mm, y + half_mm))
    return boxes


def _covered(box: Box, others: list[Box]) -> float:
    """Return how much of a box others cover: 1 for all of it once."""
    corners = np.reshape(others, (-1, 4)).astype(float)
    across = np.minimum(corners[:, 2], box.right) - np.maximum(corners[:, 0], box.left)
    down = np.minimum(corners[:, 3], box.bottom) - np.maximum(corners[:, 1], box.top)
    area = (box.right - box.left) * (box.bottom - box.top)
    return float((across.clip(0) * down.clip(0)).sum() / area)

"""The FROC curve in a page: the one of froc.png, in the page's colors, with a place for the threshold."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from scripts.metrics.froc import ScanResult, challenge_scores
from scripts.reporting.pages.drawings import FROCDrawing, froc_drawing


def details(draws: int = 0) -> dict[str, Any]:
    """All fractures of one scan are found at no false positive, none of the other: recall 0.5 everywhere."""
    ones, codes = np.ones(2, int), np.full(2, -1)
    found = ScanResult(ones, codes, np.full(2, 0.9), np.array([0, 1]), np.full(2, 0.9), 10, 10, 5)
    missed = ScanResult(ones, codes, np.full(2, 0.4), codes, np.zeros(2), 10, 10, 0)
    return challenge_scores([found, missed], bootstrap=draws)


@pytest.fixture(scope="module")
def drawing() -> FROCDrawing:
    return froc_drawing(details(draws=5))


def test_it_is_the_same_each_time(drawing: FROCDrawing) -> None:
    assert froc_drawing(details(draws=5)) == drawing
    assert len(drawing.svg) < 20_000


def test_the_five_points_lie_where_the_threshold_would_put_them(drawing: FROCDrawing) -> None:
    dots = re.findall(r'<use xlink:href="[^"]*" x="([\d.]+)" y="([\d.]+)" style="fill: var\(--curve-2\)', drawing.svg)
    middle = (drawing.top + drawing.bottom) / 2
    places = [(drawing.left + (drawing.right - drawing.left) * fp / 8, middle) for fp in (0.5, 1, 2, 4, 8)]
    assert np.array(dots, dtype=float)[:5] == pytest.approx(np.array(places), abs=0.05)


def test_its_words_are_text_and_its_numbers_whole(drawing: FROCDrawing) -> None:
    words = re.findall(r"<text [^>]*>([^<]*)</text>", drawing.svg)
    assert words.count("0.500") == 5 and "false positives per scan" in words
    assert any(word.startswith("FROC: average recall 0.500") for word in words)


def test_it_takes_the_colors_of_the_page_and_sets_no_rule_for_it(drawing: FROCDrawing) -> None:
    assert set(re.findall(r"#[0-9a-f]{6}\b", drawing.svg)) == {"#56b4e9"}  # the interval, seen on light and dark
    assert not re.search(r"<style|<metadata|<\?xml|<svg", drawing.svg)
    ids, used = (set(re.findall(pattern, drawing.svg)) for pattern in (r' id="([^"]*)"', r"#([\w-]+)"))
    assert ids == used - {"56b4e9"}  # none that the page might have, too


@pytest.mark.parametrize("draws", [0, 5])
def test_the_interval_is_drawn_where_there_is_one(draws: int) -> None:
    assert ("95 % interval" in froc_drawing(details(draws)).svg) == bool(draws)

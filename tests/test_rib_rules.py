"""Tests of benchmarks/rib_rules.py: what is told of a candidate, and what a rule does to the score."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rib_cages import made_cage

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rib_rules import RULES, rib_features, rule_figures  # noqa: E402


def row(score: float, fracture: int, least_mm: float, known: bool = True) -> dict[str, Any]:
    """A candidate that hits a fracture, or none (-1)."""
    return {"score": score, "fracture": fracture, "overlap": 0.5 * (fracture >= 0), "known": known} | dict.fromkeys(
        ("least_mm", "median_mm", "center_mm"), least_mm
    )


def test_what_is_told_of_a_candidate() -> None:
    cage = made_cage([("left", number) for number in range(3, 11)])
    # the straight part of a rib begins at y = 0, 70 mm times a quarter of a circle from the spine, and ends at y = 60
    on_rib = rib_features(np.array([[-70.0, 30.0, 55.0]]), cage)
    assert on_rib["least_mm"] < 2.0  # the middle of a voxel
    assert (on_rib["beyond_mm"], on_rib["number"], on_rib["known"]) == (0.0, 9, True)
    assert on_rib["from_spine_mm"] == pytest.approx(70 * np.pi / 2 + 30, abs=2.0)
    ahead = rib_features(np.array([[-70.0, 80.0, 55.0]]), cage)
    assert ahead["beyond_mm"] == pytest.approx(20.0)
    assert ahead["least_mm"] == pytest.approx(15.0, abs=3.0)  # the end is round, and voxels have 2.5 mm


def test_nothing_is_told_without_ribs() -> None:
    assert rib_features(np.zeros((1, 3)), made_cage([])) == {}


def test_a_rule_drops_what_is_far_and_known() -> None:
    scan = {
        "fractures": 2,
        "candidates": [row(0.9, 0, 0.0), row(0.8, 1, 6.0), row(0.7, -1, 6.0), row(0.6, -1, 6.0, False)],
    }
    figures = rule_figures([scan], RULES["nearest voxel > 5 mm"])
    assert (figures["found"], figures["false"]) == (1, 1.0)
    figures = rule_figures([scan], RULES["none"])
    assert (figures["found"], figures["false"], figures["average_recall"]) == (2, 2.0, 1.0)


def test_a_rule_that_halves_scores_drops_none() -> None:
    scan = {"fractures": 1, "candidates": [row(0.9, 0, 6.0), row(0.8, -1, 0.0)]}
    figures = rule_figures([scan], RULES["nearest voxel > 5 mm, score halved"])
    assert (figures["found"], figures["all_found"], figures["all_false"]) == (0, 1, 1.0)

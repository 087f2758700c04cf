"""The part of the chest wall by axillary lines, on rib cages whose lines follow from their shape."""

from __future__ import annotations

import numpy as np
import pytest
from rib_cages import made_cage

from scripts.anatomy.rib_cage import Rib, RibCage
from scripts.anatomy.straight_ribs import straight_ribs
from scripts.description.chest_part import axillary_lines

PLANE = np.array([1.0, 0.0, 0.0, 0.0])


def hoops(turn_degrees: float = 0.0, sides=("left", "right"), numbers=range(3, 9)):
    """Round ribs of 100 mm about the origin, turned about the long axis; from behind to the front."""
    ribs = []
    for side in sides:
        sign = 1.0 if side == "right" else -1.0
        angle = np.radians(np.arange(-85.0, 85.1, 1.0))
        for order, number in enumerate(numbers, start=1):
            x, y = sign * 100 * np.cos(angle), 100 * np.sin(angle)
            turn = np.radians(turn_degrees)
            points = np.column_stack(
                [x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn), 0 * x - 20.0 * order]
            )
            ribs.append(Rib(side, number, order, 0.9, points, True, True))
    return straight_ribs(RibCage(np.zeros((1, 1, 1), np.uint8), np.eye(4), tuple(ribs)))


def test_lines_of_round_ribs():
    # outward is at a right angle to the rib: a round wall of 100 mm faces 45 degrees ahead at 100 · sin 45° = 70.7 mm
    lines = axillary_lines(hoops(), PLANE)
    assert set(lines) == {"left", "right"}
    for side in lines.values():
        assert side.anterior_mm == pytest.approx(70.7, abs=1.5) == -side.posterior_mm
        assert [side.part((0.0, y, 0.0)) for y in (75.0, 0.0, -75.0)] == ["anterior", "lateral", "posterior"]


def test_on_a_line_is_lateral():
    side = axillary_lines(hoops(), PLANE)["left"]
    assert side.part(side.ahead * side.anterior_mm) == side.part(side.ahead * side.posterior_mm) == "lateral"
    assert side.part(side.ahead * (side.anterior_mm + 0.1)) == "anterior"
    assert side.part(side.ahead * (side.posterior_mm - 0.1)) == "posterior"


def test_a_patient_who_lies_turned_has_turned_lines():
    turn = 20.0
    plane = np.array([np.cos(np.radians(turn)), np.sin(np.radians(turn)), 0.0, 0.0])
    one, other = axillary_lines(hoops(), PLANE)["right"], axillary_lines(hoops(turn), plane)["right"]
    assert other.anterior_mm == pytest.approx(one.anterior_mm, abs=1.0)
    assert other.ahead @ one.ahead == pytest.approx(np.cos(np.radians(turn)), abs=1e-6)


@pytest.mark.parametrize(
    "ribs, plane, sides",
    [
        pytest.param({"sides": ("left",)}, PLANE, {"left", "right"}, id="the other side has the lines of the one"),
        pytest.param({"numbers": (3, 4)}, PLANE, set(), id="two ribs are too few"),
        pytest.param({"numbers": (1, 2, 9, 10, 11)}, PLANE, set(), id="the middle ribs are not in the scan"),
        pytest.param({"numbers": (3, 4, 5)}, PLANE, {"left", "right"}, id="three ribs are enough"),
        pytest.param({"numbers": [None] * 6}, PLANE, {"left", "right"}, id="ribs without numbers: those in the middle"),
        pytest.param({}, np.full(4, np.nan), set(), id="no plane"),
    ],
)
def test_what_lines_need(ribs, plane, sides):
    assert set(axillary_lines(hoops(**ribs), plane)) == sides


def test_ribs_that_turn_nowhere_have_no_lines():
    assert axillary_lines(straight_ribs(made_cage([])), PLANE) == {}

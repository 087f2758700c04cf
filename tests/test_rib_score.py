"""What the fractures of a scan are together, counted on paper, with every edge of each rule."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from scripts.description.rib_score import RIB_SCORE_ITEMS, chest_facts


@dataclass(frozen=True)
class One:
    """A fracture; by default of the left sixth rib, lateral, and nothing special."""

    rib_number: int | None = 6
    rib_side: str = "left"
    side: str = "left"
    rib_order: int | None = 6
    part: str = "lateral"
    displacement: str = "undisplaced"
    type: str = "nondisplaced"


def on(number: int | None, side: str = "left", **more: str) -> One:
    return One(number, side, side, number, **more)


OFF = {"rib_number": None, "rib_order": None, "rib_side": ""}  # on no rib
NO_NUMBER = {"rib_number": None, "rib_order": 4}
TWICE = [on(4), on(4), on(5), on(5), on(6), on(6)]


def test_a_chest_without_fractures():
    facts = chest_facts([])
    assert (facts.fractures, facts.ribs_right, facts.ribs_left, facts.rib_score) == (0, 0, 0, 0)
    assert (facts.highest_rib, facts.lowest_rib) == ("", "")
    assert not any(getattr(facts, item) for item in ("flail_right", "flail_left", *RIB_SCORE_ITEMS))


@pytest.mark.parametrize(
    "fractures, right, left",
    [
        pytest.param([on(3), on(3), on(4)], 0, 2, id="two on one rib are one rib"),
        pytest.param([on(3), on(3, "right"), on(9, "right")], 2, 1, id="the third on either side are two"),
        pytest.param([on(3), One(rib_number=None, rib_order=7)], 0, 2, id="a rib without a number is one"),
        pytest.param([on(3), One(**OFF, side="right")], None, 1, id="off all ribs on the right"),
        pytest.param([on(3), One(**OFF, side="")], None, None, id="off all ribs, side unknown"),
    ],
)
def test_fractured_ribs(fractures, right, left):
    facts = chest_facts(fractures)
    assert (facts.ribs_right, facts.ribs_left) == (right, left)


@pytest.mark.parametrize(
    "fractures, highest, lowest",
    [
        pytest.param([on(7)], "7", "7", id="one"),
        pytest.param([on(9), on(2, "right"), on(4)], "2", "9", id="of both sides together"),
        pytest.param([on(9), One(**NO_NUMBER)], "unknown", "unknown", id="one without a number"),
        pytest.param([on(9), One(**OFF)], "unknown", "unknown", id="one on no rib"),
    ],
)
def test_highest_and_lowest_rib(fractures, highest, lowest):
    facts = chest_facts(fractures)
    assert (facts.highest_rib, facts.lowest_rib) == (highest, lowest)


@pytest.mark.parametrize(
    "fractures, left",
    [
        pytest.param(TWICE, True, id="three consecutive ribs, each twice"),
        pytest.param(TWICE[:-1], False, id="the third rib once"),
        pytest.param([on(4), on(4), on(5), on(5), on(7), on(7)], False, id="a rib between them is whole"),
        pytest.param([on(n, type="segmental") for n in (4, 5, 6)], True, id="a segmental fracture is two breaks"),
        pytest.param([on(n, type="segmental") for n in (10, 11, 12)], True, id="the last three ribs"),
        pytest.param([on(n, type="segmental") for n in (1, 2, 3)], True, id="the first three ribs"),
        pytest.param([on(4), on(4), on(5), on(5), on(6, "right"), on(6, "right")], False, id="on different sides"),
        pytest.param([*TWICE[:-1], on(6, type="")], True, id="one of unknown type is one break for sure"),
        pytest.param([*TWICE[:-2], on(6, type="")], None, id="one of unknown type decides"),
        pytest.param([*TWICE[:-1], One(**NO_NUMBER)], None, id="one on a rib without a number decides"),
        pytest.param([*TWICE[:-2], One(**NO_NUMBER)], False, id="one break on an unknown rib is too few"),
        pytest.param([*TWICE[:-2], One(**NO_NUMBER, type="segmental")], None, id="two breaks on an unknown rib"),
        pytest.param([*TWICE[:-1], One(**OFF, side="right")], False, id="off all ribs on the other side"),
        pytest.param([*TWICE[:-1], One(**OFF, side="")], None, id="off all ribs, side unknown"),
    ],
)
def test_flail_segment(fractures, left):
    facts = chest_facts(fractures)
    assert facts.flail_left is left
    mirrored = [
        One(**{**one.__dict__, "side": _other(one.side), "rib_side": _other(one.rib_side)}) for one in fractures
    ]
    assert chest_facts(mirrored).flail_right is left
    assert facts.flail_chest is (True if True in (left, facts.flail_right) else left)


def _other(side: str) -> str:
    return {"left": "right", "right": "left", "": ""}[side]


def spread(count: int, **more: str) -> list[One]:
    """So many fractures, each of a rib of its own, from the second on."""
    return [on(number, **more) for number in range(2, 2 + count)]


@pytest.mark.parametrize(
    "item, fractures, answer",
    [
        pytest.param("six_fractures", spread(5), False, id="five fractures"),
        pytest.param("six_fractures", spread(6), True, id="six fractures"),
        pytest.param("six_fractures", [One(**OFF)] * 6, True, id="six on no rib"),
        pytest.param("bilateral", [on(3), on(9)], False, id="one side"),
        pytest.param("bilateral", [on(3), on(9, "right")], True, id="both sides"),
        pytest.param("bilateral", [on(3), One(**OFF, side="")], None, id="one side unknown"),
        pytest.param("bilateral", [on(3), on(4, "right"), One(**OFF, side="")], True, id="both, and one unknown"),
        pytest.param("bilateral", [on(3), One(side="right")], False, id="the side of the rib counts"),
        pytest.param("three_displaced", spread(2, displacement="displaced"), False, id="two displaced"),
        pytest.param("three_displaced", spread(3, displacement="displaced"), True, id="three displaced"),
        pytest.param("three_displaced", spread(9, displacement="offset"), False, id="nine offset"),
        pytest.param(
            "three_displaced",
            [*spread(2, displacement="displaced"), on(9, displacement="")],
            None,
            id="two displaced, one not measurable",
        ),
        pytest.param(
            "three_displaced",
            [on(8, displacement="displaced"), on(9, displacement="")],
            False,
            id="one displaced, one not measurable",
        ),
        pytest.param("first_rib", [on(2)], False, id="the second rib"),
        pytest.param("first_rib", [on(2), on(1, "right")], True, id="a first rib"),
        pytest.param("first_rib", [on(0)], False, id="a cervical rib"),
        pytest.param("first_rib", [on(2), One(**NO_NUMBER)], None, id="a rib without a number"),
        pytest.param("first_rib", [on(1), One(**NO_NUMBER)], True, id="a first rib and one without a number"),
        pytest.param("three_areas", [on(2, part="anterior"), on(3)], False, id="two areas"),
        pytest.param(
            "three_areas", [on(2, part="anterior"), on(3), on(9, "right", part="posterior")], True, id="three areas"
        ),
        pytest.param("three_areas", [on(2, part="anterior"), on(3), on(4, part="")], None, id="two areas, one unknown"),
        pytest.param("three_areas", [on(3), on(4, part="")], False, id="one area, one unknown"),
        pytest.param("three_areas", [on(3), on(4, part=""), on(5, part="")], None, id="one area, two unknown"),
    ],
)
def test_items_of_the_rib_score(item, fractures, answer):
    assert getattr(chest_facts(fractures), item) is answer


def test_rib_score():
    # six fractures, three of them displaced, in three areas, a first rib, both sides; no flail segment: 5 points
    fractures = [
        on(1, part="anterior", displacement="displaced"),
        on(2, displacement="displaced"),
        on(3, part="posterior", displacement="displaced"),
        *(on(number, "right") for number in (4, 5, 6)),
    ]
    facts = chest_facts(fractures)
    assert [getattr(facts, item) for item in RIB_SCORE_ITEMS] == [True, True, False, True, True, True]
    assert facts.rib_score == 5
    # with each of the last three in two places there is one: 6 points
    assert chest_facts([*fractures, *fractures[3:]]).rib_score == 6
    # one on no rib may be on any: nothing of the five is lost, but whether there is a flail segment
    some = chest_facts([*fractures, *fractures[3:5], One(**OFF, side="right", part="")])
    assert (some.flail_chest, some.rib_score) == (None, None)

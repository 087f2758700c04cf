"""
What the fractures of a scan are together: ribs, flail segments, and the six items of the RibScore.

Each fact follows from the fractures that count alone. Where one of them lacks a number that the fact needs, and this
number could change it, the fact is unknown (None). These are facts about what was found, no clinical judgment.

References:
    Chapman et al. (2016), The RibScore: a novel radiographic score based on fracture pattern that predicts pneumonia,
    respiratory failure, and tracheostomy, J Trauma Acute Care Surg 80(1):95-101: the six items.
    Edwards et al. (2020), J Trauma Acute Care Surg 88(2):e40-e45: a flail segment is three or more consecutive ribs,
    each broken in two or more places.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["FLAIL_RIBS", "RIB_SCORE_ITEMS", "SIDES", "ChestFacts", "FractureFacts", "chest_facts"]

FLAIL_RIBS = 3
FLAIL_BREAKS = 2
MANY_FRACTURES = 6
MANY_DISPLACED = 3
SIDES = ("right", "left")
PARTS = ("anterior", "lateral", "posterior")
RIB_SCORE_ITEMS = ("six_fractures", "bilateral", "flail_chest", "three_displaced", "first_rib", "three_areas")


class FractureFacts(Protocol):
    """What is read of a fracture; :class:`scripts.candidates.Candidate` has it."""

    @property
    def side(self) -> str: ...
    @property
    def rib_side(self) -> str: ...
    @property
    def rib_number(self) -> int | None: ...
    @property
    def rib_order(self) -> int | None: ...
    @property
    def part(self) -> str: ...
    @property
    def displacement(self) -> str: ...
    @property
    def type(self) -> str: ...


@dataclass(frozen=True)
class ChestFacts:
    """
    Facts about all fractures of a scan; None is unknown.

    Args:
        fractures: how many there are; one that is segmental counts once.
        ribs_right: fractured ribs on the right.
        ribs_left: fractured ribs on the left.
        highest_rib: number of the highest fractured rib, 1 to 12; empty without fractures, ``unknown`` where a rib has
            no number.
        lowest_rib: likewise, of the lowest one.
        flail_right: whether three or more consecutive ribs on the right are each broken in two or more places.
        flail_left: likewise on the left.
        six_fractures: whether there are six fractures or more.
        bilateral: whether ribs of both sides are fractured.
        flail_chest: whether there is a flail segment on either side.
        three_displaced: whether three fractures or more are displaced without contact of their stubs.
        first_rib: whether a first rib is fractured.
        three_areas: whether each of the parts anterior, lateral and posterior has a fracture.
        rib_score: how many of the last six are true, 0 to 6; None where one is unknown.
    """

    fractures: int
    ribs_right: int | None
    ribs_left: int | None
    highest_rib: str
    lowest_rib: str
    flail_right: bool | None
    flail_left: bool | None
    six_fractures: bool | None
    bilateral: bool | None
    flail_chest: bool | None
    three_displaced: bool | None
    first_rib: bool | None
    three_areas: bool | None
    rib_score: int | None


def chest_facts(fractures: Sequence[FractureFacts]) -> ChestFacts:
    """
    Tell what the fractures of a scan are together.

    Args:
        fractures: those that count.

    Returns:
        The facts.
    """
    flail = {side: _flail(fractures, side) for side in SIDES}
    items = {
        "six_fractures": len(fractures) >= MANY_FRACTURES,
        "bilateral": _all_of(_any_of(_is(_side(one), side) for one in fractures) for side in SIDES),
        "flail_chest": _any_of(flail.values()),
        "three_displaced": _at_least(MANY_DISPLACED, (_is(one.displacement, "displaced") for one in fractures)),
        "first_rib": _any_of(_is_first(one) for one in fractures),
        "three_areas": _three_areas([one.part for one in fractures]),
    }
    known = [item for item in items.values() if item is not None]
    numbers = [one.rib_number for one in fractures]
    return ChestFacts(
        fractures=len(fractures),
        ribs_right=_ribs(fractures, "right"),
        ribs_left=_ribs(fractures, "left"),
        highest_rib=_extreme(numbers, 0),
        lowest_rib=_extreme(numbers, -1),
        flail_right=flail["right"],
        flail_left=flail["left"],
        **items,
        rib_score=sum(known) if len(known) == len(items) else None,
    )


def _side(fracture: FractureFacts) -> str:
    """Return the side of a fracture's rib, or where it lies on none its own; empty where that is not known."""
    return fracture.rib_side or fracture.side


def _is(word: str, wanted: str) -> bool | None:
    return word == wanted if word else None


def _is_first(fracture: FractureFacts) -> bool | None:
    return None if fracture.rib_number is None else fracture.rib_number == 1


def _any_of(answers: Iterable[bool | None]) -> bool | None:
    return _at_least(1, answers)


def _all_of(answers: Iterable[bool | None]) -> bool | None:
    all_answers = list(answers)
    return False if False in all_answers else (None if None in all_answers else True)


def _at_least(count: int, answers: Iterable[bool | None]) -> bool | None:
    """Whether so many answers are true; None where those that are unknown decide."""
    counter = Counter(answers)
    if counter[True] >= count:
        return True
    return None if counter[True] + counter[None] >= count else False


def _three_areas(parts: Sequence[str]) -> bool | None:
    """Whether all parts occur; each that is unknown could be one that lacks."""
    lacking = len(set(PARTS) - set(parts))
    return lacking == 0 or (None if sum(not part for part in parts) >= lacking else False)


def _ribs(fractures: Sequence[FractureFacts], side: str) -> int | None:
    """Count the fractured ribs of a side; None where a fracture that may be on it lies on no known rib."""
    if any(one.rib_order is None and _side(one) in ("", side) for one in fractures):
        return None
    return len({one.rib_order for one in fractures if one.rib_side == side})


def _extreme(numbers: Sequence[int | None], place: int) -> str:
    """Return the number at a place of the known ones in order; ``unknown`` where one is not known."""
    known = sorted(number for number in numbers if number is not None)
    if len(known) < len(numbers):
        return "unknown"
    return str(known[place]) if known else ""


def _flail(fractures: Sequence[FractureFacts], side: str) -> bool | None:
    """
    Whether three or more consecutive ribs of a side are each broken in two or more places.

    A segmental fracture is two breaks. One of unknown type is one break, and perhaps two; one whose rib or number is
    unknown may be on any rib.
    """
    sure: Counter[int] = Counter()
    perhaps: Counter[int] = Counter()
    anywhere = 0
    for one in fractures:
        if _side(one) not in ("", side):
            continue
        breaks = 2 if one.type == "segmental" else 1
        if one.rib_number is None or not _side(one):
            anywhere += 2 if not one.type else breaks
        else:
            sure[one.rib_number] += breaks
            perhaps[one.rib_number] += 0 if one.type else 1
    best: bool | None = False
    for first in range(1, 14 - FLAIL_RIBS):
        ribs = range(first, first + FLAIL_RIBS)
        if all(sure[rib] >= FLAIL_BREAKS for rib in ribs):
            return True
        lacking = sum(max(0, FLAIL_BREAKS - sure[rib] - perhaps[rib]) for rib in ribs)
        best = None if lacking <= anywhere else best
    return best

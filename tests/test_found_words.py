"""What was found in a scan, as one sentence."""

from __future__ import annotations

import pytest

from scripts.candidates import Candidate
from scripts.description.rib_score import chest_facts
from scripts.reporting.found_words import found_words


def on_rib(side: str, number: int | None, order: int = 1, kind: str = "buckle") -> Candidate:
    zeros = (0, 0, 0)
    rib = {"rib_side": side, "rib_number": number, "rib_order": order}
    return Candidate(1, 0.5, 9.0, side, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), zeros, zeros, 4.0, type=kind, **rib)


def on_side(side: str) -> Candidate:
    return Candidate(1, 0.5, 9.0, side, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), (0, 0, 0), (0, 0, 0), 4.0)


@pytest.mark.parametrize(
    "candidates, words",
    [
        pytest.param([], "No possible fracture", id="none"),
        pytest.param([on_side("left")], "1 possible fracture: 1 on the left", id="ribs unknown"),
        pytest.param(
            [on_side("right"), on_side(""), on_side("right")],
            "3 possible fractures: 2 on the right, 1 of unknown side",
            id="a side unknown",
        ),
        pytest.param(
            [*(on_rib("left", number) for number in (6, 4, 5, 8, 6)), on_rib("right", 3)],
            "6 possible fractures: left ribs 4-6 and 8, right rib 3",
            id="ribs in runs",
        ),
        pytest.param(
            [on_rib("left", None, 2), on_rib("left", None, 2), on_rib("right", None, 2), on_side("left")],
            "4 possible fractures: 2 ribs of unknown number, 1 on no rib",
            id="numbers unknown",
        ),
    ],
)
def test_the_sentence_names_the_ribs_as_far_as_they_are_known(candidates: list[Candidate], words: str) -> None:
    assert found_words(candidates) == words


@pytest.mark.parametrize(
    "candidates, flail",
    [
        pytest.param([on_rib("left", number) for number in (4, 5, 6)], "no", id="one break each"),
        pytest.param([on_rib("left", number) for number in (4, 5, 6, 4, 5, 6)], "left", id="two breaks each"),
        pytest.param(
            [on_rib(side, n) for side in ("left", "right") for n in (4, 5, 6) * 2], "left and right", id="both"
        ),
        pytest.param([on_rib("left", number, kind="") for number in (4, 5, 6)], "unknown", id="types unknown"),
    ],
)
def test_the_sentence_tells_a_flail_segment(candidates: list[Candidate], flail: str) -> None:
    assert found_words(candidates, chest_facts(candidates)).endswith(f"; flail segment: {flail}")

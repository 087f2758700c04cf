"""Tests of numbering ribs, with hand-made courses of ribs in a chest without a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from scripts.anatomy.rib_frame import ChestFrame
from scripts.anatomy.rib_numbering import CHILD, ODD, UNSURE, Numbering, number_parts, number_ribs
from scripts.anatomy.rib_tracking import Track

STEP_MM = np.array([1.5, 1.5, 1.5])
CANAL_MM = (150.0, 60.0)
LEFT, RIGHT = -1, 1
# A chest of middle size: where each rib passes 36 mm beside the canal, mm above the passage of the twelfth, and how far
# ahead of the canal; its greatest distance from the midline. The tips of the lungs are 7 mm below the first passage.
HEIGHT_MM = (265.0, 248.0, 228.0, 207.0, 185.0, 161.0, 136.0, 110.0, 84.0, 57.0, 30.0, 0.0)
AHEAD_MM = (8.0, -4.0, -10.0, -11.0, -12.0, -12.0, -12.0, -12.0, -12.0, -12.0, -12.0, -10.0)
REACH_MM = (72.0, 104.0, 120.0, 128.0, 134.0, 138.0, 141.0, 144.0, 144.0, 140.0, 128.0, 95.0)
TIP_MM = 258.0
ALL = tuple(range(1, 13))


def chest(
    tips_mm: tuple[float, float] = (TIP_MM, TIP_MM), above_mm: float = 45.0, below_mm: float = 60.0
) -> ChestFrame:
    """A frame from so far below the passage of the twelfth rib to so far above that of the first; no voxels count."""
    depth = round((below_mm + HEIGHT_MM[0] + above_mm) / STEP_MM[2]) + 1
    empty = np.zeros((1, 1, depth), dtype=np.float32)
    return ChestFrame(
        step=STEP_MM,
        first=np.zeros(3),
        hu=empty,
        bone=empty > 0,
        weight=empty,
        outside_mm=empty,
        canal=np.tile(CANAL_MM, (depth, 1)),
        lung_tops_mm=(tips_mm[0] + below_mm, tips_mm[1] + below_mm),
        lung_bases_mm=(30.0, 30.0),
    )


def course(side: int, number: int, below_mm: float = 60.0, lower_mm: float = 0.0) -> Track:
    """Half a circle from 24 mm beside the canal outward and back, level, which passes 36 mm beside it at its height."""
    height = below_mm + HEIGHT_MM[number - 1] - lower_mm
    reach, ahead = REACH_MM[number - 1], AHEAD_MM[number - 1]
    start = np.arange(24.0, 48.0, 2.0)
    turn = np.radians(np.linspace(-90.0, 75.0, 60))
    lateral = np.concatenate([start, 48.0 + (reach - 48.0) * np.cos(turn)])
    forward = np.concatenate([np.full(len(start), ahead), ahead + 60.0 + 60.0 * np.sin(turn)])
    return track_of(side, lateral, forward, height)


def stub(side: int, height_mm: float, length_mm: float = 24.0) -> Track:
    """A short straight track behind the canal that is none of a rib's."""
    lateral = np.arange(30.0, 30.0 + length_mm + 1.0, 2.0)
    return track_of(side, lateral, np.full(len(lateral), -12.0), height_mm)


def track_of(side: int, lateral: np.ndarray, forward: np.ndarray, height_mm: float) -> Track:
    points = np.column_stack([CANAL_MM[0] + side * lateral, CANAL_MM[1] + forward, np.full(len(lateral), height_mm)])
    return Track(side, points, np.ones(len(points), dtype=bool), "gap")


def both_sides(left: Sequence[int] = ALL, right: Sequence[int] = ALL, below_mm: float = 60.0) -> list[Track]:
    """Courses of these ribs of each side, shuffled: they come in no order."""
    tracks = [course(side, number, below_mm) for side, own in ((LEFT, left), (RIGHT, right)) for number in own]
    return [tracks[i] for i in np.random.default_rng(0).permutation(len(tracks))]


def numbers_of(numbering: Numbering, tracks: Sequence[Track], side: int) -> list[int | None]:
    """The numbers of the ribs of a side, from above."""
    return [number for i, number in numbering.numbers.items() if tracks[i].side == side]


@pytest.fixture(scope="module")
def whole() -> tuple[list[Track], Numbering]:
    """All 24 ribs, and their numbers."""
    tracks = both_sides()
    return tracks, number_ribs(chest(), tracks)


def test_a_whole_cage_is_numbered_from_one_to_twelve(whole: tuple[list[Track], Numbering]) -> None:
    tracks, found = whole
    for side in (LEFT, RIGHT):
        assert numbers_of(found, tracks, side) == list(ALL)
    assert found.notes == ()
    assert min(found.confidence.values()) > 0.95 and max(found.confidence.values()) <= 1.0


def test_ribs_come_left_before_right_and_from_above(whole: tuple[list[Track], Numbering]) -> None:
    tracks, found = whole
    order = list(found.numbers)
    assert [tracks[i].side for i in order] == [LEFT] * 12 + [RIGHT] * 12
    heights = [tracks[i].points[0, 2] for i in order]
    assert heights[:12] == heights[12:] == sorted(heights[:12], reverse=True)


@pytest.mark.parametrize("missed", [4, 10])
def test_a_missed_rib_in_the_middle_is_skipped(missed: int) -> None:
    seen = [number for number in ALL if number != missed]
    tracks = both_sides(left=seen)
    found = number_ribs(chest(), tracks)
    assert numbers_of(found, tracks, LEFT) == seen
    assert numbers_of(found, tracks, RIGHT) == list(ALL)
    assert found.notes == (f"rib {missed} on the left was not found",)


@pytest.mark.parametrize("height_mm", [155.0, 275.0], ids=["between 8 and 9", "between 3 and 4"])
def test_a_short_track_between_ribs_is_none_of_a_rib(height_mm: float) -> None:
    tracks = [*both_sides(), stub(RIGHT, height_mm)]
    found = number_ribs(chest(), tracks)
    assert len(tracks) - 1 not in found.numbers
    assert numbers_of(found, tracks, RIGHT) == list(ALL)
    assert found.notes == ()


def test_without_the_tips_of_the_lungs_the_last_rib_tells_the_others() -> None:
    """The scan begins 5 mm above the passage of the fourth rib; the spine goes on 60 mm below the twelfth."""
    tracks = both_sides(range(4, 13), range(4, 13))
    above_mm = HEIGHT_MM[3] + 5.0 - HEIGHT_MM[0]
    found = number_ribs(chest(tips_mm=(212.0, 212.0), above_mm=above_mm), tracks)
    for side in (LEFT, RIGHT):
        assert numbers_of(found, tracks, side) == list(range(4, 13))


def test_without_the_last_rib_the_tips_of_the_lungs_tell_the_others() -> None:
    """The scan ends 12 mm below the passage of the eighth rib."""
    below_mm = 12.0 - HEIGHT_MM[7]
    tracks = both_sides(range(1, 9), range(1, 9), below_mm)
    found = number_ribs(chest(below_mm=below_mm), tracks)
    for side in (LEFT, RIGHT):
        assert numbers_of(found, tracks, side) == list(range(1, 9))


def test_without_first_and_last_rib_none_has_a_number() -> None:
    """Fourth to eighth rib: neither a tip of a lung nor what is below the twelfth rib is in the scan."""
    below_mm, above_mm = 12.0 - HEIGHT_MM[7], HEIGHT_MM[3] + 5.0 - HEIGHT_MM[0]
    top = HEIGHT_MM[3] + 5.0
    tracks = both_sides(range(4, 9), range(4, 9), below_mm)
    found = number_ribs(chest((top, top), above_mm, below_mm), tracks)
    assert len(found.numbers) == 10 and set(found.numbers.values()) == {None}
    assert found.notes == (UNSURE,)


def test_a_side_without_a_tip_is_numbered_by_its_ribs_and_the_other_side() -> None:
    """An effusion hides the tip of the right lung; the scan ends below the eighth rib."""
    below_mm = 12.0 - HEIGHT_MM[7]
    tracks = both_sides(range(1, 9), range(1, 9), below_mm)
    found = number_ribs(chest((TIP_MM, np.nan), below_mm=below_mm), tracks)
    for side in (LEFT, RIGHT):
        assert numbers_of(found, tracks, side) == list(range(1, 9))


def test_sides_that_disagree_are_never_numbered_wrong() -> None:
    """
    The right lung is said to end a rib lower than the left one, as where a tumor fills its apex, and the first right
    rib was missed: alone, the right side would begin with 1.
    """
    below_mm = 12.0 - HEIGHT_MM[7]
    tracks = both_sides(range(1, 9), range(2, 9), below_mm)
    found = number_ribs(chest((TIP_MM, TIP_MM - 17.0), below_mm=below_mm), tracks)
    for side, first in ((LEFT, 1), (RIGHT, 2)):
        pairs = zip(numbers_of(found, tracks, side), range(first, 9), strict=True)
        assert all(number in (None, true) for number, true in pairs)
    assert numbers_of(found, tracks, LEFT) == list(range(1, 9))


def test_a_side_without_ribs_is_told() -> None:
    tracks = both_sides(right=())
    found = number_ribs(chest(), tracks)
    assert numbers_of(found, tracks, LEFT) == list(ALL)
    assert found.notes == ("no rib was found on the right",)


def test_no_twelfth_rib_is_told() -> None:
    tracks = both_sides(range(1, 12), range(1, 12))
    found = number_ribs(chest(below_mm=60.0), tracks)
    for side in (LEFT, RIGHT):
        assert numbers_of(found, tracks, side) == list(range(1, 12))
    assert found.notes == ("no twelfth rib was found on the left", "no twelfth rib was found on the right")


@pytest.mark.parametrize("length_mm", [30.0, 100.0])
def test_a_track_below_the_twelfth_rib_shifts_no_number(length_mm: float) -> None:
    """A lumbar rib, a transverse process or a calcified vessel a pitch below; the spine goes on 60 mm below that."""
    below_mm = 94.0
    tracks = [*both_sides(below_mm=below_mm), stub(LEFT, 60.0, length_mm)]
    found = number_ribs(chest(below_mm=below_mm), tracks)
    assert numbers_of(found, tracks, LEFT)[:12] == list(ALL) == numbers_of(found, tracks, RIGHT)
    assert found.numbers.get(len(tracks) - 1) in (None, 13)


def test_the_ribs_of_a_child_have_no_numbers() -> None:
    """Everything has 0.6 times the size: no distance is that of an adult."""
    tracks = [Track(t.side, t.points * 0.6, t.found, t.end) for t in both_sides()]
    frame = replace(chest((0.6 * TIP_MM - 24.0,) * 2), canal=chest().canal * 0.6)
    found = number_ribs(frame, tracks)
    assert set(found.numbers.values()) == {None}
    assert found.notes in ((CHILD,), (ODD,))


def test_tracks_that_are_no_cage_have_no_numbers() -> None:
    """Eight tracks a side, 9 mm apart: half of what ribs are, with both ends of a cage in view."""
    tracks = [course(side, 6, lower_mm=9.0 * i - 36.0) for side in (LEFT, RIGHT) for i in range(8)]
    found = number_ribs(chest(tips_mm=(190.0, 190.0)), tracks)
    assert set(found.numbers.values()) <= {None}
    assert any(note.startswith("ribs without a number: ") for note in found.notes)


def test_no_tracks_have_no_numbers() -> None:
    found = number_ribs(chest(), [])
    assert found.numbers == {} == found.confidence


def front(side: int, number: int) -> Track:
    """A rib without its first 60 mm."""
    track = course(side, number)
    return replace(track, points=track.points[30:], found=track.found[30:], has_head=False)


@pytest.mark.parametrize(
    "side, numbers, part, expected",
    [
        pytest.param(LEFT, {5: 5, 7: 7}, 6, 6, id="one is missing"),
        pytest.param(LEFT, {5: None, 7: 7}, 6, None, id="no number above"),
        pytest.param(LEFT, {4: 4, 7: 7}, 5, None, id="two are missing"),
        pytest.param(LEFT, {5: 5, 6: 6}, 7, None, id="nothing below"),
        pytest.param(RIGHT, {5: 5, 7: 7}, 6, None, id="the other side"),
    ],
)
def test_a_part_has_the_number_that_is_missing(
    side: int, numbers: dict[int, int | None], part: int, expected: int | None
) -> None:
    tracks = [course(LEFT, number) for number in numbers]
    assert number_parts(tracks, dict(enumerate(numbers.values())), [front(side, part)]) == [expected]


def test_parts_of_one_rib_do_not_share_its_number() -> None:
    tracks, parts = [course(LEFT, 5), course(LEFT, 7)], [front(LEFT, 6), front(LEFT, 6)]
    assert number_parts(tracks, {0: 5, 1: 7}, parts) == [6, None]
    short = replace(course(LEFT, 6), points=course(LEFT, 6).points[:12], found=course(LEFT, 6).found[:12])
    assert number_parts([*tracks, short], {0: 5, 1: 7, 2: 6}, parts) == [None, None]

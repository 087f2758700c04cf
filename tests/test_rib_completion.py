"""Tests of finding what tracks have lost of the ribs, in a small made-up chest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial import cKDTree

from scripts.anatomy.rib_completion import complete_ribs
from scripts.anatomy.rib_frame import ChestFrame
from scripts.anatomy.rib_tracking import Track, follow_ribs
from tests.rib_frames import CANAL_MM, HEIGHTS_MM, frame_of, gap, line

UPPER, MIDDLE, LOWER = (line(1, height) for height in HEIGHTS_MM)
BEGINS_MM, BREAK_MM = 60.0, 15.0  # a break so far along the middle rib, and as long


def broken(down_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """The middle rib's parts behind and in front of a break, the front one moved down."""
    left = gap(MIDDLE, BEGINS_MM, BREAK_MM)
    at = int(np.linalg.norm(np.diff(left, axis=0), axis=1).argmax()) + 1
    return left[:at], left[at:] - [0.0, 0.0, down_mm]


def covered(course: Track, line_mm: np.ndarray) -> float:
    """Share of a line that a course runs along."""
    return float((cKDTree(course.points).query(line_mm)[0] < 3.0).mean())


def test_a_rib_goes_on_in_front_of_a_displaced_fracture() -> None:
    behind, front = broken(12.0)
    frame = frame_of([UPPER, behind, front, LOWER])
    tracks = follow_ribs(frame)
    whole, parts = complete_ribs(frame, tracks)
    of_middle = int(np.argmax([covered(track, behind) for track in tracks]))
    assert covered(tracks[of_middle], front) < 0.2 and len(whole) == 3 and not parts
    assert covered(whole[of_middle], front) > 0.85 and covered(whole[of_middle], behind) > 0.85
    steps = np.linalg.norm(np.diff(whole[of_middle].points, axis=0), axis=1)
    assert steps.max() < 4.0 and whole[of_middle].has_head and not whole[of_middle].found.all()
    assert [whole[i] is tracks[i] for i in range(3) if i != of_middle] == [True, True]


def test_a_rib_without_a_back_end_is_a_part_of_its_own() -> None:
    front = gap(MIDDLE, -1.0, 70.0)
    frame = frame_of([UPPER, front, LOWER])
    tracks = follow_ribs(frame)
    whole, (part,) = complete_ribs(frame, tracks)
    assert [one is track for one, track in zip(whole, tracks)] == [True, True]
    assert covered(part, front) > 0.85 and part.side == 1 and not part.has_head
    assert part.points[0, 1] < part.points[-1, 1]  # forward


def far_outside(frame: ChestFrame) -> ChestFrame:
    return replace(frame, outside_mm=frame.outside_mm + 20.0)


@pytest.mark.parametrize(
    "front, change",
    [
        pytest.param(gap(MIDDLE, -1.0, 70.0), far_outside, id="a scapula"),
        pytest.param(gap(MIDDLE, -1.0, 100.0), None, id="too short"),
        pytest.param(
            np.column_stack([np.full(140, CANAL_MM[0] + 84.0), np.full(140, 64.0), np.linspace(2.0, 92.0, 140)]),
            None,
            id="across the ribs",
        ),
    ],
)
def test_what_is_no_rib_is_left(front: np.ndarray, change: None) -> None:
    behind = gap(MIDDLE, 30.0, 400.0)
    frame = frame_of([UPPER, behind, front, LOWER] if change else [UPPER, front, LOWER])
    tracks = follow_ribs(frame)
    whole, parts = complete_ribs(change(frame) if change else frame, tracks)
    assert parts == [] and [one is track for one, track in zip(whole, tracks)] == [True] * len(tracks)


def test_whole_ribs_stay_as_they_are() -> None:
    frame = frame_of([line(side, height) for side in (-1, 1) for height in HEIGHTS_MM])
    tracks = follow_ribs(frame)
    whole, parts = complete_ribs(frame, tracks)
    assert parts == [] and [one is track for one, track in zip(whole, tracks)] == [True] * 6


def test_without_bone_nothing_is_found() -> None:
    assert complete_ribs(frame_of([]), []) == ([], [])

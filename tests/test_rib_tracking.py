"""Tests of following ribs, in a small made-up frame: bent tubes of bone beside a straight canal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.spatial import cKDTree

from scripts.anatomy.rib_tracking import Track, follow_ribs
from tests.rib_frames import CANAL_MM, HEIGHTS_MM, frame_of, gap, line

SIDES = (-1, 1)

Six = tuple[dict[tuple[int, float], np.ndarray], list[Track]]


def nearest(tracks: Sequence[Track], truth: np.ndarray) -> Track:
    """The track that begins nearest to where a rib begins."""
    return min(tracks, key=lambda track: float(np.linalg.norm(track.points[0] - truth[0])))


def away_mm(track: Track, truth: np.ndarray) -> np.ndarray:
    return np.asarray(cKDTree(truth).query(track.points)[0])


def length_mm(points: np.ndarray) -> float:
    return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())


@pytest.fixture(scope="module")
def six() -> Six:
    """Three ribs a side, and what is followed."""
    lines = {(side, height): line(side, height) for side in SIDES for height in HEIGHTS_MM}
    return lines, follow_ribs(frame_of(list(lines.values())))


def test_every_rib_is_followed_once(six: Six) -> None:
    lines, tracks = six
    assert sorted(track.side for track in tracks) == [-1, -1, -1, 1, 1, 1]
    starts = {key: nearest([t for t in tracks if t.side == key[0]], points) for key, points in lines.items()}
    assert len({id(track) for track in starts.values()}) == 6


def test_tracks_run_along_the_middle_of_their_ribs(six: Six) -> None:
    lines, tracks = six
    for (side, _), points in lines.items():
        track = nearest([track for track in tracks if track.side == side], points)
        assert np.median(away_mm(track, points)) < 1.0
        assert track.length_mm == pytest.approx(length_mm(points), abs=12)
        assert track.found.all() and track.has_head


def test_tracks_begin_at_the_spine(six: Six) -> None:
    for track in six[1]:
        beside = np.abs(track.points[[0, -1], 0] - CANAL_MM[0])
        assert beside[0] < 30 < beside[1]


@pytest.mark.parametrize("missing_mm, is_crossed", [(20.0, True), (65.0, False)])
def test_a_short_gap_is_crossed_and_a_long_one_is_not(missing_mm: float, is_crossed: bool) -> None:
    """A fracture of the middle of three ribs, 60 mm along it; round ends leave 10 mm less without bone."""
    lines = {height: line(1, height) for height in HEIGHTS_MM}
    whole = lines[HEIGHTS_MM[1]]
    broken = gap(whole, 60.0, missing_mm)
    track = nearest(follow_ribs(frame_of([lines[HEIGHTS_MM[0]], broken, lines[HEIGHTS_MM[2]]])), whole)
    assert np.median(away_mm(track, whole)) < 1.5
    if is_crossed:
        assert track.length_mm == pytest.approx(length_mm(whole), abs=12)
        assert not track.found.all()
    else:
        assert track.length_mm == pytest.approx(65.0, abs=8)
        assert track.end == "gap"


def test_a_rib_that_leaves_the_scan_ends_at_its_border() -> None:
    """The lowest one falls by 16 mm from 8 mm above the lower border."""
    tracks = follow_ribs(frame_of([line(1, 8.0)]))
    assert [track.end for track in tracks] == ["border"]
    assert tracks[0].points[:, 2].min() >= 0


def test_a_rib_whose_back_end_is_missing_is_not_followed() -> None:
    """Its first 70 mm are outside, as in a view that cuts the back."""
    assert follow_ribs(frame_of([gap(line(1, 50.0), -1.0, 70.0)])) == []


def test_without_bone_nothing_is_followed() -> None:
    assert follow_ribs(frame_of([])) == []

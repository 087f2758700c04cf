"""Tests of following ribs, in a small made-up frame: bent tubes of bone beside a straight canal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.spatial import cKDTree

from scripts.anatomy.rib_frame import ChestFrame
from scripts.anatomy.rib_tracking import Track, follow_ribs

STEP_MM = np.array([1.5, 1.5, 1.5])
SHAPE = (140, 90, 64)  # 208 x 134 x 94 mm
CANAL_MM = (104.0, 36.0)
RADIUS_MM = 5.0
SIDES = (-1, 1)
HEIGHTS_MM = (74.0, 50.0, 26.0)

Six = tuple[dict[tuple[int, float], np.ndarray], list[Track]]


def line(side: int, top_mm: float) -> np.ndarray:
    """
    A rib that leaves the column 22 mm beside the canal, bends to the front 84 mm beside it and falls by 16 mm.

    Half a millimeter apart; behind, it passes 12 mm behind the canal.
    """
    out = np.arange(22.0, 50.0, 0.5)
    turn = np.radians(np.linspace(-90.0, 60.0, 240))
    lateral = np.concatenate([out, 50.0 + 34.0 * np.cos(turn)])
    ahead = np.concatenate([np.full(len(out), -12.0), 28.0 + 40.0 * np.sin(turn)])
    down = np.linspace(0.0, 16.0, len(lateral))
    return np.column_stack([CANAL_MM[0] + side * lateral, CANAL_MM[1] + ahead, top_mm - down])


def frame_of(lines: Sequence[np.ndarray]) -> ChestFrame:
    """Tubes of bone along these lines; the lungs end above and below the frame."""
    places = np.argwhere(np.ones(SHAPE, dtype=bool)) * STEP_MM
    bone = np.zeros(SHAPE, dtype=bool)
    if lines:
        bone = (cKDTree(np.concatenate(lines)).query(places)[0] <= RADIUS_MM).reshape(SHAPE)
    return ChestFrame(
        step=STEP_MM,
        first=np.zeros(3),
        hu=np.where(bone, 600.0, 40.0).astype(np.float32),
        bone=bone,
        weight=bone.astype(np.float32),
        outside_mm=np.zeros(SHAPE, dtype=np.float32),
        canal=np.tile(CANAL_MM, (SHAPE[2], 1)),
        lung_tops_mm=(96.0, 96.0),
        lung_bases_mm=(0.0, 0.0),
    )


def gap(points: np.ndarray, from_mm: float, length_mm: float) -> np.ndarray:
    """Take a piece out of a line."""
    way = np.arange(len(points)) * 0.0
    way[1:] = np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))
    return points[(way < from_mm) | (way > from_mm + length_mm)]


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

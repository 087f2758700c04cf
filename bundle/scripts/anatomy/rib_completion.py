"""Find what tracks have lost of the ribs, such as the part in front of a displaced fracture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from scripts.anatomy.rib_frame import ChestFrame
from scripts.anatomy.rib_tracking import STEP_MM, Guide, Track, directions, free_courses

__all__ = ["complete_ribs"]

# A part lies so far from all tracks, and is so long: half of it where it goes on a track. So much of it is bone.
APART_MM = 6.0
MIN_LENGTH_MM = 60.0
MIN_FOUND = 0.85
# A scapula lies farther outside of the lungs' hull.
MAX_OUTSIDE_MM = 10.0
# Tracks run beside so many of its points, in a direction that differs so little.
MIN_GUIDED = 0.5
MAX_ASTRAY_DEGREES = 35.0
# It goes on a track that ends so near to where it begins, with no turn sharper than this. Fragments lie up to 26 mm
# apart, and the last of a track may have gone astray.
MAX_GAP_MM = 40.0
MAX_TURN_DEGREES = 50.0
MAX_ASTRAY_POINTS = 12
DIRECTION_POINTS = 5


def complete_ribs(
    frame: ChestFrame, tracks: Sequence[Track], fragments: Sequence[Track] = ()
) -> tuple[list[Track], list[Track]]:
    """
    Find what tracks have lost of the ribs.

    It is bone in the wall of the chest, off all tracks, that runs parallel to those beside.

    Args:
        frame: the chest.
        tracks: the ribs that begin at the spine.
        fragments: those that enter the scan from above.

    Returns:
        The tracks in their order, gone on with what follows where they end; and the other parts, without a head, the
        longest first.
    """
    whole, guide = list(tracks), Guide(tracks)
    parts: list[Track] = []
    courses = free_courses(frame, [*tracks, *fragments], (-1, 1))
    for course in sorted(courses, key=lambda course: -len(course.points)):
        part = _off_tracks(course, [*whole, *fragments, *parts])
        if part is None or part.length_mm < MIN_LENGTH_MM / 2 or not _is_of_rib(frame, part, guide):
            continue
        joined = {i: found for i, track in enumerate(whole) if (found := _gone_on(track, part)) is not None}
        if joined:
            nearest = min(joined, key=lambda i: joined[i][1])
            whole[nearest] = joined[nearest][0]
        elif part.length_mm >= MIN_LENGTH_MM:
            parts.append(part)
    return whole, parts


def _off_tracks(course: Track, tracks: Sequence[Track]) -> Track | None:
    """Return the longest stretch of a course that lies off all tracks of its side, from bone to bone."""
    others = [track.points for track in tracks if track.side == course.side]
    is_off = np.ones(len(course.points), dtype=bool)
    if others:
        is_off = cKDTree(np.concatenate(others)).query(course.points)[0] > APART_MM
    stretches, count = ndimage.label(is_off)
    if not count:
        return None
    at = np.flatnonzero((stretches == np.bincount(stretches[is_off]).argmax()) & course.found)
    if not len(at):
        return None
    first, last = int(at[0]), int(at[-1])
    end = course.end if last == len(course.points) - 1 else "turn"
    return replace(course, points=course.points[first : last + 1], found=course.found[first : last + 1], end=end)


def _is_of_rib(frame: ChestFrame, part: Track, guide: Guide) -> bool:
    """Tell whether a part is bone, lies in the wall, and runs as the tracks beside."""
    if len(part.points) < 2 or part.found.mean() < MIN_FOUND:
        return False
    if np.median(frame.outside_at(part.points)) > MAX_OUTSIDE_MM:
        return False
    ways = guide.at(part.points)
    is_guided = ways.any(axis=1)
    if is_guided.mean() < MIN_GUIDED:
        return False
    along = (directions(part.points) * ways).sum(axis=1)[is_guided]
    return bool(np.median(along) >= np.cos(np.radians(MAX_ASTRAY_DEGREES)))


def _gone_on(track: Track, part: Track) -> tuple[Track, float] | None:
    """Return a track gone on with a part, and what that costs: the gap, and what is cut off; None where it does not."""
    if track.side != part.side:
        return None
    best: tuple[Track, float] | None = None
    ahead = directions(part.points)[:DIRECTION_POINTS].mean(axis=0)
    along = directions(track.points)
    for end in range(max(len(track.points) - MAX_ASTRAY_POINTS, 2 * DIRECTION_POINTS), len(track.points) + 1):
        gap = part.points[0] - track.points[end - 1]
        gap_mm = float(np.linalg.norm(gap))
        before = along[end - DIRECTION_POINTS : end].mean(axis=0)
        cost = gap_mm + STEP_MM * (len(track.points) - end) / 2
        is_sharp = min(gap @ before, gap @ ahead) < np.cos(np.radians(MAX_TURN_DEGREES)) * gap_mm
        if gap_mm > MAX_GAP_MM or is_sharp or (best is not None and cost >= best[1]):
            continue
        steps = max(1, round(gap_mm / STEP_MM))
        between = track.points[end - 1] + gap * (np.arange(1, steps) / steps)[:, None]
        points = np.concatenate([track.points[:end], between, part.points])
        found = np.concatenate([track.found[:end], np.zeros(len(between), dtype=bool), part.found])
        best = replace(track, points=points, found=found, end=part.end), cost
    return best

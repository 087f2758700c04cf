"""Tell which rib is which: the first by their shape and the lungs' tips, the last by what is below, all by order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from scripts.anatomy.rib_cage import CERVICAL, LUMBAR, RIBS_PER_SIDE
from scripts.anatomy.rib_frame import ChestFrame
from scripts.anatomy.rib_tracking import TIP_MM, Track

__all__ = ["Numbering", "gap_below", "number_fragments", "number_parts", "number_ribs"]

# Mean and standard deviation, rib by rib from the first, of 26 sides of 13 chest CT numbered by eye (the public scans
# that the documentation lists), and wide enough for the phantoms, whose first ribs pass lower and farther behind.
# "Passage" is where a rib passes 36 mm beside the canal.
# From a passage to the next, mm, in the sagittal plane.
_PITCH_MM = np.array([18, 20, 21, 22, 24, 25, 26, 26, 27, 30, 32, 34], dtype=float)
_PITCH_SD = np.array([5, 5, 5, 4, 4, 4, 4, 4, 5, 6, 8, 9], dtype=float)
# How much farther ahead a rib passes than the next one, mm: the first two pass beside the canal, the others behind.
_AHEAD_MM = np.array([12, 6, 1, 1, 0, 0, 0, 0, 0, 0, -2, -2], dtype=float)
_AHEAD_SD = np.array([8, 6, 5, 4, 4, 4, 4, 4, 4, 4, 5, 6], dtype=float)
# Greatest distance from the midline, as a share of the next rib's.
_REACH = np.array([0.68, 0.86, 0.93, 0.95, 0.96, 0.97, 0.97, 0.98, 1.02, 1.08, 1.35, 1.4])
_REACH_SD = np.array([0.07, 0.05, 0.04, 0.04, 0.04, 0.04, 0.04, 0.05, 0.05, 0.08, 0.2, 0.4])
# Height of the passages above the tip of the lung, mm.
_ABOVE_TIP_MM = np.array([7, -4, -22, -42], dtype=float)
_ABOVE_TIP_SD = np.array([8, 9, 9, 10], dtype=float)
# The last rib is in the scan where so much of the spine is below it.
BASE_PITCHES = 1.25
# How likely it is, as a natural logarithm, that a rib is overlooked; that there is one more or one fewer than twelve;
# that one more is found above the first.
MISSED = -5.0
# That a track is none of a rib: one of 30 mm, and one of 90 mm or more.
SPURIOUS = (-3.0, -9.0)
SPURIOUS_MM = (30.0, 90.0)
MAX_DROPPED = 3  # at the lower end of a side: kidneys lie there
NO_RIB = -1
ELEVEN, THIRTEEN = -3.0, -6.0
EXTRA_ABOVE = -7.0
MAX_EXTRA_MM = 70.0  # a cervical or lumbar rib is short
LEAN = 0.5
# A feature that is farther off counts as so many standard deviations.
MAX_DEVIATION = 2.5
MAX_PITCH_DEVIATION = 4.0  # so that twice the distance tells of an overlooked rib
# A patient is so much smaller or larger than those measured.
_SCALES = np.array([0.8, 0.87, 0.94, 1.0, 1.07, 1.15, 1.24])
_SCALE_SD = 0.12
# Left and right ribs of a number pass at the same height, but for a bent spine.
SIDES_SD_MM = 7.0
# A number is told where all others together are less likely than this.
MAX_DOUBT = 0.05
# The likeliest way scored -0.2 to -1.8 a rib in 14 chests of adults and in phantoms whose ribs were followed well, -2.3
# and less where half of the ribs were missed.
MIN_SCORE = -2.1
# Neighbors lie 15 to 40 mm below one another at the side of the chest; two ribs pass a common place where they come so
# near to each other from above, at so many points.
MAX_GAP_BELOW_MM = 45.0
COMMON_MM = 14.0
MIN_COMMON = 5
# Half of the chest's width at ribs 4 and below: 104 mm and more in these adults.
MIN_HALF_WIDTH_MM = 90.0
CHILD_REACH = 4
CHILD = "ribs without a number: the chest is smaller than an adult's"
ODD = "ribs without a number: their distances and shapes fit no way of counting"
UNSURE = "ribs without a number: the scan shows neither the first nor the last rib surely enough"


@dataclass(frozen=True)
class Numbering:
    """
    The numbers of the ribs of both sides.

    Args:
        numbers: of each track that is a rib, left before right, each side from above; None where they are unknown.
        confidence: of each of these tracks, that the number is right, in [0, 1].
        notes: what is missing or unusual.
    """

    numbers: dict[int, int | None]
    confidence: dict[int, float]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Side:
    """What is measured of the tracks of one side, from above."""

    tracks: list[int]
    height: NDArray[np.float64]
    ahead: NDArray[np.float64]
    reach: NDArray[np.float64]  # NaN where the track ends before its widest place
    length: NDArray[np.float64]
    spurious: NDArray[np.float64]
    tip: float  # NaN where the lung's tip is not in the scan
    has_base: bool


def _passage(frame: ChestFrame, track: Track) -> NDArray[np.float64]:
    """Return the point of a track 36 mm beside the canal, or the nearest to that on its first 60 mm."""
    start = track.points[:30]
    lateral = track.side * frame.from_canal(start)[:, 0]
    return np.asarray(start[np.abs(lateral - 36.0).argmin()])


def number_ribs(frame: ChestFrame, tracks: Sequence[Track]) -> Numbering:
    """
    Number the ribs of a scan.

    Every way to number the ribs of a side in order is weighed: by the distances and the shapes of ribs, by the height
    of the uppermost ones above the tips of the lungs, and by what is below the last one. Of all pairs of such ways
    the likeliest counts; a rib has a number where the others hardly ever give it another one.

    Args:
        frame: the chest.
        tracks: the ribs that begin at the spine.

    Returns:
        The numbers, by the index of the track.
    """
    sides = [_measure(frame, tracks, side) for side in (-1, 1)]
    ways = [_ways(side) for side in sides]
    pairs = [
        (left_score + right_score + _agreement(sides, left, right), left, right)
        for left_score, left in ways[0]
        for right_score, right in ways[1]
    ]
    scores = np.array([score for score, _, _ in pairs])
    share = np.exp(scores - scores.max())
    share /= share.sum()
    score, left, right = pairs[int(scores.argmax())]
    best = (left, right)
    reason = _refusal(sides, best, score)
    numbers: dict[int, int | None] = {}
    confidence = {}
    for index, (side, way) in enumerate(zip(sides, best)):
        for place, (track, number) in enumerate(zip(side.tracks, way)):
            if number != NO_RIB:
                agree = [(pair[1], pair[2])[index][place] == number for pair in pairs]
                confidence[track] = float(share[agree].sum())
                is_known = not reason and confidence[track] >= 1.0 - MAX_DOUBT
                numbers[track] = number if is_known else None
    notes = (reason or UNSURE,) if None in numbers.values() else _notes(sides, best)
    return Numbering(numbers, confidence, notes)


def number_fragments(
    tracks: Sequence[Track], numbers: Mapping[int, int | None], fragments: Sequence[Track]
) -> list[int | None]:
    """
    Number the ribs that enter the scan from above by the ribs below them.

    Args:
        tracks: the ribs that begin at the spine.
        numbers: their numbers, by index.
        fragments: the ribs whose back ends lie above the scan.

    Returns:
        The number of each fragment: each has that of the next rib below less one, where that rib is known and no
        farther below than ribs lie apart.
    """
    found: list[int | None] = [None] * len(fragments)
    for i in np.argsort([fragment.points[:, 2].mean() for fragment in fragments]):  # the lowest first
        below: list[tuple[float, int | None]] = []
        others = [(tracks[j], number) for j, number in numbers.items()]
        others += [(fragments[j], number) for j, number in enumerate(found) if number is not None]
        for other, number in others:
            if other.side == fragments[i].side and (gap := gap_below(fragments[i], other)) is not None:
                below.append((gap, number))
        if below:
            gap, number = min(below)
            if number is not None and 1 < number and gap <= MAX_GAP_BELOW_MM:
                found[i] = number - 1
    return found


def number_parts(
    tracks: Sequence[Track], numbers: Mapping[int, int | None], parts: Sequence[Track]
) -> list[int | None]:
    """
    Number the parts of ribs whose back ends were not found by the ribs beside them.

    Args:
        tracks: the ribs that begin at the spine, and those that enter the scan from above.
        numbers: their numbers, by index.
        parts: the parts.

    Returns:
        The number of each part: the one that is missing between the ribs above and below it; None without one.
    """
    found: list[int | None] = []
    for part in parts:
        own = [(tracks[i], number) for i, number in numbers.items() if tracks[i].side == part.side]
        below = [(gap, number) for track, number in own if (gap := gap_below(part, track)) is not None]
        above = [(gap, number) for track, number in own if (gap := gap_below(track, part)) is not None]
        lower, upper = (min(beside, default=(0.0, None), key=lambda one: one[0])[1] for beside in (below, above))
        is_between = lower is not None and upper is not None and lower - upper == 2
        number = upper + 1 if is_between and upper is not None else None
        taken = [one for _, one in own] + [one for other, one in zip(parts, found) if other.side == part.side]
        found.append(None if number in taken else number)
    return found


def gap_below(fragment: Track, other: Track) -> float | None:
    """Return how far below a fragment another rib of its side runs, mm; None where they pass no common place."""
    ahead = np.abs(fragment.points[:, None, :2] - other.points[None, :, :2]).sum(axis=2)
    nearest = ahead.argmin(axis=1)
    is_common = ahead[np.arange(len(nearest)), nearest] <= COMMON_MM
    if np.count_nonzero(is_common) < MIN_COMMON:
        return None
    gap = float(np.median(fragment.points[is_common, 2] - other.points[nearest[is_common], 2]))
    return gap if gap > 0 else None


def _refusal(sides: Sequence[_Side], ways: Sequence[Sequence[int]], score: float) -> str:
    """Say why no rib can have a number; empty where they can."""
    # distances between ribs alone do not tell which they are
    if all(np.isnan(side.tip) and not side.has_base for side in sides):
        return UNSURE
    numbered = [(n, reach) for side, way in zip(sides, ways) for n, reach in zip(way, side.reach) if n != NO_RIB]
    if score < MIN_SCORE * len(numbered):
        return ODD
    wide = [reach for number, reach in numbered if number >= CHILD_REACH and np.isfinite(reach)]
    return CHILD if wide and np.median(wide) < MIN_HALF_WIDTH_MM else ""


def _measure(frame: ChestFrame, tracks: Sequence[Track], side: int) -> _Side:
    own = [i for i, track in enumerate(tracks) if track.side == side]
    passages = {i: _passage(frame, tracks[i]) for i in own}
    # near the apex the wall leans forward, and the first ribs pass one before the other
    own.sort(key=lambda i: -passages[i][2] - LEAN * frame.from_canal(passages[i][None])[0, 1])
    points = np.array([passages[i] for i in own]).reshape(-1, 3)
    reach = []
    for i in own:
        lateral = side * frame.from_canal(tracks[i].points)[:, 0]
        is_past = lateral[-1] < lateral.max() - 6.0
        reach.append(float(lateral.max()) if is_past else np.nan)
    tip = frame.lung_tops_mm[0 if side < 0 else 1]
    if not tip <= frame.top_mm - TIP_MM:
        tip = np.nan
    has_base = bool(len(own)) and float(points[-1, 2]) > BASE_PITCHES * _PITCH_MM[-1]
    length = np.array([tracks[i].length_mm for i in own])
    spurious = np.interp(length, SPURIOUS_MM, SPURIOUS)
    ahead = frame.from_canal(points)[:, 1]
    return _Side(own, points[:, 2], ahead, np.array(reach), length, spurious, tip, has_base)


def _ways(side: _Side) -> list[tuple[float, tuple[int, ...]]]:
    """List the likeliest way to number a side from each first number, with its logarithmic likelihood."""
    count = len(side.tracks)
    if count == 0:
        return [(0.0, ())]
    ways: dict[tuple[int, ...], float] = {}
    for scale in _SCALES:
        prior = -(((scale - 1.0) / _SCALE_SD) ** 2) / 2

        @cache
        def step(j: int, i: int, above: int, number: int, scale: float = float(scale)) -> float:
            return _step(side, j, i, above, number, scale)

        for first in range(CERVICAL, LUMBAR + 1):
            found = _best_from(side, first, step)
            if found is not None:
                score, way = found
                ways[way] = max(ways.get(way, -np.inf), score + prior)
    return [(score, way) for way, score in ways.items()]


def _best_from(
    side: _Side, first: int, step: Callable[[int, int, int, int], float]
) -> tuple[float, tuple[int, ...]] | None:
    """
    Number a side from a first number on by dynamic programming.

    The next track has the next number, or numbers are skipped, or the track is none of a rib (NO_RIB).
    """
    count = len(side.tracks)
    best: list[dict[int, tuple[float, tuple[int, ...]]]] = []
    for i in range(count):
        here: dict[int, tuple[float, tuple[int, ...]]] = {}
        if i < 2:
            here[first] = (
                _start(side, first) + (side.spurious[0] if i else 0.0) + _at_tip(side, i, first),
                (NO_RIB,) * i + (first,),
            )
        for back in range(1, min(i, 2) + 1):
            for number, (score, way) in best[i - back].items():
                for new in range(number + 1, min(number + 3, LUMBAR) + 1):
                    total = score + (new - number - 1) * MISSED + (side.spurious[i - 1] if back == 2 else 0.0)
                    total += step(i - back, i, number, new) + _at_tip(side, i, new)
                    if new not in here or total > here[new][0]:
                        here[new] = (total, (*way, *(NO_RIB,) * (back - 1), new))
        best.append(here)
    ends = []
    for dropped in range(min(MAX_DROPPED, count - 1) + 1):  # the lowest tracks may be none of ribs
        spared = float(side.spurious[count - dropped :].sum())
        for number, (score, way) in best[count - 1 - dropped].items():
            ends.append((score + spared + _end(side, number, count - 1 - dropped), (*way, *(NO_RIB,) * dropped)))
    return max(ends) if ends else None


def _start(side: _Side, first: int) -> float:
    """Weigh that the uppermost rib found has this number."""
    if first == CERVICAL:
        return EXTRA_ABOVE if side.length[0] <= MAX_EXTRA_MM else -np.inf
    return 0.0 if np.isnan(side.tip) else (first - 1) * MISSED


def _end(side: _Side, last: int, track: int) -> float:
    """Weigh that the lowest rib found has this number."""
    if last == LUMBAR:
        return THIRTEEN if side.length[track] <= MAX_EXTRA_MM else -np.inf
    if not side.has_base:
        return 0.0
    missing = RIBS_PER_SIDE - last
    return 0.0 if missing == 0 else ELEVEN + (missing - 1) * MISSED


def _at_tip(side: _Side, i: int, number: int) -> float:
    """Weigh the height of a rib above the lung's tip."""
    if np.isnan(side.tip) or not 1 <= number <= len(_ABOVE_TIP_MM):
        return 0.0
    return _weigh(side.height[i] - side.tip, _ABOVE_TIP_MM[number - 1], _ABOVE_TIP_SD[number - 1])


def _step(side: _Side, j: int, i: int, above: int, number: int, scale: float) -> float:
    """Weigh what a rib and the one found above it have in common."""
    pitch_mm, pitch_sd, ahead_mm, ahead_sd, reach, reach_sd = _expected(above, number)
    down, ahead = (float(values[j] - values[i]) for values in (side.height, side.ahead))
    score = _weigh(float(np.hypot(down, ahead)), scale * pitch_mm, pitch_sd) + _weigh(ahead, ahead_mm, ahead_sd)
    share = side.reach[j] / side.reach[i]
    if np.isfinite(share):
        score += _weigh(float(share), reach, reach_sd)
    return score


@cache
def _expected(above: int, number: int) -> tuple[float, float, float, float, float, float]:
    """Return the distance of two ribs, how far the lower one lies ahead, and the ratio of their reach, each with SD."""
    between = np.clip(np.arange(above, number) - 1, 0, len(_PITCH_MM) - 1)
    return (
        float(_PITCH_MM[between].sum()),
        float(np.sqrt((_PITCH_SD[between] ** 2).sum())),
        float(_AHEAD_MM[between].sum()),
        float(np.sqrt((_AHEAD_SD[between] ** 2).sum())),
        float(_REACH[between].prod()),
        float(np.linalg.norm(_REACH_SD[between])),
    )


def _weigh(value: float, mean: float, sd: float, limit: float = MAX_DEVIATION) -> float:
    return -(min(abs(value - mean) / sd, limit) ** 2) / 2


def _agreement(sides: Sequence[_Side], left: Sequence[int], right: Sequence[int]) -> float:
    """Weigh that ribs of one number pass at one height on both sides, but for a tilt that changes evenly."""
    common = sorted((set(left) & set(right)) - {NO_RIB})
    if not common:
        return 0.0 if not left or not right else len(left) * MISSED
    heights = [np.array([side.height[list(way).index(n)] for n in common]) for side, way in zip(sides, (left, right))]
    difference, middle = heights[0] - heights[1], (heights[0] + heights[1]) / 2
    tilt = np.polyfit(middle, difference, 1) if len(common) > 3 else np.array([0.0, np.median(difference)])
    tilt[1] = np.median(difference - tilt[0] * middle)
    rest = difference - np.polyval(tilt, middle)
    score = -float((np.minimum(np.abs(rest) / SIDES_SD_MM, MAX_DEVIATION) ** 2).sum()) / 2
    # a whole pitch of tilt is rare
    typical = float(np.median(difference))
    return score - (typical / 10.0) ** 2 / 2


def _notes(sides: Sequence[_Side], ways: Sequence[Sequence[int]]) -> tuple[str, ...]:
    notes = []
    for name, side, way in zip(("left", "right"), sides, ways):
        found = [number for number in way if number != NO_RIB]
        if not found:
            notes.append(f"no rib was found on the {name}")
            continue
        if CERVICAL in found:
            notes.append(f"a cervical rib on the {name}, or the count of ribs is off by one")
        if LUMBAR in found:
            notes.append(f"a lumbar rib on the {name}, or the count of ribs is off by one")
        if side.has_base and found[-1] == RIBS_PER_SIDE - 1:
            notes.append(f"no twelfth rib was found on the {name}")
        missed = sorted(set(range(found[0], found[-1])) - set(found))
        if missed:
            notes.append(f"rib {', '.join(map(str, missed))} on the {name} was not found")
    return tuple(notes)

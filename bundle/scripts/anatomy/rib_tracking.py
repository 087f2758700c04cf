"""Follow ribs through a chest: from where they pass the transverse processes to the spine and to their front ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from scripts.anatomy.rib_frame import ChestFrame

__all__ = ["STEP_MM", "TIP_MM", "Guide", "Track", "directions", "follow_fragments", "follow_ribs", "free_courses"]

STEP_MM = 2.0
# Ribs are first sought where they leave the vertebral column, on sheets so far to the side of the canal: transverse
# processes of thoracic vertebrae end within, a scapula begins outside, and neighbors are farthest apart.
SHEETS_MM = np.arange(32.0, 63.0, 3.0)
# A rib crosses one of these; a lumbar transverse process ends within the first, a scapula begins within the second.
SEED_REACHES_MM = ((41.0, 47.0), (47.0, 56.0))
SEED_BEHIND_MM = -42.0
# The first two ribs pass beside the canal or ahead of it, the others behind.
SEED_AHEAD_MM = 14.0
APEX_AHEAD_MM = 27.0
APEX_MM = 45.0
SEED_OUTSIDE_MM = 16.0  # from the lungs' hull: a scapula lies farther away
# A rib's section, 6 x 12 mm, smoothed on a sheet, and how far it moves from sheet to sheet.
SEED_SIGMA_MM = 2.5
MIN_SEED = 0.22
SEED_APART_MM = 8.0
SEED_MOVE_MM = 5.5
# Ribs whose back end is above the scan enter it through the upper border; at the sides they are sought on coronal
# sheets so far ahead of the canal, away from the tracks that are there.
FRAGMENT_SHEETS_MM = np.arange(10.0, 91.0, 4.0)
FRAGMENT_APART_MM = 10.0
MIN_FRAGMENT_SPOTS = 4
MIN_FRAGMENT_MM = 40.0
MIN_FRAGMENT_FOUND = 0.85
TIP_MM = 4.0  # the tip of a lung is in the scan where so much is above it
ENTRY_MM = 14.0  # below the border: a rib runs along it for a while
# The head of a rib lies so far to the side of the canal.
HEAD_MM = 20.0
# In front, sternum and joined cartilages lie nearer than this to the midline.
FRONT_STOP_MM = 26.0
FRONT_AHEAD_MM = 30.0
# The plane across a track in which its center is sought, and how near its center bone counts.
DISC_MM = 10.0
NEAR_MM = 6.0
SIGMA_MM = 5.0
MIN_NEAR_MM2 = 12.0
MAX_DISC_MM2 = 235.0  # of 314: a heart, a kidney or a scapula fill it
MAX_SHIFT_MM = 1.5
MAX_GAP_SHIFT_MM = 5.0
# Fragments of a rib lie up to so far apart.
MAX_GAP_MM = 26.0
MAX_LENGTH_MM = 440.0
# A front end is sure after 10 mm of bone; behind a sharp turn the last 6 mm are off the rib.
SURE_POINTS = 5
TURN_POINTS = 3
# Tracks so near each other over so long a way are one; what was crossed 30 mm before tells which went astray.
DOUBLE_MM = 4.0
MIN_DOUBLE_MM = 16.0
GAP_POINTS = 15
MIN_LENGTH_MM = 20.0
# Directions over 8 mm may differ so much from those before, and from those of the ribs beside.
MAX_TURN_DEGREES = 42.0
MAX_ASTRAY_DEGREES = 50.0
DIRECTION_SIGMA_POINTS = 3.0  # a course is smoothed by, for its directions
# Ribs beside one another run nearly parallel.
GUIDE_SIGMA_MM = 20.0
GUIDE_REACH_MM = 55.0
MIN_GUIDE_MM = 60.0
GUIDE_SHARE = 0.35
GUIDE_SHARE_IN_GAP = 0.8
# Where a track that is led more comes so much farther, and that along bone, the other one had gone astray.
LED_SHARE = 0.7
MIN_MORE_POINTS = 10
MIN_MORE_FOUND = 0.7


@dataclass(frozen=True)
class Track:
    """
    A course along a rib.

    Args:
        side: -1 left, 1 right.
        points: from the spine forward, STEP_MM apart, mm in the frame, shape ``(n, 3)``.
        found: whether there was bone at each, shape ``(n,)``.
        end: why it ends: ``gap`` without bone, ``turn``, ``front`` at the sternum, ``border`` of the scan.
        has_head: whether it begins at the spine.
    """

    side: int
    points: NDArray[np.float64]
    found: NDArray[np.bool_]
    end: str
    has_head: bool = True

    @property
    def length_mm(self) -> float:
        return float(np.linalg.norm(np.diff(self.points, axis=0), axis=1).sum())


def follow_ribs(frame: ChestFrame) -> list[Track]:
    """
    Follow every rib that leaves the spine in the scan.

    Args:
        frame: the chest.

    Returns:
        Their courses, each from the head forward, in no order.
    """
    seeds = _seeds(frame)
    if not seeds:
        return []
    alone = _follow(frame, seeds, None)
    guided = _follow(frame, seeds, Guide(alone))
    led = _follow(frame, seeds, Guide(guided), LED_SHARE)
    guided = [_longer(track, other) for track, other in zip(guided, led)]
    heads = _follow_to_heads(frame, seeds)
    tracks = []
    for head, track in zip(heads, guided):
        end = _front_end(track)
        found = np.concatenate([np.ones(len(head), dtype=bool), track.found[:end]])
        tracks.append(Track(track.side, np.concatenate([head, track.points[:end]]), found, track.end))
    return _without_doubles(tracks)


def _longer(track: Track, led: Track) -> Track:
    """Take the track that kept closer to its neighbors where it comes farther along a rib."""
    more = led.found[len(track.points) :]
    return led if len(more) >= MIN_MORE_POINTS and more.mean() >= MIN_MORE_FOUND else track


def _front_end(track: Track) -> int:
    """Return how many points of a track remain where what lies behind its last sure bone is cut off."""
    end = len(track.points)
    if track.end == "turn":
        end -= TURN_POINTS
    sure = np.convolve(track.found[: max(end, SURE_POINTS)], np.ones(SURE_POINTS), mode="valid") == SURE_POINTS
    return int(np.flatnonzero(sure)[-1]) + SURE_POINTS if sure.any() else len(track.points)


def _without_doubles(tracks: Sequence[Track]) -> list[Track]:
    """Drop short tracks, and cut those that run into another one: the one that crossed more of a gap before."""
    points = [track.points for track in tracks]
    ends = [len(track.points) for track in tracks]
    for i, track in enumerate(tracks):
        for j in range(i):
            if tracks[j].side != track.side:
                continue
            near = cKDTree(points[j]).query(points[i])[0] < DOUBLE_MM
            if np.count_nonzero(near) * STEP_MM < MIN_DOUBLE_MM:
                continue
            meets = [int(np.flatnonzero(near)[0]), int(np.argmax(cKDTree(points[i]).query(points[j])[0] < DOUBLE_MM))]
            gaps = [
                np.count_nonzero(~tracks[k].found[max(0, meet - GAP_POINTS) : meet]) for k, meet in zip((i, j), meets)
            ]
            # without a gap, the one that has come farther: it is past its end
            loser = 0 if (gaps[0], meets[0]) >= (gaps[1], meets[1]) else 1
            ends[(i, j)[loser]] = min(ends[(i, j)[loser]], meets[loser])
    kept = [
        Track(track.side, track.points[:end], track.found[:end], track.end if end == len(track.points) else "turn")
        for track, end in zip(tracks, ends)
        if end * STEP_MM >= MIN_LENGTH_MM
    ]
    return kept


def follow_fragments(frame: ChestFrame, tracks: Sequence[Track]) -> list[Track]:
    """
    Follow ribs that enter the scan through its upper border, since their back ends lie above it.

    Args:
        frame: the chest.
        tracks: the ribs that begin at the spine.

    Returns:
        Their courses, each from the border forward, without a head.
    """
    # where a lung's tip is in the scan, all ribs of its side begin in it
    sides = [side for side, tip_mm in zip((-1, 1), frame.lung_tops_mm) if not tip_mm <= frame.top_mm - TIP_MM]
    known = [cKDTree(track.points) for track in tracks]
    found: list[Track] = []
    for fragment in free_courses(frame, tracks, sides):
        end = _front_end(fragment)
        fragment = replace(fragment, points=fragment.points[:end], found=fragment.found[:end])
        if (
            frame.top_mm - fragment.points[0, 2] > ENTRY_MM
            or fragment.length_mm < MIN_FRAGMENT_MM
            or fragment.found.mean() < MIN_FRAGMENT_FOUND
        ):
            continue
        others = [*known, *(cKDTree(other.points) for other in found)]
        near = [np.mean(tree.query(fragment.points)[0] < FRAGMENT_APART_MM / 2) for tree in others]
        if max(near, default=0.0) < 0.2:
            found.append(fragment)
    return found


def _coronal_seeds(frame: ChestFrame, sides: Sequence[int]) -> list[_Seed]:
    """Find spots of bone on the sides' walls that go on from one coronal sheet to the next."""
    sheets = [_coronal_spots(frame, ahead) for ahead in FRAGMENT_SHEETS_MM] if sides else []
    seeds = []
    for side in sides:
        spots = [spots[side * frame.from_canal(spots)[:, 0] > SHEETS_MM[0]] for spots in sheets]
        chains = [chain for chain in _chains(spots, (0, 2)) if len(chain) >= MIN_FRAGMENT_SPOTS]
        seeds += [_Seed.on(side, np.array([spot for _, spot in chain])) for chain in chains]
    return seeds


def _coronal_spots(frame: ChestFrame, ahead_mm: float) -> NDArray[np.float64]:
    """Find spots of bone on the sheet so far ahead of the canal; return their middles in mm, ``(n, 3)``."""
    height, _, depth = frame.hu.shape
    row = (frame.canal[:, 1] + ahead_mm) / frame.step[1]
    grid = np.stack(
        [
            np.broadcast_to(np.arange(height)[:, None], (height, depth)),
            np.broadcast_to(row, (height, depth)),
            np.broadcast_to(np.arange(depth), (height, depth)),
        ]
    )
    spots = _peaks(ndimage.map_coordinates(frame.weight, grid, order=1), frame.step[[0, 2]])
    return np.asarray(np.column_stack([spots[:, 0], row[spots[:, 1]], spots[:, 1]]) * frame.step)


def free_courses(frame: ChestFrame, tracks: Sequence[Track], sides: Sequence[int]) -> list[Track]:
    """Follow bone in the wall of the chest that lies off all tracks, both ways from where it crosses coronal sheets."""
    known = [cKDTree(track.points) for track in tracks]
    seeds = [
        seed
        for seed in _coronal_seeds(frame, sides)
        if all(tree.query(seed.center)[0] > FRAGMENT_APART_MM for tree in known)
    ]
    if not seeds:
        return []
    forward = _follow(frame, seeds, Guide(tracks), is_own_guide=False)
    backward = _follow(frame, [_Seed(seed.side, seed.center, -seed.direction) for seed in seeds], None)
    return [
        Track(
            ahead.side,
            np.concatenate([back.points[:0:-1], ahead.points]),
            np.concatenate([back.found[:0:-1], ahead.found]),
            ahead.end,
            has_head=False,
        )
        for ahead, back in zip(forward, backward)
    ]


@dataclass(frozen=True)
class _Seed:
    side: int
    center: NDArray[np.float64]
    direction: NDArray[np.float64]  # away from the spine

    @classmethod
    def on(cls, side: int, spots: NDArray[np.float64]) -> _Seed:
        """Start at the middle of a chain of spots, in its direction."""
        direction = np.polyfit(np.arange(len(spots)), spots, 1)[0]
        return cls(side, spots[len(spots) // 2], direction / np.linalg.norm(direction))


def _seeds(frame: ChestFrame) -> list[_Seed]:
    """Find where ribs pass beside the column: spots of bone that go on from sheet to sheet."""
    seeds = []
    for side in (-1, 1):
        spots = [_spots(frame, side * lateral) for lateral in SHEETS_MM]
        for chain in _chains(spots, (1, 2)):
            reach = SHEETS_MM[[chain[0][0], chain[-1][0]]]
            if len(chain) >= 3 and any(reach[0] <= low and reach[1] >= high for low, high in SEED_REACHES_MM):
                seed = _seed(frame, side, np.array([spot for _, spot in chain[:7]]))
                if seed is not None:
                    seeds.append(seed)
    return seeds


def _chains(spots: Sequence[NDArray[np.float64]], axes: tuple[int, int]) -> list[list[tuple[int, NDArray[np.float64]]]]:
    """Link the spots of neighboring sheets, which lie along these axes, to chains of (number of the sheet, spot)."""
    chains: list[list[tuple[int, NDArray[np.float64]]]] = []
    for sheet, here in enumerate(spots):
        open_chains = [chain for chain in chains if chain[-1][0] >= sheet - 2]
        expected = np.array([_next_spot(chain, sheet) for chain in open_chains]).reshape(-1, 3)
        distance = np.linalg.norm((expected[:, None] - here[None])[..., list(axes)], axis=2)
        distance[distance > SEED_MOVE_MM] = np.inf
        is_free = np.ones(len(here), dtype=bool)
        while np.isfinite(distance).any():
            chain, spot = np.unravel_index(distance.argmin(), distance.shape)
            open_chains[chain].append((sheet, here[spot]))
            is_free[spot] = False
            distance[chain], distance[:, spot] = np.inf, np.inf
        chains += [[(sheet, spot)] for spot in here[is_free]]
    return chains


def _next_spot(chain: Sequence[tuple[int, NDArray[np.float64]]], sheet: int) -> NDArray[np.float64]:
    """Say where a chain of spots goes on."""
    last, place = chain[-1]
    if len(chain) == 1:
        return place
    first, start = chain[-min(len(chain), 4)]
    return place + (place - start) / (last - first) * (sheet - last)


def _spots(frame: ChestFrame, right_mm: float) -> NDArray[np.float64]:
    """Find spots of bone on the sheet so far to the right of the canal; return their middles in mm, ``(n, 3)``."""
    _, width, depth = frame.hu.shape
    row = (frame.canal[:, 0] + right_mm) / frame.step[0]
    levels = np.arange(depth)
    ahead = np.arange(width)
    rows = np.broadcast_to(row, (width, depth))
    grid = np.stack([rows, *np.meshgrid(ahead, levels, indexing="ij")])
    spots = _peaks(ndimage.map_coordinates(frame.weight, grid, order=1), frame.step[1:])
    middles = np.column_stack([row[spots[:, 1]], spots]) * frame.step
    from_canal = middles[:, 1] - frame.canal[spots[:, 1], 1]
    top = np.nanmax(frame.lung_tops_mm)
    limit = np.where(middles[:, 2] > top - APEX_MM, APEX_AHEAD_MM, SEED_AHEAD_MM)
    return np.asarray(middles[(from_canal >= SEED_BEHIND_MM) & (from_canal <= limit)])


def _peaks(sheet: NDArray[np.float64], step: NDArray[np.float64]) -> NDArray[np.int_]:
    """Return the pixels where a smoothed sheet is brightest around, shape ``(n, 2)``."""
    sheet = ndimage.gaussian_filter(sheet, SEED_SIGMA_MM / step, mode="constant")
    size = np.maximum(3, np.round(SEED_APART_MM / step)).astype(int)
    return np.argwhere((sheet == ndimage.maximum_filter(sheet, size=tuple(size))) & (sheet >= MIN_SEED))


def _seed(frame: ChestFrame, side: int, spots: NDArray[np.float64]) -> _Seed | None:
    """Start on a chain of spots, unless its middle lies outside of the chest's wall."""
    center = spots[len(spots) // 2]
    if center[2] > min(frame.lung_bases_mm) and frame.outside_at(center[None])[0] > SEED_OUTSIDE_MM:
        return None
    return _Seed.on(side, spots)


class Guide:
    """
    The direction in which ribs run at a place: that of the tracks beside, but for one's own.

    Args:
        tracks: those that are long enough teach; their last 14 mm may have gone astray.
    """

    def __init__(self, tracks: Sequence[Track]) -> None:
        points, ways, owners = [], [], []
        for owner, track in enumerate(tracks):
            end = len(track.points) - 7
            if end * STEP_MM < MIN_GUIDE_MM:
                continue
            points.append(track.points[:end])
            ways.append(directions(track.points)[:end])
            owners.append(np.full(end, owner))
        self.is_empty = not points
        if not self.is_empty:
            self.points, self.directions = np.concatenate(points), np.concatenate(ways)
            self.owners = np.concatenate(owners)
            self.tree = cKDTree(self.points)

    def at(self, points: NDArray[np.float64], owners: NDArray[np.int_] | None = None) -> NDArray[np.float64]:
        """Return unit vectors, shape ``(n, 3)``; 0 where nothing near teaches. No owner teaches its own points."""
        if self.is_empty:
            return np.zeros_like(points)
        distance, index = self.tree.query(points, k=min(96, len(self.points)), distance_upper_bound=GUIDE_REACH_MM)
        known = np.isfinite(distance)
        index = np.where(known, index, 0)
        if owners is not None:
            known &= self.owners[index] != owners[:, None]
        weight = np.where(known, np.exp(-((np.where(known, distance, 0) / GUIDE_SIGMA_MM) ** 2) / 2), 0.0)
        total = (weight[:, :, None] * self.directions[index]).sum(axis=1)
        length = np.linalg.norm(total, axis=1, keepdims=True)
        # of tracks that disagree none is believed
        return np.where(length > 0.7 * weight.sum(axis=1, keepdims=True), total / np.maximum(length, 1e-9), 0.0)


def _follow(
    frame: ChestFrame,
    seeds: Sequence[_Seed],
    guide: Guide | None,
    guide_share: float = GUIDE_SHARE,
    is_own_guide: bool = True,
) -> list[Track]:
    """Follow all seeds forward, step by step, side by side; a guide made of their own tracks leaves out each one's."""
    sides = np.array([seed.side for seed in seeds])
    place = np.array([seed.center for seed in seeds])
    direction = np.array([seed.direction for seed in seeds])
    history = [place - direction * STEP_MM * back for back in range(8, -1, -1)]
    paths = [[point] for point in place]
    found_at = [[True] for _ in seeds]
    ends = ["length"] * len(seeds)
    gap = np.zeros(len(seeds))
    alive = np.arange(len(seeds))  # the seeds that are followed further: all else has a row for each of these
    for count in range(int(MAX_LENGTH_MM / STEP_MM)):
        if not len(alive):
            break
        ways = np.zeros_like(place) if guide is None else guide.at(place, alive if is_own_guide else None)
        has_way = ways.any(axis=1)
        share = np.where(has_way, np.where(gap > 4.0, GUIDE_SHARE_IN_GAP, guide_share), 0.0)[:, None]
        heading = _unit((1.0 - share) * direction + share * ways)
        expected = place + STEP_MM * heading
        center, found = _center(frame, expected, heading, gap)
        place = center
        gap = np.where(found, 0.0, gap + STEP_MM)
        history = [*history[-8:], place]
        recent, before = _unit(history[-1] - history[-5]), _unit(history[-5] - history[-9])
        direction = np.where(found[:, None], _unit(recent + 0.5 * (recent - before)), heading)
        turn = (recent * before).sum(axis=1) < np.cos(np.radians(MAX_TURN_DEGREES))
        astray = has_way & ((recent * ways).sum(axis=1) < np.cos(np.radians(MAX_ASTRAY_DEGREES)))
        right, ahead = frame.from_canal(place).T
        at_front = (sides[alive] * right < FRONT_STOP_MM) & (ahead > FRONT_AHEAD_MM)
        is_inside = frame.inside(place)
        goes_on = np.ones(len(alive), dtype=bool)
        for i, seed in enumerate(alive):
            end = ""
            if not is_inside[i]:
                end = "border"
            elif gap[i] > MAX_GAP_MM:
                end = "gap"
            elif at_front[i]:
                end = "front"
            elif count > 8 and (turn[i] or astray[i]):
                end = "turn"
            if end:
                goes_on[i] = False
                ends[seed] = end
            else:
                paths[seed].append(place[i])
                found_at[seed].append(bool(found[i]))
        if not goes_on.all():
            alive, place, direction, gap = alive[goes_on], place[goes_on], direction[goes_on], gap[goes_on]
            history = [points[goes_on] for points in history]
    tracks = []
    for side, path, at, end in zip(sides, paths, found_at, ends):
        last = int(np.flatnonzero(at)[-1]) + 1
        tracks.append(Track(int(side), np.array(path[:last]), np.array(at[:last]), end))
    return tracks


def _follow_to_heads(frame: ChestFrame, seeds: Sequence[_Seed]) -> list[NDArray[np.float64]]:
    """Go from each seed to the spine, as far as the head of a rib; return the points, the head first."""
    place = np.array([seed.center for seed in seeds])
    direction = -np.array([seed.direction for seed in seeds])
    sides = np.array([seed.side for seed in seeds])
    history = [place]
    for _ in range(30):
        center, found = _center(frame, place + STEP_MM * direction, direction, np.zeros(len(seeds)), sigma_mm=3.5)
        place = center
        history.append(place)
        if len(history) > 4:
            recent = _unit(history[-1] - history[-5])
            direction = np.where(found[:, None], _unit(0.7 * direction + 0.3 * recent), direction)
    heads = []
    for i, side in enumerate(sides):
        points = np.array([step[i] for step in history[1:]])
        lateral = side * frame.from_canal(points)[:, 0]
        keep = np.cumprod((lateral >= HEAD_MM) & frame.inside(points)).astype(bool)
        heads.append(points[keep][::-1])
    return heads


def _disc() -> NDArray[np.float64]:
    """Points of a disc 1 mm apart, shape ``(n, 2)``."""
    line = np.arange(-DISC_MM, DISC_MM + 0.5)
    u, v = np.meshgrid(line, line, indexing="ij")
    inside = u**2 + v**2 <= DISC_MM**2 + 0.1
    return np.stack([u[inside], v[inside]], axis=1)


_DISC = _disc()


def _center(
    frame: ChestFrame,
    expected: NDArray[np.float64],
    heading: NDArray[np.float64],
    gap: NDArray[np.float64],
    sigma_mm: float = SIGMA_MM,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Move expected places to the middle of the bone in the planes across, and tell where there is any."""
    across, up = _across(heading)
    u, v = _DISC.T
    points = expected[:, None] + across[:, None] * u[None, :, None] + up[:, None] * v[None, :, None]
    voxels = (points / frame.step).reshape(-1, 3).T
    bone = ndimage.map_coordinates(frame.weight, voxels, order=1).reshape(len(expected), -1)
    spread = sigma_mm + 0.15 * gap[:, None]  # the longer nothing was found, the wider it is sought
    near = bone * np.exp(-(u**2 + v**2) / (2 * spread**2))
    total = np.maximum(near.sum(axis=1), 1e-6)
    middle_u, middle_v = (near * u).sum(axis=1) / total, (near * v).sum(axis=1) / total
    around = (u - middle_u[:, None]) ** 2 + (v - middle_v[:, None]) ** 2 <= NEAR_MM**2
    found = ((bone * around).sum(axis=1) >= MIN_NEAR_MM2) & (bone.sum(axis=1) <= MAX_DISC_MM2)
    shift = 0.8 * (across * middle_u[:, None] + up * middle_v[:, None])
    length = np.linalg.norm(shift, axis=1)
    limit = np.where(gap > 4.0, MAX_GAP_SHIFT_MM, MAX_SHIFT_MM)
    shift *= np.minimum(1.0, limit / np.maximum(length, 1e-6))[:, None]
    return expected + np.where(found[:, None], shift, 0.0), found


def _across(heading: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return two unit vectors across each heading."""
    other = np.where(np.abs(heading[:, 2:]) < 0.8, [[0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0]])
    across = _unit(np.cross(heading, other))
    return across, np.cross(heading, across)


def directions(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the direction of a smoothed course at each of its points, of length 1, shape ``(n, 3)``."""
    smooth = ndimage.gaussian_filter1d(points, DIRECTION_SIGMA_POINTS, axis=0, mode="nearest")
    return _unit(np.gradient(smooth, axis=0))


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9))

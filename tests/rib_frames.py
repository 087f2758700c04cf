"""A small made-up chest to follow ribs in: bent tubes of bone beside a straight canal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial import cKDTree

from scripts.anatomy.rib_frame import ChestFrame

STEP_MM = np.array([1.5, 1.5, 1.5])
SHAPE = (140, 90, 64)  # 208 x 134 x 94 mm
CANAL_MM = (104.0, 36.0)
RADIUS_MM = 5.0
HEIGHTS_MM = (74.0, 50.0, 26.0)


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

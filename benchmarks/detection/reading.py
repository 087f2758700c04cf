"""Pictures to read a scan rib by rib: every rib straightened, at 2 pixels a mm, with a scale and the candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from monai.data import MetaTensor
from monai.transforms import LoadImage, Orientation
from numpy.typing import NDArray

from scripts.anatomy.rib_finding import find_rib_cage
from scripts.anatomy.straight_ribs import StraightRib, sampled, straight_ribs
from scripts.files.atomic_write import whole_file
from scripts.images.hounsfield import BONE_WINDOW_HU
from scripts.images.image_reader import CTReader
from scripts.reporting.figures import CANDIDATE_COLOR

__all__ = ["reading_pictures"]

_STEP_MM = 0.5  # a pixel
_HALF_MM = 13.0  # across the rib, to both sides
_DEPTH_MM = (-2.0, 0.0, 2.0)  # of the strip seen from outside, whose maximum is drawn
_HEIGHTS_MM = (-4.0, 0.0, 4.0)  # of the strips through the chest wall: near the lower edge, the middle, the upper edge
_TICK_MM = 20
_NEAR_MM = 15.0  # a mark farther from every rib's centerline is not drawn


def reading_pictures(
    image_path: Path, output_dir: Path, name: str, marks_mm: Mapping[str, Sequence[Sequence[float]]] | None = None
) -> list[Path]:
    """
    Draw the ribs of each side, straightened, from above: the strip seen from outside, and three through the chest wall.

    Args:
        image_path: the scan, NIfTI in HU.
        output_dir: folder of the pictures, ``NAME-SIDE-PART.png``, four ribs each.
        name: of the scan.
        marks_mm: places to mark, such as candidates, RAS mm, by the letter that is drawn there; None marks none.

    Returns:
        The pictures; none where no ribs are found.
    """
    image = Orientation(axcodes="RAS", labels=None)(
        LoadImage(CTReader, image_only=True, ensure_channel_first=True)(image_path)
    )
    assert isinstance(image, MetaTensor)
    volume, affine = image.array[0], image.affine.cpu().numpy()
    cage = find_rib_cage(volume, image.pixdim.cpu().numpy(), affine)
    paths = []
    for side in ("left", "right"):
        ribs = [rib for rib in straight_ribs(cage) if rib.rib.side == side]
        for part, first in enumerate(range(0, len(ribs), 4), start=1):
            path = output_dir / f"{name}-{side}-{part}.png"
            _draw(ribs[first : first + 4], volume, affine, marks_mm or {}, path)
            paths.append(path)
    return paths


def _draw(ribs: Sequence[StraightRib], volume: NDArray, affine: NDArray, marks_mm: Mapping, path: Path) -> None:
    longest = max(len(rib.points_mm) for rib in ribs)
    figure = Figure(figsize=(longest / _STEP_MM / 100 + 0.6, len(ribs) * 2.6), dpi=100, facecolor="white")
    rows = figure.subplots(4 * len(ribs), 1)
    figure.subplots_adjust(left=0.05, right=0.995, top=0.99, bottom=0.02, hspace=0.08)
    across = np.arange(-_HALF_MM, _HALF_MM + _STEP_MM, _STEP_MM)
    for number, rib in enumerate(ribs):
        way = np.arange(rib.way_mm[0], rib.way_mm[-1], _STEP_MM)
        seen = sampled(volume, affine, rib.places_mm(way, across, _DEPTH_MM), -1000).max(axis=2)
        strips = [seen, *(sampled(volume, affine, rib.places_mm(way, [up], across), -1000)[:, 0] for up in _HEIGHTS_MM)]
        for row, (strip, kind) in enumerate(zip(strips, ("face", "low", "mid", "high"))):
            axes = rows[4 * number + row]
            _strip(axes, strip, way, across, longest)
            axes.set_ylabel(f"{rib.rib.side[0].upper()}{rib.rib.number or f'?{rib.rib.order}'}\n{kind}", fontsize=6)
            axes.set_xticks(np.arange(0, way[-1], _TICK_MM))
            axes.tick_params(labelsize=5, length=2, pad=1, labelbottom=row == 3)
        for letter, places in marks_mm.items():
            for place in places:
                away = np.linalg.norm(rib.points_mm - np.asarray(place), axis=1)
                if away.min() < _NEAR_MM:
                    rows[4 * number].text(
                        rib.way_mm[away.argmin()], -_HALF_MM + 1, letter, color=CANDIDATE_COLOR, fontsize=8, va="top"
                    )
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _strip(axes: Axes, strip: NDArray, way: NDArray, across: NDArray, longest: int) -> None:
    low, high = BONE_WINDOW_HU
    axes.imshow(
        strip.T[::-1],
        cmap="gray",
        vmin=low,
        vmax=high,
        extent=(way[0], way[-1], across[0], across[-1]),
        aspect="equal",
        interpolation="nearest",
    )
    axes.set(xlim=(way[0], way[0] + longest), yticks=[], facecolor="black", anchor="W")

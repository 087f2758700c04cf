"""
Fit the model of the types of fractures to an annotated data set.

    python -m scripts fit_types --dataset_dir /data/ribfrac --output fracture_types.json

``inference.yaml`` takes the file as ``type_model_file``. Fractures are measured where they are annotated, so no
prediction is needed, and with ends moved as those of candidates are; those of unknown type (-1) are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Orientationd, ScaleIntensityRanged
from numpy.typing import NDArray
from scipy import ndimage
from tqdm import tqdm

from scripts.anatomy.rib_cage import RibCage
from scripts.anatomy.straight_ribs import StraightRib, straight_ribs
from scripts.candidates import TYPE_CODES, instance_points_mm
from scripts.commands._parsers import parser_of
from scripts.data.datalist import load_datalist
from scripts.data.ribfrac import CLASS_NAMES
from scripts.description.fracture_type import fit_type_model
from scripts.description.measure import Measured, measured_on, profile_of
from scripts.images.headers import checked_axcodes
from scripts.images.image_reader import CTReader
from scripts.transforms import CheckImaged, CheckLabeld, LabelRibsd, SpacingOnlyd

__all__ = ["AnnotatedFracture", "annotated_fractures", "loading", "main", "preparation"]

_CONFIG = Path(__file__).parents[2] / "configs" / "inference.yaml"
_LEAST_POINTS = 20
# A candidate does not end where an annotation does: how far its ends lie from it along the rib, as seen on candidates
_MOVED_MM = ((-5.0, 5.0), (-4.0, -2.0), (3.0, 4.0), (2.0, -2.0))
_HALF_WEIGHT = 0.3  # of one break of a segmental fracture: alone, it often looks like a single one


@dataclass(frozen=True)
class AnnotatedFracture:
    """
    A fracture that was measured where it is annotated.

    Args:
        label_id: its id.
        code: RibFrac's code of its type, -1 for unknown.
        measured: what was measured of it.
        halves: of a segmental fracture what was measured of its parts about either break, as where a network marks one.
        moved: what was measured with ends as those of candidates.
    """

    label_id: int
    code: int
    measured: Measured
    halves: tuple[Measured, ...] = ()
    moved: tuple[Measured, ...] = ()


def preparation() -> Compose:
    """
    Prepare a loaded scan as for a prediction, and find its ribs.

    Returns:
        A transform of a dictionary: its ``image``, HU, shape ``(1, H, W, D)``, is clipped as for the network, and in
        RAS; ``rib_cage`` is added.
    """
    config: Any = ConfigParser.load_config_file(_CONFIG)
    low_hu, high_hu = config["hu_range"]
    return Compose(
        [
            Orientationd("image", axcodes="RAS", labels=None),
            CheckImaged("image"),
            LabelRibsd("image"),
            SpacingOnlyd("image", mode="bilinear", dtype=torch.float32, **config["spacing"]),
            ScaleIntensityRanged("image", low_hu, high_hu, low_hu, high_hu, clip=True),
        ]
    )


def loading(assumed_orientation: str | None = None) -> Compose:
    """
    Load a scan and its annotation, and prepare it.

    Args:
        assumed_orientation: of a file that tells none, such as LPS; refused without it.

    Returns:
        A transform of an item of ``load_datalist``, see :func:`preparation`; ``label`` stays on the scan's own grid.
    """
    both, reader = ("image", "label"), CTReader(checked_axcodes(assumed_orientation))
    load = LoadImaged(both, reader, image_only=True)  # type: ignore[arg-type]
    return Compose([load, EnsureChannelFirstd(both), CheckLabeld("label"), preparation()])


def annotated_fractures(
    image: MetaTensor, label: MetaTensor, codes: Mapping[int, int], cage: RibCage, with_moved: bool = False
) -> list[AnnotatedFracture]:
    """
    Measure the annotated fractures of a scan.

    Args:
        image: the scan in HU, shape ``(1, H, W, D)``.
        label: ids of its fractures on the scan's own grid, integers, shape ``(1, H, W, D)``.
        codes: RibFrac's code by the id of each; -1 where an id lacks.
        cage: its ribs.
        with_moved: measure them with moved ends, too.

    Returns:
        The fractures; one that lies on no rib is not measurable.
    """
    ids, affine = label[0].cpu().numpy().astype(int), np.asarray(label.affine, dtype=float)
    own = np.asarray(image.affine, dtype=float)
    slice_mm = float(np.linalg.norm(affine[:3, :3], axis=0).max())
    straight = {rib.rib.id: rib for rib in straight_ribs(cage)}
    hu, found = image[0].cpu().numpy(), []

    def measured(
        rib: StraightRib, points: NDArray[np.float64], moved_mm: Sequence[tuple[float, float]] = ()
    ) -> list[Measured]:
        """Measure where the points are, and with their ends moved."""
        profile, low_mm, high_mm, reason = profile_of(hu, own, rib, points, slice_mm, cage.metal_mm)
        ends = [(0.0, 0.0), *moved_mm]
        if profile is None:
            return [Measured(reason=reason)] * len(ends)
        return [measured_on(profile, low_mm + low, high_mm + high) for low, high in ends]

    for number, box in enumerate(ndimage.find_objects(ids), start=1):
        if box is None:
            continue
        points = instance_points_mm(ids[box] == number, box, affine)
        place, code = cage.place_of(points) if cage.ribs else None, int(codes.get(number, -1))
        if place is None:
            found.append(AnnotatedFracture(number, code, Measured(reason="off" if cage.ribs else "ribs")))
            continue
        rib = straight[place.rib.id]
        halves = _halves(rib, points) if code == TYPE_CODES["segmental"] else []
        whole, *moved = measured(rib, points, _MOVED_MM if with_moved else ())
        found.append(
            AnnotatedFracture(number, code, whole, tuple(measured(rib, half)[0] for half in halves), tuple(moved))
        )
    return found


def _halves(rib: StraightRib, points: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Part the points of a segmental fracture in its middle."""
    ways = np.array([rib.rib.way_at(point) for point in points])
    middle = np.percentile(ways, [2, 98]).mean()
    return [half for half in (points[ways < middle - 3.0], points[ways > middle + 3.0]) if len(half) >= _LEAST_POINTS]


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Fit from the command line; ``--help`` explains the arguments.

    Args:
        arguments: command line arguments; those of the process where None.
    """
    parser = parser_of("fit_types")
    options = parser.parse_args(arguments)
    features, codes, weights, used, left_out, scans = [], [], [], 0, 0, 0
    try:
        load = loading(options.assumed_orientation)
        for folder in options.dataset_dir:
            items = load_datalist(folder, options.section, assumed_orientation=options.assumed_orientation)
            for item in tqdm(items, desc=f"measure {folder}", unit="scan"):
                known_codes = item.get("label_codes", item.get("label_classes", {})).values()
                if not any(code in CLASS_NAMES for code in known_codes):
                    continue
                data: Any = load(item)
                scans += 1
                for one in annotated_fractures(
                    data["image"], data["label"], data["label_codes"], data["rib_cage"], with_moved=True
                ):
                    whole, halves = (
                        [part.features for part in parts if part.features is not None]
                        for parts in ((one.measured, *one.moved), one.halves)
                    )
                    is_used = one.code in CLASS_NAMES and bool(whole)
                    left_out += not is_used
                    if is_used:
                        features += whole + halves
                        codes += [one.code] * len(whole + halves)
                        weights += [1.0] * len(whole) + [_HALF_WEIGHT] * len(halves)
                        used += 1
        source = f"{used} annotated fractures in {scans} scans"
        fit_type_model(features, codes, source, weights, options.seed).write(options.output)
    except (FileNotFoundError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")
    print(f"{options.output}: fitted to {source}; {left_out} fractures left out, not measurable or of unknown type")

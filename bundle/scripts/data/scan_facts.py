"""What a scan and its annotation hold, and what looks wrong with them, before a training."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import nibabel as nib
import numpy as np
from monai.data import MetaTensor
from monai.transforms import LoadImage, Orientation
from numpy.typing import NDArray

from scripts.anatomy.components import connected_components
from scripts.data.label_classes import instances_of_classes
from scripts.data.loading_faults import loading_fault
from scripts.data.ribfrac import CLASS_NAMES, UNKNOWN_CLASS
from scripts.files.scan_names import printable
from scripts.images.file_checks import file_notes
from scripts.images.headers import orientation_note
from scripts.images.hounsfield import AIR_HU, BONE_HU, hu_problem
from scripts.images.image_reader import CTReader

__all__ = ["Fracture", "ScanFacts", "doubled_images", "scan_facts"]

THICK_MM = 3.0  # a fracture of a rib is hard to see in thicker slices
MIN_FRACTURE_MM3 = 20.0  # RibFrac's smallest fractures have some hundred
OBLIQUE_DEGREES = 5.0
# Of voxels that a fracture marks, bone, fat and muscle lie above; lung and air below.
MIN_FRACTURE_HU = -300.0


@dataclass(frozen=True)
class Fracture:
    """
    An annotated fracture.

    Args:
        id: its id in the label.
        type: its type by the table; empty without one.
        volume_mm3: its volume.
        pieces: number of connected pieces (26 neighbors).
        mean_hu: mean of the image in it.
    """

    id: int
    type: str
    volume_mm3: float
    pieces: int
    mean_hu: float


@dataclass(frozen=True)
class ScanFacts:
    """
    What a scan holds.

    Args:
        scan: its name.
        shape: voxels along each axis of its file.
        spacing_mm: their size.
        orientation: where the axes run, such as LPS.
        hu: the lowest and the highest value, and the 1st, 50th and 99th percentile between them.
        fractures: annotated fractures.
        problems: what stops a training, or spoils it.
        notes: what is unusual, and may be right.
        digest: tells whether two scans hold the same voxels; empty where they could not be read.
    """

    scan: str
    shape: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] = ()
    orientation: str = ""
    hu: tuple[float, ...] = ()
    fractures: list[Fracture] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    digest: str = ""


def scan_facts(
    item: Mapping[str, Any], assumed_orientation: str | None = None
) -> tuple[ScanFacts, MetaTensor | None, NDArray | None]:
    """
    Look at a scan.

    Args:
        item: ``scan``, ``image`` and, where annotated, ``label`` and ``label_codes``, as ``load_datalist`` gives them;
            ``scripts.data.datalist.file_problems`` found nothing wrong with its headers.
        assumed_orientation: of a file that tells none, see ``scripts.data.datalist.file_problems``.

    Returns:
        What it holds, and for pictures the image and the ids of its fractures in RAS axes, shapes ``(1, H, W, D)`` and
        ``(H, W, D)``; ``None`` where they could not be read.
    """
    load = LoadImage(CTReader(assumed_orientation), image_only=True, ensure_channel_first=True)
    try:
        image = load(item["image"])
    except Exception as error:  # whatever a reader raises for a broken file: it is told, and the others are looked at
        fault = printable(loading_fault(error, item["image"]))
        return ScanFacts(item["scan"], problems=[f"cannot be read: {fault}"]), None, None
    values = image.numpy()[0]
    affine = image.affine.numpy()
    problems, notes = _of_values(values)
    notes += _of_grid(affine)
    notes += file_notes(item["image"]) if isinstance(item["image"], str) else []
    if axcodes := image.meta.get("assumed_orientation"):
        notes.append(orientation_note(axcodes))
    fractures: list[Fracture] = []
    ids = None
    if "label" in item:
        ids, fractures, wrong = _of_label(item, load, values, affine)
        problems += wrong
        if ids is not None and not fractures:
            notes.append("no fracture is marked")
        notes += [note for fracture in fractures for note in _of_fracture(fracture)]
    facts = ScanFacts(
        scan=item["scan"],
        shape=values.shape,
        spacing_mm=tuple(float(size) for size in np.linalg.norm(affine[:3, :3], axis=0)),
        orientation="".join(nib.aff2axcodes(affine)),
        hu=tuple(float(v) for v in (values.min(), *np.percentile(values[::2, ::2, ::2], (1, 50, 99)), values.max())),
        fractures=fractures,
        problems=problems,
        notes=notes,
        digest=hashlib.sha256(values.tobytes()).hexdigest(),
    )
    turn = Orientation("RAS", labels=None)
    turned = None if ids is None else turn(MetaTensor(ids[None], affine=image.affine)).numpy()[0].astype(np.int32)
    return facts, cast(MetaTensor, turn(image)), turned


def doubled_images(scans: Sequence[ScanFacts]) -> list[str]:
    """Tell which scans hold the same voxels: in two sections, a model would be scored on what it was trained on."""
    first: dict[str, str] = {}
    doubled = []
    for facts in scans:
        if facts.digest and facts.digest in first:
            doubled.append(f"{facts.scan}: holds the same voxels as {first[facts.digest]}.")
        first.setdefault(facts.digest, facts.scan)
    return doubled


def _of_values(values: NDArray) -> tuple[list[str], list[str]]:
    """Tell what is wrong with the values of an image, and what is unusual."""
    wrong = int((~np.isfinite(values)).sum())
    if wrong:
        return [f"{wrong} voxels are infinite or not numbers"], []
    if problem := hu_problem(values):
        return [problem], []
    low, high = float(values.min()), float(values.max())
    if low > AIR_HU or high < BONE_HU:
        return [
            f"values from {low:g} to {high:g}: a chest CT in HU has air below {AIR_HU:g}, bone above {BONE_HU:g}"
        ], []
    return [], []


def _of_grid(affine: NDArray) -> list[str]:
    """Tell what is unusual about the grid."""
    spacing_mm = np.linalg.norm(affine[:3, :3], axis=0)
    directions = affine[:3, :3] / spacing_mm
    angle = float(np.degrees(np.arccos(np.clip(abs(directions).max(axis=0).min(), 0, 1))))
    notes = [f"slices of {size:.1f} mm" for size in spacing_mm if size > THICK_MM]
    return notes + ([f"axes {angle:.0f} degrees off the patient's"] if angle > OBLIQUE_DEGREES else [])


def _of_label(
    item: Mapping[str, Any], load: LoadImage, values: NDArray, affine: NDArray
) -> tuple[NDArray | None, list[Fracture], list[str]]:
    """Measure the fractures of a label, and tell what is wrong with it; no ids where it does not fit its image."""
    try:
        label = load(item["label"])
    except Exception as error:  # as above
        return None, [], [f"cannot be read: {printable(loading_fault(error, item['label']))}"]
    marked = label.numpy()[0]
    ids = np.nan_to_num(marked).astype(np.int64)
    if not np.array_equal(ids, marked) or ids.min() < 0:
        return None, [], ["the label holds values that are no ids 0, 1, 2 ... (was it resampled with interpolation?)"]
    problems = []
    codes = item.get("label_codes")
    if "label_classes" in item:
        try:
            ids, codes = instances_of_classes(ids, item["label_classes"], "the label")
        except ValueError as error:
            return None, [], [str(error)]
    present = np.unique(ids[ids > 0]).tolist()
    if codes is not None:
        without_code, without_voxel = sorted(set(present) - set(codes)), sorted(set(codes) - set(present))
        problems += [f"the ids {without_code} have no row in the table"] if without_code else []
        problems += [f"the ids {without_voxel} of the table have no voxels"] if without_voxel else []
    voxel_mm3 = abs(float(np.linalg.det(affine[:3, :3])))
    return ids, [_fracture(i, ids, values, codes or {}, voxel_mm3) for i in present], problems


def _fracture(number: int, ids: NDArray, values: NDArray, codes: Mapping[int, int], voxel_mm3: float) -> Fracture:
    """Measure one fracture."""
    at = np.nonzero(ids == number)
    inside = tuple(axis - axis.min() for axis in at)
    mask = np.zeros([axis.max() + 1 for axis in inside], dtype=bool)
    mask[inside] = True
    code = codes.get(number)
    kind = "" if code is None else CLASS_NAMES.get(code, "Unknown" if code == UNKNOWN_CLASS else f"code {code}")
    pieces = int(connected_components(mask).max())
    return Fracture(number, kind, len(at[0]) * voxel_mm3, pieces, float(values[at].mean()))


def _of_fracture(fracture: Fracture) -> list[str]:
    """Tell what is unusual about a fracture."""
    notes = []
    if fracture.volume_mm3 < MIN_FRACTURE_MM3:
        notes.append(f"fracture {fracture.id} has {fracture.volume_mm3:.1f} mm³")
    if fracture.pieces > 1:
        notes.append(f"fracture {fracture.id} is in {fracture.pieces} pieces")
    if fracture.mean_hu < MIN_FRACTURE_HU:
        notes.append(f"fracture {fracture.id} lies in air or lung ({fracture.mean_hu:.0f} HU): does the label fit?")
    return notes

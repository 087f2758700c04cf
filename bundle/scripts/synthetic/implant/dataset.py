"""A data set in RibFrac's layout, of real scans with implanted fractures."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
from monai.data import MetaTensor
from monai.transforms import LoadImage, Orientation
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray
from tqdm import tqdm

from scripts.anatomy.rib_finding import find_rib_mask
from scripts.data.loading_faults import loading_fault
from scripts.files.atomic_write import write_json, write_text, write_volume
from scripts.images.grids import grid_difference
from scripts.images.image_reader import CTReader
from scripts.synthetic.choices import RIBFRAC_NAMES
from scripts.synthetic.implant.scan import Implanted, implant_fractures
from scripts.synthetic.phantom.dataset import INFO_NAME, SECTIONS

__all__ = ["generate_implanted"]

GENERATOR_VERSION = 3  # raise it with every change to what a seed gives
_HU = (-1024, 3071)
_LEAST_AIR_HU = -300  # every chest scan shows lung


def generate_implanted(
    output_dir: str | os.PathLike[str],
    images: Sequence[str | os.PathLike[str]],
    ribs: Sequence[str | os.PathLike[str]] | None = None,
    rib_ids: tuple[int, int] | None = None,
    scans: int = 1,
    fractures: tuple[int, int] = (3, 9),
    as_is: bool = False,
    seed: int = 0,
    section: str = "training",
    first_id: int | None = None,
    subtle: float = 0.0,
    names: str = RIBFRAC_NAMES,
) -> None:
    """
    Write scans with implanted fractures, their labels and their table in RibFrac's layout, in RAS orientation.

    What a scan becomes depends on the seed and its own voxels alone, neither on the other images nor on file names. An
    interrupted generation goes on where it stopped; a finished folder of the same settings is left as it is.
    ``dataset-info.json`` tells the settings, and for each scan its source and what was implanted.

    Args:
        output_dir: folder of the data set, made if needed.
        images: scans in HU without fractures: NIfTI files or DICOM folders.
        ribs: masks of their ribs, one each, on the same grids; ``None`` finds the ribs by
            :py:func:`scripts.anatomy.rib_finding.find_rib_mask`.
        rib_ids: lowest and highest id of the ribs, where the masks mark other structures too.
        scans: scans to make of each image; 0 with ``as_is`` makes none with implants.
        fractures: least and most fractures a scan; fewer where the ribs have no room.
        as_is: write each image without implants too, with an empty label: it is assumed to be free of fractures.
        seed: seed of the data set.
        section: ``training``, ``validation`` or ``test``, which gives the folders their names.
        first_id: number of the first scan; the section's first one in RibFrac when ``None``.
        subtle: share of fractures that are subtle, 0 to 1.
        names: format of a scan's name, of its number.

    Raises:
        FileNotFoundError: when an image or a mask is missing.
        ValueError: when the folder holds something else, a number is out of range, a mask does not fit its image, or
            an image is not in HU or shows no rib with room for a fracture.
    """
    paths = [Path(image) for image in images]
    masks: list[Path | None] = [None] * len(paths) if ribs is None else [Path(mask) for mask in ribs]
    _check_numbers(len(paths), len(masks), scans, as_is, fractures, rib_ids, section, subtle)
    per_image = scans + as_is
    name, lowest, room = SECTIONS[section]
    first = lowest if first_id is None else first_id
    if not lowest <= first <= first + per_image * len(paths) - 1 < lowest + room:
        raise ValueError(
            f"{per_image * len(paths)} scans from number {first} leave the numbers of the section {section}, "
            f"{lowest} to {lowest + room - 1}; ask for fewer, or for another first_id."
        )
    for path in [*paths, *(mask for mask in masks if mask is not None)]:
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file or folder; give the path of a NIfTI file or DICOM folder.")
    folder = Path(output_dir)
    info = _claimed(
        folder,
        {
            "description": "fractures implanted into real CT; what is written as it is, is assumed to be fracture-free",
            "generator": "scripts.synthetic.implant",
            "generator_version": GENERATOR_VERSION,
            "seed": seed,
            "section": section,
            "first_id": first,
            "scans": scans,
            "fractures": list(fractures),
            "subtle": subtle,
            "as_is": as_is,
            "rib_ids": None if rib_ids is None else list(rib_ids),
            "images": [path.name for path in paths],
            "ribs": [None if mask is None else mask.name for mask in masks],
        },
    )
    done = info["made"]
    with tqdm(total=per_image * len(paths), initial=len(done), desc="implanted scans", unit="scan") as progress:
        for index, (path, mask) in enumerate(zip(paths, masks)):
            todo = [number for number in range(per_image) if index * per_image + number >= len(done)]
            if not todo:
                continue
            image, affine = _load_image(path)
            spacing = np.linalg.norm(affine[:3, :3], axis=0)
            rib_mask = find_rib_mask(image, spacing) if mask is None else _load_ribs(mask, rib_ids, path, image, affine)
            for number in todo:
                unchanged = as_is and number == scans
                made = _implanted(
                    image, rib_mask, spacing, seed, number, (0, 0) if unchanged else fractures, path, subtle
                )
                public_id = names.format(first + index * per_image + number)
                images_dir, labels_dir = folder / f"ribfrac-{name}-images", folder / f"ribfrac-{name}-labels"
                write_volume(images_dir / f"{public_id}-image.nii.gz", made.image_hu, affine)
                write_volume(labels_dir / f"{public_id}-label.nii.gz", made.label, affine)
                done.append(
                    {
                        "public_id": public_id,
                        "image": path.name,
                        "as_is": unchanged,
                        "fractures": [asdict(fracture) for fracture in made.fractures],
                    }
                )
                write_json(folder / INFO_NAME, info, indent=2)
                progress.update()
    rows = ["public_id,label_id,label_code"]
    for scan in done:
        rows.append(f"{scan['public_id']},0,0")
        rows += [f"{scan['public_id']},{one['label_id']},{one['code']}" for one in scan["fractures"]]
    write_text(folder / f"ribfrac-{name}-info.csv", "\n".join(rows) + "\n")


def _check_numbers(
    images: int,
    masks: int,
    scans: int,
    as_is: bool,
    fractures: tuple[int, int],
    rib_ids: tuple[int, int] | None,
    section: str,
    subtle: float,
) -> None:
    if section not in SECTIONS:
        raise ValueError(f"section is {section!r}; choose one of {', '.join(SECTIONS)}.")
    if images == 0 or images != masks:
        raise ValueError(f"{images} images and {masks} masks of ribs; give at least one image, and one mask for each.")
    if scans < 0 or scans + as_is < 1:
        raise ValueError(f"scans is {scans}; make 1 or more of each image, or 0 with as_is.")
    if not 1 <= fractures[0] <= fractures[1] <= 255:
        raise ValueError(f"fractures is {fractures[0]} to {fractures[1]}; give a range within 1 to 255.")
    if not 0 <= subtle <= 1:
        raise ValueError(f"subtle is {subtle}; it is a share, 0 to 1.")
    if rib_ids is not None and not 1 <= rib_ids[0] <= rib_ids[1]:
        raise ValueError(f"rib_ids is {rib_ids[0]} to {rib_ids[1]}; give the lowest and the highest id, from 1.")


def _claimed(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Take a new folder, or go on with one of the same settings; what its ``dataset-info.json`` holds."""
    path = folder / INFO_NAME
    if path.is_file():
        info = json.loads(path.read_text())
        made = info.pop("made", None)
        if made is None or info != settings:
            differing = sorted(key for key in settings.keys() | info.keys() if settings.get(key) != info.get(key))
            raise ValueError(
                f"{path}: the folder holds a data set of other settings ({', '.join(differing)}); "
                "give another output_dir or delete the folder."
            )
        return {**settings, "made": made}
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder}: the folder holds other data (no {INFO_NAME}); give a new or an empty output_dir.")
    info = {**settings, "made": []}
    write_json(path, info, indent=2)
    return info


def _load(path: Path) -> tuple[NDArray, NDArray[np.float64]]:
    # one after another: Compose would hide the message of an error
    try:
        volume = LoadImage(CTReader, image_only=True, ensure_channel_first=True)(path)
    except (RuntimeError, OSError, EOFError, ValueError, ImageFileError, zlib.error) as error:
        raise ValueError(f"{path}: cannot be read as an image: {loading_fault(error, path)}") from error
    volume = cast(MetaTensor, Orientation(axcodes="RAS", labels=None)(volume))
    if volume.ndim != 4 or volume.shape[0] != 1:
        raise ValueError(f"{path}: has shape {tuple(volume.shape[1:])}; give one volume with three axes.")
    return volume.numpy()[0], volume.affine.numpy().astype(np.float64)


def _load_image(path: Path) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    values, affine = _load(path)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if not (low <= _LEAST_AIR_HU and high >= 200):
        raise ValueError(f"{path}: holds values from {low:g} to {high:g}; give a chest CT in HU, with air and bone.")
    return np.clip(np.rint(np.nan_to_num(values, nan=_HU[0])), *_HU).astype(np.int16), affine


def _load_ribs(
    path: Path, rib_ids: tuple[int, int] | None, image_path: Path, image: NDArray, affine: NDArray
) -> NDArray[np.int32]:
    values, own_affine = _load(path)
    if difference := grid_difference(values.shape, own_affine, image.shape, affine):
        raise ValueError(f"{path}: is not on the grid of {image_path}, {difference}; give the mask of this scan.")
    ids = np.rint(values).astype(np.int32)
    if rib_ids is not None:
        ids[(ids < rib_ids[0]) | (ids > rib_ids[1])] = 0
    if not (ids > 0).any():
        wanted = "" if rib_ids is None else f" from {rib_ids[0]} to {rib_ids[1]}"
        raise ValueError(f"{path}: marks no rib, no id{wanted}; give the mask of the ribs, one id a rib.")
    return ids


def _implanted(
    image: NDArray[np.int16],
    ribs: NDArray,
    spacing: NDArray,
    seed: int,
    number: int,
    fractures: tuple[int, int],
    path: Path,
    subtle: float,
) -> Implanted:
    rng = np.random.default_rng([seed, zlib.crc32(np.ascontiguousarray(image).data), number])
    count = int(rng.integers(fractures[0], fractures[1] + 1))
    made = implant_fractures(image, ribs, spacing, count, rng, subtle=subtle)
    if count and not made.fractures:
        raise ValueError(
            f"{path}: no rib of the scan has room for a fracture; take it out, or give a mask of its ribs."
        )
    return made

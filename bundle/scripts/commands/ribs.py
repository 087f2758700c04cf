"""
Find and number the ribs of scans, and write their masks, centerlines, pictures and a table.

    python -m scripts ribs --scans /data/scans --output_dir output/ribs

No network is needed. A scan that cannot be read is told at the end, and the others are done.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Orientation
from monai.utils import ensure_tuple
from tqdm import tqdm

from scripts.anatomy.rib_cage import Rib, RibCage
from scripts.anatomy.rib_finding import find_rib_cage
from scripts.candidates import counted
from scripts.commands._parsers import parser_of
from scripts.data.datalist import ScanList, load_datalist
from scripts.data.loading_faults import loading_fault
from scripts.files.atomic_write import whole_file, write_json, write_volume
from scripts.files.scan_names import printable
from scripts.images.headers import checked_axcodes
from scripts.images.image_reader import CTReader
from scripts.reporting import tables
from scripts.reporting.rib_picture import rib_picture
from scripts.transforms import CheckFilesd, CheckImaged

__all__ = ["RIB_COLUMNS", "main", "write_ribs"]

RIB_COLUMNS = ("scan", *tables.RIB_COLUMNS, "notes")
_TABLE = "ribs.csv"


def write_ribs(
    scans: str | Path, output_dir: str | Path, assumed_orientation: str | None = None
) -> tuple[int, list[str]]:
    """
    Write the ribs of each scan: a mask, centerlines, a picture of the unfolded cage, and their rows in ``ribs.csv``.

    The files are ``<scan>.nii.gz``, ``<scan>-centerlines.json`` and ``<scan>.png``. The mask has the scan's own grid
    and the ids of :func:`scripts.anatomy.rib_cage.rib_id`. The table has a row for each rib; a scan without ribs has
    one with notes alone, which say why.

    Args:
        scans: a file, a folder of NIfTI files and DICOM series, or a data list, as for a prediction.
        output_dir: folder of the results, made if needed; not one of scans.
        assumed_orientation: of a file that tells none, such as LPS; refused without it.

    Returns:
        How many scans were done, and a sentence for each one that could not be.

    Raises:
        FileNotFoundError: when ``scans`` does not exist.
        ValueError: when no scan is found, or results would lie among the scans.
    """
    folder, axcodes = Path(output_dir), checked_axcodes(assumed_orientation)
    items = load_datalist(scans, "all", labels=False, check=False, predictions_dir=folder)
    _check_apart(items, folder)
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, str]] = []
    faults: list[str] = []
    try:
        for item in tqdm(items, desc="find ribs", unit="scan"):
            try:
                rows += _write_scan(item, folder, axcodes)
            except Exception as error:  # whatever a file can make readers and methods raise: the others are done
                faults.append(printable(f"{item['scan']}: {loading_fault(error, item['image'])}"))
                rows.append({"scan": item["scan"], "notes": "could not be done"})
    finally:
        _write_table(folder / _TABLE, rows)
    return len(items) - len(faults), faults


def _check_apart(items: ScanList, folder: Path) -> None:
    """Refuse to write among scans, whose files could have the names of masks."""
    for item in items:
        if Path(ensure_tuple(item["image"])[0]).resolve().parent == folder.resolve():
            raise ValueError(f"{folder} holds scans: give another folder as output_dir.")


def _write_scan(item: Mapping[str, Any], folder: Path, axcodes: str | None) -> list[dict[str, str]]:
    """Find the ribs of a scan, write its mask and its centerlines, and return its rows of the table."""
    load = Compose(
        [
            CheckFilesd("image", assumed_orientation=axcodes),
            LoadImaged("image", CTReader(axcodes), image_only=True),  # type: ignore[arg-type]
            EnsureChannelFirstd("image"),
            CheckImaged("image"),
        ]
    )
    image = load(dict(item))["image"]
    own_affine, own_shape = image.affine.numpy().astype(float), tuple(image.shape[1:])
    image = cast(MetaTensor, Orientation("RAS", labels=None)(image))
    affine = image.affine.numpy().astype(float)
    cage = find_rib_cage(image[0].numpy(), np.linalg.norm(affine[:3, :3], axis=0), affine)
    write_volume(folder / f"{item['scan']}.nii.gz", cage.on_grid(own_affine, own_shape), own_affine)
    write_json(folder / f"{item['scan']}-centerlines.json", _centerlines(item["scan"], cage))
    if cage.ribs:
        nothing = np.zeros(image.shape[1:], dtype=np.uint8)
        picture = folder / f"{item['scan']}.png"
        rib_picture(image[0].numpy(), affine, cage, nothing, [], {}, picture, title=item["scan"])
    notes = ". ".join(cage.notes)
    return [_row(rib, item["scan"], notes) for rib in cage.ribs] or [{"scan": item["scan"], "notes": notes}]


def _row(rib: Rib, scan: str, notes: str) -> dict[str, str]:
    """Format a rib as its row of the table of all scans."""
    return {"scan": scan, **tables.rib_row(rib), "length_mm": f"{rib.length_mm:.0f}", "notes": notes}


def _centerlines(scan: str, cage: RibCage) -> dict[str, Any]:
    """Give the ribs of a scan with their centerlines, for JSON."""
    ribs = [
        {
            "id": rib.id,
            "name": rib.name,
            "side": rib.side,
            "number": rib.number,
            "order": rib.order,
            "confidence": round(float(rib.confidence), 3),
            "length_mm": round(rib.length_mm, 1),
            "starts_in_scan": bool(rib.starts_in_scan),
            "ends_in_scan": bool(rib.ends_in_scan),
            "centerline_mm": np.round(rib.centerline_mm, 2).tolist(),
        }
        for rib in cage.ribs
    ]
    return {"scan": scan, "axes": "RAS", "notes": list(cage.notes), "ribs": ribs}


def _write_table(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, RIB_COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Find ribs from the command line; ``--help`` explains the arguments.

    Args:
        arguments: command line arguments; those of the process where None.
    """
    parser = parser_of("ribs")
    options = parser.parse_args(arguments)
    try:
        done, faults = write_ribs(options.scans, options.output_dir, options.assumed_orientation)
    except (FileNotFoundError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")
    print(f"{Path(options.output_dir) / _TABLE} lists the ribs of {counted(done, 'scan')}.")
    for fault in faults:
        print(f"error: {fault}", file=sys.stderr)
    sys.exit(1 if faults else 0)

"""
Look at a data set before a training: sizes, spacings, fractures, and what is wrong with which scan.

    python -m scripts inspect --dataset_dir /data/ribfrac --section training --output output/inspect.html

Nothing that is wrong with a scan ends the command; all of it is listed, as text and on a page with a picture of each.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
from tqdm import tqdm

from scripts.commands._parsers import parser_of
from scripts.data.datalist import list_scans
from scripts.data.scan_facts import ScanFacts, doubled_images, scan_facts
from scripts.files.atomic_write import whole_file
from scripts.files.scan_names import printable
from scripts.images.dicom_series import is_dicom
from scripts.images.file_checks import file_problems
from scripts.images.headers import checked_axcodes
from scripts.images.hounsfield import BONE_WINDOW_HU
from scripts.reporting.pages.html import render
from scripts.reporting.pages.views import Scan, projections

__all__ = ["inspect_dataset", "main", "summary_of"]

_PARTING = "<!-- scans -->"


def summary_of(scans: Sequence[ScanFacts]) -> dict[str, str]:
    """
    Sum up a data set.

    Args:
        scans: what its scans hold.

    Returns:
        Text by its name: numbers of scans and fractures, and least, median and greatest sizes.
    """
    read = [facts for facts in scans if facts.shape]
    fractures = [fracture for facts in read for fracture in facts.fractures]
    summary = {"scans": f"{len(scans)}, of which {len(read)} could be read"}
    if read:
        for axis, name in enumerate(("first", "second", "third")):
            summary[f"voxels, {name} axis"] = _range([facts.shape[axis] for facts in read], 0)
            summary[f"spacing, {name} axis, mm"] = _range([facts.spacing_mm[axis] for facts in read], 2)
        summary["orientations"] = _counted(facts.orientation for facts in read)
    if fractures:
        summary["fractures"] = str(len(fractures))
        summary["fractures a scan"] = _range([len(facts.fractures) for facts in read], 0)
        summary["their volumes, mm³"] = _range([fracture.volume_mm3 for fracture in fractures], 0)
        summary["their types"] = _counted(fracture.type or "no table" for fracture in fractures)
        summary["scans without a fracture"] = str(sum(not facts.fractures for facts in read))
    summary["scans with problems"] = str(sum(bool(facts.problems) for facts in scans))
    return summary


def _range(values: Sequence[float], digits: int) -> str:
    """Least, median and greatest of some values."""
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), float(np.median(values)), max(values)))
    return low if low == high else f"{low} to {high}, median {middle}"


def _counted(names: object) -> str:
    """How often each name occurs."""
    return ", ".join(f"{name} {count}" for name, count in Counter(names).most_common())  # type: ignore[call-overload]


def inspect_dataset(
    dataset_dir: str | Path, section: str, labels: bool, output: Path, assumed_orientation: str | None = None
) -> tuple[list[ScanFacts], list[str]]:
    """
    Look at each scan of a data set, and write a page about them.

    Args:
        dataset_dir: see ``scripts.data.load_datalist``.
        section: likewise.
        labels: likewise.
        output: the page to write.
        assumed_orientation: of a file that tells none, see ``scripts.data.datalist.file_problems``.

    Returns:
        What the scans hold, and what is wrong with the data set beside that.

    Raises:
        FileNotFoundError: when ``dataset_dir`` does not exist.
        ValueError: when no scan is found, the section of some cannot be told, or ``assumed_orientation`` is none.
    """
    axcodes = checked_axcodes(assumed_orientation)
    items, problems = list_scans(dataset_dir, section, labels)
    scans: list[ScanFacts] = []
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile("w+", dir=output.parent, encoding="utf-8") as parts:
        for item in tqdm(items, desc="inspect scans", unit="scan"):
            headers = [printable(text) for text in file_problems(item["image"], item.get("label"), axcodes)]
            if labels and "label" not in item:
                named = "its DICOM series" if is_dicom(item["image"]) else item["image"]
                headers.append(printable(f"{named}: has no label."))
            scans.append(ScanFacts(item["scan"], problems=headers) if headers else _add_scan(item, parts, axcodes))
        problems = [printable(text) for text in problems] + doubled_images(scans)
        page = render(
            "inspect.html", parting=_PARTING, summary=summary_of(scans), scans=scans, problems=problems, section=section
        )
        _join(page, parts, output)
    return scans, problems


def _add_scan(item: dict, parts: IO[str], axcodes: str | None) -> ScanFacts:
    """Look at a scan, and write its picture to the parts of the page."""
    facts, image, ids = scan_facts(item, axcodes)
    if image is not None:
        instances = {} if ids is None else {"fracture": ids}
        scan = Scan(image.numpy()[0], image.affine.numpy(), BONE_WINDOW_HU, instances)
        parts.write(render("inspect_scan.html", facts=facts, view=projections(scan, None)[0]))
    return facts


def _join(page: str, parts: IO[str], output: Path) -> None:
    """Write a page with its parts in their place."""
    before, _, after = page.partition(_PARTING)
    parts.seek(0)
    with whole_file(output) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(before)
        shutil.copyfileobj(parts, file)
        file.write(after)


def _as_text(scans: Sequence[ScanFacts], problems: Sequence[str]) -> str:
    """What the command prints."""
    lines = [f"{name:<28}{text}" for name, text in summary_of(scans).items()]
    told = [f"{facts.scan}: {text}" for facts in scans for text in facts.problems]
    noted = [f"{facts.scan}: {text}" for facts in scans for text in facts.notes]
    for title, texts in (("Problems", [*problems, *told]), ("To look at", noted)):
        lines += ["", f"{title}: {len(texts)}", *(f"  {text}" for text in texts)]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Inspect from the command line; ``--help`` explains the arguments.

    Args:
        arguments: command line arguments; those of the process where None.
    """
    parser = parser_of("inspect")
    options = parser.parse_args(arguments)
    try:
        scans, problems = inspect_dataset(
            options.dataset_dir,
            options.section,
            not options.images_only,
            options.output,
            options.assumed_orientation,
        )
    except (FileNotFoundError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")
    print(_as_text(scans, problems))
    print(f"\nTo look at the scans, open {options.output} in a browser.")
    sys.exit(1 if problems or any(facts.problems for facts in scans) else 0)

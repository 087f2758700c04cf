"""
Read a folder of scans, its annotations and its tables into MONAI's list of dictionaries.

As a command it writes the scans of a folder as a data list: which scan is which files, found once for many runs::

    python -m scripts.datalist --dataset_dir /data/studies --output /data/scans.json
"""

import argparse
import json
import logging
import math
import os
import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, cast

import nibabel as nib
import numpy as np
from monai.data import load_decathlon_datalist
from monai.utils import ensure_tuple
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, SpatialImage

from scripts.atomic_write import write_json
from scripts.dicom_files import looks_like_dicom
from scripts.dicom_series import DicomSeries, find_series, is_dicom, read_series, scan_names
from scripts.folder_files import FolderFiles, files_below
from scripts.grids import corner_shift_mm, grid_difference
from scripts.headers import checked_axcodes, nifti_affine, stated_affine, tells_orientation
from scripts.ignored_files import IgnoredFiles, ignored_files, is_bookkeeping, log_ignored
from scripts.ribfrac_tables import read_ribfrac_table
from scripts.scan_names import natural_order, printable, safe_names
from scripts.volume_files import (
    FORMATS,
    header_by_itk,
    header_of_nifti,
    is_nifti,
    is_volume,
    load_nifti,
    volume_stem,
    volume_suffix,
)

__all__ = [
    "ScanList",
    "file_notes",
    "file_problems",
    "list_scans",
    "load_datalist",
    "main",
    "scan_name",
]

_logger = logging.getLogger(__name__)

_SECTIONS = ("training", "validation", "test")

# Words in folder names that tell the section; Part1 and Part2 are what RibFrac's training images unpack to.
_SECTION_OF_WORD = {
    "train": "training",
    "training": "training",
    "part1": "training",
    "part2": "training",
    "val": "validation",
    "validation": "validation",
    "test": "test",
}
# RibFrac's numbers, Zenodo records 3893508, 3893498, 3893496 and 3993380
_SECTION_OF_NUMBER = {"training": range(1, 421), "validation": range(421, 501), "test": range(501, 661)}
_VALIDATION_EVERY = 5
_TABLE_COLUMNS = ["public_id", "label_id", "label_code"]
_FRACTURE_CODES = (-1, 1, 2, 3, 4)
# How far the sform and the qform of a header may lie apart: about a voxel
_MAX_FORMS_SHIFT_MM = 1.0
# Smaller or larger sides of a voxel are a mistake in the header, such as meters or a pixel's number
_VOXEL_MM = (0.05, 50.0)
# Units of length in xyzt_units, beside 2 for mm and 0 for unknown, and the bits that hold them: nifti1.h
_OTHER_UNITS = {1: "meters", 3: "micrometers"}
_SPACE_UNITS = 7
# 1024 x 1024 x 1024; a CT of 2 m in slices of 1 mm has half of that. A small compressed file may ask for far more
_MAX_VOXELS = 2**30
_MAX_PROBLEMS_SHOWN = 10
# What nibabel and gzip raise for a file that is cut short or is something else, or whose qform is no rotation
_UNREADABLE = (ImageFileError, HeaderDataError, EOFError, OSError, ValueError, zlib.error)


@dataclass
class _Scan:
    """The files found under one name; more than one of a kind is a mistake of the folder."""

    images: list[Path] = field(default_factory=list)  # of a DICOM series, its folder
    labels: list[Path] = field(default_factory=list)
    slices: list[str] = field(default_factory=list)  # of a DICOM series, in order

    @property
    def image(self) -> str | list[str]:
        return self.slices or str(self.images[0])


class ScanList(list[dict[str, Any]]):
    """
    The items of a data set, and what was not taken for a scan.

    Args:
        items: see :func:`load_datalist`.
        ignored: files that were passed over, see :func:`scripts.ignored_files.ignored_files`.
    """

    def __init__(self, items: Iterable[dict[str, Any]] = (), ignored: Sequence[IgnoredFiles] = ()) -> None:
        super().__init__(items)
        self.ignored = list(ignored)


def load_datalist(
    dataset_dir: str | os.PathLike[str],
    section: str,
    labels: bool = True,
    check: bool = True,
    assumed_orientation: str | None = None,
    predictions_dir: str | os.PathLike[str] | None = None,
) -> ScanList:
    """
    List the scans of one section of a data set, each with its annotation and its table of fracture types.

    MONAI reads data lists from JSON files only. This reads them from the folders, and checks the headers of every
    pair, so that a broken data set stops a run at its start and not after hours. ``dataset_dir`` is one of:

    - a folder with ``X-image.nii.gz``, ``X-label.nii.gz`` and ``*info*.csv`` in it or in any folder below it: the
      RibFrac archives as they unpack, or ``images/`` and ``labels/``. An image and a label are a pair when they share
      ``X``; both may be in any format of :mod:`scripts.volume_files`, and suffixes in any case.
      Tables are needed, except for images in a folder called ``images`` when there is no table at all;
    - a MONAI data list ``.json``, or a folder that holds it as ``dataset.json``; its paths are relative to the file.
      An item may hold its table as ``label_codes``, ``{"1": 3, ...}``, and its name as ``scan``;
    - without labels, also any folder of such files and of DICOM files, at any depth, a single file or a single folder
      of slices. Each CT series is a scan, found and named by :mod:`scripts.dicom_series`.

    The section of a scan is told by the folders below ``dataset_dir`` with the word train, training, Part1, Part2,
    val, validation or test in their name (as in ``ribfrac-val-images``), else by RibFrac's numbers (1-420 training,
    421-500 validation, 501-660 test). Where that tells nothing for any scan, every fifth one, from the first on and in
    natural order, is for validation, the others are for training, and none is for the test (ask for all to score a
    folder). Without labels, folders tell it only of files in RibFrac's naming, and where none does
    all scans are listed.

    Each real folder is visited once, and results of earlier runs are left out, see :mod:`scripts.folder_files`. Scans
    have names that files and tables can hold, see :func:`scripts.scan_names.safe_name`. What is not taken for a scan is
    counted, in one line of the log and in the list's ``ignored``.

    Args:
        dataset_dir: the folder or file, as above.
        section: ``"training"``, ``"validation"``, ``"test"``, or ``"all"``.
        labels: whether scans have annotations; if not, labels and tables that are there are passed over.
        check: whether the header of every file is read here, so that one bad scan stops the run at its start; otherwise
            :class:`scripts.transforms.CheckFilesd` has to do it.
        assumed_orientation: of a file that tells none, see :func:`file_problems`; used by the check alone.
        predictions_dir: folder of the masks of the run that asks, which are no scans.

    Returns:
        One item per scan in natural order (RibFrac2 before RibFrac10): ``scan``, its name, for RibFrac the public id;
        ``image``, the path of a file, those of a DICOM series' slices in order, or, where a data list has it so, that
        of the folder that holds the series alone; and with labels ``label``, a path, and, where there is a table,
        ``label_codes``, ``{fracture id: code}`` with codes 1 displaced, 2 nondisplaced, 3 buckle, 4 segmental, -1
        unknown.

    Raises:
        FileNotFoundError: when ``dataset_dir`` does not exist.
        ValueError: when no scan is found, or files are missing, doubled, unreadable, or do not fit each other.

    Example:
        >>> load_datalist("data", "validation")[0]
        {'scan': 'RibFrac421', 'image': 'data/ribfrac-val-images/RibFrac421-image.nii.gz',
         'label': 'data/ribfrac-val-labels/RibFrac421-label.nii.gz', 'label_codes': {1: 2, 2: -1}}

    References:
        Jin et al. (2020), EBioMedicine, doi:10.1016/j.ebiom.2020.103106.
    """
    items, problems = list_scans(dataset_dir, section, labels, predictions_dir)
    root = Path(dataset_dir).expanduser()
    _raise_problems(root, problems)
    if labels:
        unlabeled = (ensure_tuple(item["image"])[0] for item in items if "label" not in item)
        _raise_problems(
            root, (f"{image}: has no label; to list images only, set labels to false." for image in unlabeled)
        )
    if check:
        files = ((item["image"], item.get("label")) for item in items)
        _raise_problems(
            root, chain.from_iterable(file_problems(image, label, assumed_orientation) for image, label in files)
        )
    return items


def list_scans(
    dataset_dir: str | os.PathLike[str],
    section: str,
    labels: bool = True,
    predictions_dir: str | os.PathLike[str] | None = None,
) -> tuple[ScanList, list[str]]:
    """
    List the scans of one section as :func:`load_datalist` does, without a look into their headers.

    Args:
        dataset_dir: see :func:`load_datalist`.
        section: likewise.
        labels: likewise.
        predictions_dir: likewise.

    Returns:
        The scans whose files are there once, and their table where there is one; and what is wrong with the others.

    Raises:
        FileNotFoundError: when ``dataset_dir`` does not exist.
        ValueError: when no scan is found, or the section of some cannot be told.
    """
    root = Path(dataset_dir).expanduser()
    if section not in (*_SECTIONS, "all"):
        raise ValueError(f"section is '{section}': use one of {', '.join(_SECTIONS)} or all.")
    if not root.exists():
        raise FileNotFoundError(f"{root} does not exist: set dataset_dir to the folder that holds the scans.")

    data_list = root if root.suffix == ".json" else root / "dataset.json"
    problems: list[str] = []
    if data_list.is_file():
        items = ScanList(_items_of_json(data_list, section))
        names = safe_names(item["scan"] for item in items)
    else:
        items, names = _items_of_folder(root, section, labels, predictions_dir, problems)
    for item in items:
        name, item["scan"] = item["scan"], names[item["scan"]]
        if name != item["scan"]:
            _logger.info(f"The scan '{printable(name)}' is called '{item['scan']}' in files and tables.")
        if not labels:
            item.pop("label", None)
            item.pop("label_codes", None)
    items.sort(key=lambda item: natural_order(item["scan"]))
    return items, problems


def _items_of_json(data_list: Path, section: str) -> list[dict[str, Any]]:
    """Read the items of a MONAI data list."""
    try:
        content = json.loads(data_list.read_text())
    except ValueError as error:
        raise ValueError(f"{data_list} is not JSON: {error}.") from error
    present = [key for key in _SECTIONS if isinstance(content, dict) and content.get(key)]
    if section != "all" and section not in present:
        raise ValueError(
            f"{data_list} lists no scans under '{section}', but under {present}: add them, or ask for all."
        )

    items = []
    scans: dict[str, _Scan] = defaultdict(_Scan)
    for key in present if section == "all" else [section]:
        try:
            entries = load_decathlon_datalist(data_list, data_list_key=key)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{data_list}: '{key}' is no list of items with image and label ({error!r}).") from error
        for number, entry in enumerate(entries):
            image = entry.get("image")
            slices: list[Any] = image if isinstance(image, list) and image else [image]
            if not all(isinstance(path, str) for path in (*slices, entry.get("label", ""))):
                raise ValueError(f"{data_list}: item {number} of '{key}' needs one path as image, and one as label.")
            if len(slices) > 1 and any(is_volume(path) for path in slices):
                raise ValueError(f"{data_list}: item {number} of '{key}' has several images: give each an item.")
            # as it is written: MONAI takes a name that is also one of a file for a path
            written = content[key][number]
            name = written.get("scan") if isinstance(written, dict) else None
            name = scan_name(Path(slices[0])) if name is None else name
            if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name:
                raise ValueError(f"{data_list}: item {number} of '{key}' needs as scan a name that a file can have.")
            item = {"scan": name, "image": slices if len(slices) > 1 else slices[0]}
            if "label" in entry:
                item["label"] = entry["label"]
            if "label_codes" in entry:
                try:
                    item["label_codes"] = {int(i): int(code) for i, code in entry["label_codes"].items()}
                except (AttributeError, ValueError) as error:
                    raise ValueError(f"{data_list}: label_codes of item {number} of '{key}' needs numbers.") from error
            items.append(item)
            scans[name].images.append(Path(slices[0]))
    _raise_problems(data_list, _doubles(scans))
    return items


def _items_of_folder(
    root: Path, section: str, labels: bool, predictions_dir: str | os.PathLike[str] | None, problems: list[str]
) -> tuple[ScanList, dict[str, str]]:
    """
    Find the scans of a folder, or take it for one, and join them to labels and tables; add to the problems.

    The second value is the safe name of each scan of the folder, whichever of them are chosen.
    """
    below = files_below(root, predictions_dir)
    volumes, others = ([root], []) if root.is_file() and is_volume(root) else _volumes(below.files)
    scans, ignored, series = _find_pairs(volumes, others) if labels else _find_images(root, volumes, others)
    shown = partial(_shown, root=root, series=series)
    counted = ignored_files(ignored, shown)
    _log_folders(below, shown)
    log_ignored(counted)
    if not scans:
        pairs = "X-image.nii.gz and X-label.nii.gz (for scans without annotations, set labels to false)"
        wanted = pairs if labels else f"{FORMATS} and CT series as DICOM"
        raise ValueError(f"{root} holds no scan: looked in it and below it for {wanted}, and for dataset.json.")
    names = safe_names(scans)
    chosen = _choose(root, scans, section, labels)
    if not labels:
        problems += _doubles(chosen)
        return ScanList(({"scan": scan, "image": found.image} for scan, found in chosen.items()), counted), names

    problems += [*_doubles(chosen), *_singles(chosen)]
    table_files = [path for path in others if re.search(r"info.*\.csv$", path.name, re.IGNORECASE)]
    tables = _read_tables(table_files, problems)
    items = ScanList(ignored=counted)
    for scan, found in chosen.items():
        if len(found.images) != 1 or len(found.labels) != 1:
            continue
        image = found.images[0]
        items.append({"scan": scan, "image": str(image), "label": str(found.labels[0])})
        if scan.strip() in tables:  # tables are read without blanks
            items[-1]["label_codes"] = tables[scan.strip()]
        elif table_files:
            problems.append(f"{image}: {scan} is in none of the tables {', '.join(map(str, table_files))}.")
    if not table_files and any(Path(item["image"]).parent.name != "images" for item in items):
        problems.append(f"{root} holds no table of fracture types (*info*.csv): put RibFrac's tables there.")
    return items, names


def _volumes(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """
    Tell files that stand for a volume from others; those that hold a part of one beside it are neither.

    A pair is listed by its ``.img``, one with the voxels elsewhere by its ``.nhdr`` or ``.mhd``.
    """
    suffixes = {path: volume_suffix(path) for path in files}
    parts: dict[str, set[Path]] = defaultdict(set)
    for path, suffix in suffixes.items():
        if suffix in (".img", ".hdr", ".nhdr", ".mhd"):
            parts[suffix].add(path.with_name(path.name[: -len(suffix)]))
    pairs, heads = parts[".img"] & parts[".hdr"], parts[".nhdr"] | parts[".mhd"]
    volumes, others = [], []
    for path, suffix in suffixes.items():
        is_half = suffix in (".img", ".hdr") and path.with_name(path.name[:-4]) not in pairs
        if suffix and suffix != ".hdr" and not is_half:
            volumes.append(path)
        elif is_half or not suffix and not _is_data_of(path, heads):
            others.append(path)
    return volumes, others


def _is_data_of(path: Path, heads: Set[Path]) -> bool:
    """Tell whether a file holds the voxels of one of these headers, by its name."""
    data = re.fullmatch(r"(.*)\.z?raw(\.gz)?", path.name, re.IGNORECASE | re.DOTALL) if heads else None
    return data is not None and path.with_name(data[1]) in heads


def _log_folders(below: FolderFiles, shown: Callable[[Path], str]) -> None:
    """Tell which folders were not looked into."""
    for folders, what in (
        (below.results, "Folders of results are no input, and left out"),
        (below.unreadable, "Folders that may not be opened are left out"),
    ):
        if folders:
            more = f" and {len(folders) - _MAX_PROBLEMS_SHOWN} others" if len(folders) > _MAX_PROBLEMS_SHOWN else ""
            _logger.warning(f"{what}: {', '.join(map(shown, folders[:_MAX_PROBLEMS_SHOWN]))}{more}.")


def _shown(path: Path, root: Path, series: Sequence[DicomSeries]) -> str:
    """Write a path below a root for a message, without the folders that name the patient of a series."""
    inside = path.relative_to(root) if path != root else Path(path.name)
    parts = ["[patient]" if any(one.names_patient(part) for one in series) else part for part in inside.parts]
    return printable(str(Path(*parts)))


def _find_pairs(
    volumes: Sequence[Path], others: Sequence[Path]
) -> tuple[dict[str, _Scan], list[Path], list[DicomSeries]]:
    """Collect the files called ``X-image.nii.gz`` and ``X-label.nii.gz`` under their ``X``; what is left is ignored."""
    scans: dict[str, _Scan] = defaultdict(_Scan)
    ignored = list(others)
    for path in volumes:
        if _is_called(path, "image"):
            scans[scan_name(path)].images.append(path)
        elif _is_called(path, "label"):
            scans[volume_stem(path)[: -len("-label")]].labels.append(path)
        else:
            ignored.append(path)
    return scans, sorted(ignored), []


def _find_images(
    root: Path, volumes: Sequence[Path], others: Sequence[Path]
) -> tuple[dict[str, _Scan], list[Path], list[DicomSeries]]:
    """Collect every volume that is no label, and every CT series of DICOM slices; what is neither is ignored."""
    scans: dict[str, _Scan] = defaultdict(_Scan)
    for path in volumes:
        if not _is_called(path, "label"):
            scans[scan_name(path)].images.append(path)
    others = [path for path in others if not is_bookkeeping(path) and path != root]
    series, passed = find_series(others)
    for name, found in zip(scan_names(series, root), series):
        scans[name].images.append(found.folder)
        scans[name].slices = [str(path) for path in found.files]
    if passed and not scans:
        shown = "\n".join(passed[:_MAX_PROBLEMS_SHOWN])
        raise ValueError(f"{root} holds no scan, but DICOM that is none:\n{shown}")
    slices = {path for found in series for path in found.files}
    return scans, [path for path in others if path not in slices and not looks_like_dicom(path)], series


def _choose(root: Path, scans: dict[str, _Scan], section: str, labels: bool) -> dict[str, _Scan]:
    """Keep the scans of one section, by folder, else by RibFrac's number, else every fifth for validation."""
    if section == "all":
        return scans
    by_folder = {
        scan: _sections_of_folders(root, [*found.images, *found.labels]) if labels or _is_ribfrac(found) else []
        for scan, found in scans.items()
    }
    _raise_problems(
        root,
        (
            f"{[*scans[scan].images, *scans[scan].labels][0]}: the folders of {scan} say both {' and '.join(said)}."
            for scan, said in by_folder.items()
            if len(said) > 1
        ),
    )
    if not labels and not any(by_folder.values()):
        return scans
    section_of = {scan: said[0] if said else _section_of_number(scan) for scan, said in by_folder.items()}
    if not any(section_of.values()):
        in_order = sorted(scans, key=natural_order)
        section_of = {s: "training" if i % _VALIDATION_EVERY else "validation" for i, s in enumerate(in_order)}
    _raise_problems(
        root,
        (
            f"{[*scans[scan].images, *scans[scan].labels][0]}: no folder tells whether {scan} is for training, "
            "validation or test, as for other scans: move it to such a folder, or ask for the section 'all'."
            for scan, its_section in section_of.items()
            if its_section is None
        ),
    )
    chosen = {scan: scans[scan] for scan in scans if section_of[scan] == section}
    if not chosen:
        others = ", ".join(sorted({str(other) for other in section_of.values()}))
        raise ValueError(
            f"{root} holds no scan of the section '{section}', but of: {others}. Ask for those or for 'all'."
        )
    return chosen


def _sections_of_folders(root: Path, paths: list[Path]) -> list[str]:
    """Tell the sections that the folders between the root and the files name."""
    folders = chain.from_iterable((p if p.is_dir() else p.parent).relative_to(root).parts for p in paths if p != root)
    words = {word for folder in folders for word in re.split(r"[^a-z0-9]+", folder.lower())}
    return sorted({_SECTION_OF_WORD[word] for word in words if word in _SECTION_OF_WORD})


def _is_ribfrac(scan: _Scan) -> bool:
    """Tell whether a scan has RibFrac's naming; in a folder of other scans a word may be part of a person's name."""
    return any(is_volume(image) and _is_called(image, "image") for image in scan.images)


def _section_of_number(scan: str) -> str | None:
    """Tell the section of a RibFrac public id."""
    match = re.fullmatch(r"RibFrac(\d+)", scan)
    return next((s for s, numbers in _SECTION_OF_NUMBER.items() if match and int(match[1]) in numbers), None)


def _read_tables(paths: list[Path], problems: list[str]) -> dict[str, dict[int, int]]:
    """Read the tables ``public_id,label_id,label_code`` into one dictionary per scan, without the background rows."""
    tables: dict[str, dict[int, int]] = defaultdict(dict)
    for path in paths:
        try:
            rows = read_ribfrac_table(path, _TABLE_COLUMNS).rows
        except ValueError as error:
            problems.append(str(error))
            continue
        for row in rows:
            try:
                label_id, code = row.whole_number("label_id"), row.whole_number("label_code")
            except ValueError as error:
                problems.append(str(error))
                continue
            scan = row.values["public_id"]
            if label_id < 0 or code not in (_FRACTURE_CODES if label_id else (0,)):
                problems.append(f"{row.where}: id {label_id} with code {code}; fractures have -1, 1, 2, 3 or 4.")
            elif label_id in tables[scan]:
                problems.append(f"{row.where}: {scan} has the id {label_id} twice.")
            tables[scan][label_id] = code
    return {scan: {i: code for i, code in codes.items() if i} for scan, codes in tables.items()}


def _doubles(scans: dict[str, _Scan]) -> list[str]:
    """Tell which names more than one file claims: predictions are named after the scan."""
    kinds = chain.from_iterable(((scan, found.images), (scan, found.labels)) for scan, found in scans.items())
    return [
        f"{paths[1]}: {scan} is already at {paths[0]}: rename or remove one." for scan, paths in kinds if len(paths) > 1
    ]


def _singles(scans: dict[str, _Scan]) -> list[str]:
    """Tell which images lack a label, and which labels an image."""
    return [
        (
            f"{found.images[0]}: has no label {scan}-label.nii.gz; to list images only, set labels to false."
            if found.images
            else f"{found.labels[0]}: has no image {scan}-image.nii.gz."
        )
        for scan, found in scans.items()
        if not (found.images and found.labels)
    ]


def file_problems(
    image: str | Sequence[str], label: str | None = None, assumed_orientation: str | None = None
) -> list[str]:
    """
    Tell what is wrong with the files of a scan, by their headers.

    Args:
        image: a file in a format of :mod:`scripts.volume_files`; or a DICOM series, as a list of its slices or the
            folder that holds it alone.
        label: the file of its annotation, on the image's grid; None where there is none.
        assumed_orientation: where the axes run to of a file that does not tell it, such as LPS, see
            :func:`scripts.headers.checked_axcodes`; None: such a file is refused. Where one of image and label tells
            it and the other does not, they are refused in any case: nothing says that they lie on one grid.

    Returns:
        Messages that name the file and what to do; none where all is well.

    Raises:
        ValueError: when ``assumed_orientation`` is no orientation.
    """
    axcodes = checked_axcodes(assumed_orientation)
    if is_dicom(image) and label is not None:
        return [f"{label}: a DICOM series cannot have a label here: convert the series to NIfTI."]
    try:
        if is_dicom(image):
            read_series(image)
            return []
        of_image = _read_header(cast(str, image), axcodes)
        if label is None:
            return []
        of_label = _read_header(label, axcodes)
    except ValueError as error:
        return [str(error)]
    if of_image.tells_orientation != of_label.tells_orientation:
        silent, other = (label, "image") if of_image.tells_orientation else (image, "label")
        return [f"{silent}: tells no orientation, and its {other} does: give it the {other}'s header."]
    if difference := grid_difference(of_label.shape, of_label.affine, of_image.shape, of_image.affine):
        return [f"{label}: is not on the grid of its image, {difference}: give the label of this image."]
    return []


def file_notes(image: str | os.PathLike[str]) -> list[str]:
    """
    Tell what is doubtful about the header of a scan's file, and may be right.

    A NIfTI header can say twice where the voxels lie, by its sform and its qform. nibabel, and so MONAI, takes the
    sform where there is one; other programs may take the other. It can give lengths in other units than mm, which
    nibabel passes over.

    Args:
        image: a file; of one that is no NIfTI nothing is told.

    Returns:
        Messages that do not name the file.
    """
    if not is_nifti(image):
        return []
    scan = cast(nib.nifti1.Nifti1Image, load_nifti(image))
    notes = []
    if unit := _unit_beside_mm(scan):
        notes.append(f"its header gives lengths in {unit}; they are taken as mm.")
    try:
        sform, qform = scan.get_sform(coded=True)[0], scan.get_qform(coded=True)[0]
    except ValueError as error:
        return [*notes, f"its qform cannot be read ({error}); its sform is used."]
    if sform is None or qform is None:
        return notes
    shift_mm = corner_shift_mm(sform, qform, scan.shape)
    if shift_mm <= _MAX_FORMS_SHIFT_MM:
        return notes
    mirrored = np.linalg.det(sform) * np.linalg.det(qform) < 0
    sides = " They disagree about which side is left." if mirrored else ""
    return [*notes, f"its sform and its qform lie up to {shift_mm:.0f} mm apart; the sform is used.{sides}"]


def _unit_beside_mm(image: nib.Nifti1Pair) -> str | None:
    """Tell the unit of length of a NIfTI header, where it is another than mm."""
    return _OTHER_UNITS.get(int(image.header["xyzt_units"]) & _SPACE_UNITS)


class _Header(NamedTuple):
    """What the header of a file tells: its shape, its affine or the one assumed, and whether it tells that."""

    shape: tuple[int, ...]
    affine: np.ndarray
    tells_orientation: bool


def _read_header(path: str, axcodes: str | None) -> _Header:
    """Read the header of a file; ``ValueError`` when it holds no volume, or lies nowhere."""
    if Path(path).is_symlink() and not Path(path).exists():
        raise ValueError(f"{path}: is a link to a file that does not exist: mend or remove it.")
    try:
        with open(path, "rb"):  # nibabel does not say that it may not
            pass
        nifti = _by_nibabel(path) if is_nifti(path) else None
        image = header_by_itk(path) if nifti is None else header_of_nifti(nifti)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: does not exist.") from error
    except PermissionError as error:
        raise ValueError(f"{path}: may not be read ({error.strerror}): ask for the right to read it.") from error
    if len(image.shape) != 3:
        raise ValueError(f"{path}: has {len(image.shape)} axes {image.shape}, a CT scan has 3.")
    if min(image.shape) < 1:
        raise ValueError(f"{path}: has the shape {image.shape}, so no voxel: write it again.")
    if math.prod(image.shape) > _MAX_VOXELS:
        sides = " x ".join(map(str, image.shape))
        raise ValueError(f"{path}: has {sides} voxels, over {_MAX_VOXELS}, for which no memory is taken: crop it.")
    if not image.is_number:
        raise ValueError(f"{path}: holds {image.dtype}, not one number a voxel: write it again in HU.")
    affine = (
        stated_affine(path, image.affine, image.no_orientation, axcodes)
        if nifti is None
        else nifti_affine(nifti, path, axcodes)
    )
    if not np.isfinite(affine).all() or np.linalg.det(affine) == 0:
        raise ValueError(f"{path}: its affine has no inverse, so the size and place of its voxels are unknown.")
    sides_mm = nib.affines.voxel_sizes(affine)
    if not (_VOXEL_MM[0] <= sides_mm.min() and sides_mm.max() <= _VOXEL_MM[1]):
        sides = " x ".join(f"{side:g}" for side in sides_mm)
        unit = _unit_beside_mm(nifti) if isinstance(nifti, nib.Nifti1Pair) else None
        said = f" (its header says {unit}, which most programs pass over)" if unit else ""
        raise ValueError(f"{path}: its voxels of {sides} mm are no CT's{said}: correct the spacing in the header.")
    return _Header(image.shape, affine, tells_orientation(nifti) if nifti is not None else not image.no_orientation)


def _by_nibabel(path: str) -> SpatialImage:
    """Open a NIfTI file or pair."""
    try:
        return load_nifti(path)
    except _UNREADABLE as error:
        raise ValueError(f"{path}: is no readable NIfTI file ({error}): copy it again.") from error


def _raise_problems(root: Path, problems: Iterable[str]) -> None:
    """Raise one error for all problems, with the first of them."""
    found = [printable(problem) for problem in problems]
    if len(found) == 1:
        raise ValueError(found[0])
    if found:
        first = found[:_MAX_PROBLEMS_SHOWN]
        shown = "\n".join(first)
        raise ValueError(f"{printable(str(root))}: {len(found)} problems, here the first {len(first)}:\n{shown}")


def _is_called(path: Path, kind: str) -> bool:
    """Tell whether a volume is an image or a label by RibFrac's naming."""
    return volume_stem(path).lower().endswith(f"-{kind}")


def scan_name(path: Path) -> str:
    """Name a scan after its file or folder: without the extension and RibFrac's ``-image``."""
    stem = volume_stem(path)
    return stem[: -len("-image")] or stem if stem.lower().endswith("-image") else stem


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Write the scans of a folder as a data list; ``--help`` explains the arguments.

    Args:
        arguments: command line arguments; those of the process where None.
    """
    parser = argparse.ArgumentParser(
        prog="python -m scripts.datalist",
        description="Write the scans of a folder, without annotations, as a data list.",
    )
    parser.add_argument("--dataset_dir", required=True, help="folder of NIfTI files and DICOM studies")
    parser.add_argument("--output", type=Path, required=True, help="JSON to write; it names files, so perhaps patients")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")  # tells what is passed over
    try:
        items = load_datalist(Path(options.dataset_dir).resolve(), "all", labels=False, check=False)
        write_json(options.output, {"test": items}, indent=1)
    except (OSError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")
    print(f"{options.output} lists {len(items)} scans.")


if __name__ == "__main__":
    main()

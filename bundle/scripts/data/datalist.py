"""Read a folder of scans, its annotations and its tables into MONAI's list of dictionaries."""

import json
import logging
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from monai.data import load_decathlon_datalist
from monai.utils import ensure_tuple, str2bool

from scripts.data.found_scans import (
    MAX_PROBLEMS_SHOWN,
    FoundScan,
    doubled_files,
    every_fifth_for_validation,
    raise_problems,
    split_volumes,
)
from scripts.data.nnunet import NnunetDataset
from scripts.data.ribfrac import read_ribfrac_table
from scripts.files.folder_files import FolderFiles, files_below
from scripts.files.ignored_files import IgnoredFiles, ignored_files, is_bookkeeping, log_ignored
from scripts.files.scan_names import natural_order, printable, safe_names
from scripts.images.dicom_files import looks_like_dicom
from scripts.images.dicom_series import DicomSeries, HeaderReader, find_series, read_slices, scan_names
from scripts.images.file_checks import file_problems
from scripts.images.volume_files import FORMATS, is_volume, scan_name, volume_stem

__all__ = ["ScanList", "list_scans", "load_datalist"]

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
_TABLE_COLUMNS = ["public_id", "label_id", "label_code"]
_FRACTURE_CODES = (-1, 1, 2, 3, 4)


class ScanList(list[dict[str, Any]]):
    """
    The items of a data set, and what was not taken for a scan.

    Args:
        items: see :func:`load_datalist`.
        ignored: files that were skipped, see :func:`scripts.files.ignored_files.ignored_files`.
    """

    def __init__(self, items: Iterable[dict[str, Any]] = (), ignored: Sequence[IgnoredFiles] = ()) -> None:
        super().__init__(items)
        self.ignored = list(ignored)


def check_section(section: str) -> None:
    """
    Refuse a section that no data set has, before anything is read or generated.

    Args:
        section: the setting.

    Raises:
        ValueError: when it is neither ``training``, ``validation``, ``test`` nor ``all``.
    """
    if section not in (*_SECTIONS, "all"):
        raise ValueError(f"section is '{section}': use one of {', '.join(_SECTIONS)} or all.")


def load_datalist(
    dataset_dir: str | os.PathLike[str],
    section: str,
    labels: bool | str = True,
    check: bool = True,
    assumed_orientation: str | None = None,
    predictions_dir: str | os.PathLike[str] | None = None,
    read_headers: HeaderReader = read_slices,
) -> ScanList:
    """
    List the scans of one section of a data set, each with its annotation and its table of fracture types.

    MONAI reads data lists from JSON files only. This reads them from the folders, and checks the headers of every
    pair, so that a broken data set stops a run at its start and not after hours. ``dataset_dir`` is one of:

    - a folder with ``X-image.nii.gz``, ``X-label.nii.gz`` and ``*info*.csv`` in it or in any folder below it: the
      RibFrac archives as they unpack, or ``images/`` and ``labels/``. An image and a label are a pair when they share
      ``X``; both may be in any format of :mod:`scripts.images.volume_files`, and suffixes in any case.
      Tables are needed, except for images in a folder called ``images`` when there is no table at all;
    - a folder in nnU-Net's layout, see :class:`scripts.data.nnunet.NnunetDataset`, whose sections are told there;
    - a MONAI data list ``.json``, or a folder that holds it as ``dataset.json``; its paths are relative to the file.
      An item may hold its table as ``label_codes``, ``{"1": 3, ...}``, and its name as ``scan``;
    - without labels, also any folder of such files and of DICOM files, at any depth, a single file or a single folder
      of slices. Each CT series is a scan, found and named by :mod:`scripts.images.dicom_series`.

    The section of a scan is told by the folders below ``dataset_dir`` with the word train, training, Part1, Part2,
    val, validation or test in their name (as in ``ribfrac-val-images``), else by RibFrac's numbers (1-420 training,
    421-500 validation, 501-660 test). Where that tells nothing for any scan, every fifth one, from the first on and in
    natural order, is for validation, the others are for training, and none is for the test (ask for all to score a
    folder). Without labels, folders tell it only of files in RibFrac's naming, and where none does
    all scans are listed.

    Each real folder is visited once, and results of earlier runs are left out (:func:`scripts.files.files_below`).
    Scans have names that files and tables can hold (:func:`scripts.files.safe_name`). What is not taken for a scan is
    counted, in one line of the log and in the list's ``ignored``.

    Args:
        dataset_dir: the folder or file, as above.
        section: ``"training"``, ``"validation"``, ``"test"``, or ``"all"``.
        labels: whether scans have annotations; if not, labels and tables that are there are skipped.
        check: whether the header of every file is read here, so that one bad scan stops the run at its start; otherwise
            :class:`scripts.transforms.CheckFilesd` has to do it.
        assumed_orientation: of a file that tells none, see :func:`file_problems`; used by the check alone.
        predictions_dir: folder of the masks of the run that asks, which are no scans.
        read_headers: reads what DICOM files say.

    Returns:
        One item per scan in natural order (RibFrac2 before RibFrac10): ``scan``, its name, for RibFrac the public id;
        ``image``, the path of a file, those of a DICOM series' slices in order, or, where a data list has it so, that
        of the folder that holds the series alone; and with labels ``label``, a path, and, where there is a table,
        ``label_codes``, ``{fracture id: code}`` with codes 1 displaced, 2 nondisplaced, 3 buckle, 4 segmental, -1
        unknown. Where a label holds classes, of which each piece is a fracture, ``label_classes``, ``{value: code}``:
        :class:`scripts.transforms.CheckLabeld` makes ids of it.

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
    labels = str2bool(labels)
    items, problems = list_scans(dataset_dir, section, labels, predictions_dir, read_headers)
    root = Path(dataset_dir).expanduser()
    raise_problems(root, problems)
    if labels:
        unlabeled = (ensure_tuple(item["image"])[0] for item in items if "label" not in item)
        raise_problems(
            root, (f"{image}: has no label; to list images only, set labels to false." for image in unlabeled)
        )
    if check:
        files = ((item["image"], item.get("label")) for item in items)
        raise_problems(
            root, chain.from_iterable(file_problems(image, label, assumed_orientation) for image, label in files)
        )
    return items


def list_scans(
    dataset_dir: str | os.PathLike[str],
    section: str,
    labels: bool = True,
    predictions_dir: str | os.PathLike[str] | None = None,
    read_headers: HeaderReader = read_slices,
) -> tuple[ScanList, list[str]]:
    """
    List the scans of one section as :func:`load_datalist` does, without a look into their headers.

    Args:
        dataset_dir: see :func:`load_datalist`.
        section: likewise.
        labels: likewise.
        predictions_dir: likewise.
        read_headers: likewise.

    Returns:
        The scans whose files are there once, and their table where there is one; and what is wrong with the others.

    Raises:
        FileNotFoundError: when ``dataset_dir`` does not exist.
        ValueError: when no scan is found, or the section of some cannot be told.
    """
    root = Path(dataset_dir).expanduser()
    check_section(section)
    if not root.exists():
        raise FileNotFoundError(f"{root} does not exist: set dataset_dir to the folder that holds the scans.")

    nnunet = NnunetDataset(root)
    data_list = root if root.suffix == ".json" else root / "dataset.json"
    problems: list[str] = []
    if nnunet.is_one:
        items, names = _items_of_nnunet(nnunet, section, labels, problems)
    elif data_list.is_file():
        items = ScanList(_items_of_json(data_list, section))
        names = safe_names(item["scan"] for item in items)
    else:
        items, names = _items_of_folder(root, section, labels, predictions_dir, problems, read_headers)
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
    scans: dict[str, FoundScan] = defaultdict(FoundScan)
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
    raise_problems(data_list, doubled_files(scans))
    return items


def _items_of_nnunet(
    dataset: NnunetDataset, section: str, labels: bool, problems: list[str]
) -> tuple[ScanList, dict[str, str]]:
    """Find the scans of a data set of nnU-Net; add to the problems. The second value is as of `_items_of_folder`."""
    classes = dataset.label_classes() if labels else None
    found = dataset.find(labels)
    ignored = ignored_files(found.ignored, lambda path: printable(str(path.relative_to(dataset.root))))
    log_ignored(ignored)
    if not found.scans and not found.problems:
        raise ValueError(f"{dataset.root} holds no scan: looked in imagesTr and imagesTs for CASE_0000.nii.gz.")
    problems += [*doubled_files(found.scans), *found.problems]
    items = ScanList(ignored=ignored)
    for scan, files in _of_section(dataset.root, found.scans, found.sections, section).items():
        if len(files.images) != 1 or labels and len(files.labels) != 1:
            continue
        items.append({"scan": scan, "image": files.image})
        items[-1] |= {"label": str(files.labels[0])} if labels else {}
        items[-1] |= {} if classes is None else {"label_classes": classes}
    return items, safe_names(found.scans)


def _items_of_folder(
    root: Path,
    section: str,
    labels: bool,
    predictions_dir: str | os.PathLike[str] | None,
    problems: list[str],
    read_headers: HeaderReader,
) -> tuple[ScanList, dict[str, str]]:
    """
    Find the scans of a folder, or take it for one, and join them to labels and tables; add to the problems.

    The second value is the safe name of each scan of the folder, whichever of them are chosen.
    """
    below = files_below(root, predictions_dir)
    volumes, others = ([root], []) if root.is_file() and is_volume(root) else split_volumes(below.files)
    scans, ignored, series = (
        _find_pairs(volumes, others) if labels else _find_images(root, volumes, others, read_headers)
    )
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
        problems += doubled_files(chosen)
        return ScanList(({"scan": scan, "image": found.image} for scan, found in chosen.items()), counted), names

    problems += [*doubled_files(chosen), *_singles(chosen)]
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


def _log_folders(below: FolderFiles, shown: Callable[[Path], str]) -> None:
    """Tell which folders were not looked into."""
    for folders, what in (
        (below.results, "Folders of results are no input, and left out"),
        (below.unreadable, "Folders that may not be opened are left out"),
    ):
        if folders:
            more = f" and {len(folders) - MAX_PROBLEMS_SHOWN} others" if len(folders) > MAX_PROBLEMS_SHOWN else ""
            _logger.warning(f"{what}: {', '.join(map(shown, folders[:MAX_PROBLEMS_SHOWN]))}{more}.")


def _shown(path: Path, root: Path, series: Sequence[DicomSeries]) -> str:
    """Write a path below a root for a message, without the folders that name the patient of a series."""
    inside = path.relative_to(root) if path != root else Path(path.name)
    parts = ["[patient]" if any(one.names_patient(part) for one in series) else part for part in inside.parts]
    return printable(str(Path(*parts)))


def _find_pairs(
    volumes: Sequence[Path], others: Sequence[Path]
) -> tuple[dict[str, FoundScan], list[Path], list[DicomSeries]]:
    """Collect the files called ``X-image.nii.gz`` and ``X-label.nii.gz`` under their ``X``; what is left is ignored."""
    scans: dict[str, FoundScan] = defaultdict(FoundScan)
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
    root: Path, volumes: Sequence[Path], others: Sequence[Path], read_headers: HeaderReader
) -> tuple[dict[str, FoundScan], list[Path], list[DicomSeries]]:
    """Collect every volume that is no label, and every CT series of DICOM slices; what is neither is ignored."""
    scans: dict[str, FoundScan] = defaultdict(FoundScan)
    for path in volumes:
        if not _is_called(path, "label"):
            scans[scan_name(path)].images.append(path)
    others = [path for path in others if not is_bookkeeping(path) and path != root]
    series, passed = find_series(others, read_headers)
    for name, found in zip(scan_names(series, root), series):
        scans[name].images.append(found.folder)
        scans[name].slices = [str(path) for path in found.files]
    if passed and not scans:
        shown = "\n".join(passed[:MAX_PROBLEMS_SHOWN])
        raise ValueError(f"{root} holds no scan, but DICOM that is none:\n{shown}")
    slices = {path for found in series for path in found.files}
    return scans, [path for path in others if path not in slices and not looks_like_dicom(path)], series


def _choose(root: Path, scans: dict[str, FoundScan], section: str, labels: bool) -> dict[str, FoundScan]:
    """Keep the scans of one section, by folder, else by RibFrac's number, else every fifth for validation."""
    if section == "all":
        return scans
    by_folder = {
        scan: _sections_of_folders(root, [*found.images, *found.labels]) if labels or _is_ribfrac(found) else []
        for scan, found in scans.items()
    }
    raise_problems(
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
        section_of = dict(every_fifth_for_validation(scans))
    raise_problems(
        root,
        (
            f"{[*scans[scan].images, *scans[scan].labels][0]}: no folder name says whether {scan} is for training, "
            "validation or test, as for other scans: move it to such a folder, or ask for the section 'all'."
            for scan, its_section in section_of.items()
            if its_section is None
        ),
    )
    return _of_section(root, scans, section_of, section)


def _of_section(
    root: Path, scans: dict[str, FoundScan], section_of: Mapping[str, str | None], section: str
) -> dict[str, FoundScan]:
    """Keep the scans of one section; ``ValueError`` where there is none."""
    chosen = {scan: scans[scan] for scan in scans if section in ("all", section_of[scan])}
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


def _is_ribfrac(scan: FoundScan) -> bool:
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


def _singles(scans: dict[str, FoundScan]) -> list[str]:
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


def _is_called(path: Path, kind: str) -> bool:
    """Tell whether a volume is an image or a label by RibFrac's naming."""
    return volume_stem(path).lower().endswith(f"-{kind}")

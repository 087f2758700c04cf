"""Data sets in nnU-Net's layout: its folders, its ``dataset.json``, and its splits."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scripts.data.found_scans import FoundScan, every_fifth_for_validation, split_volumes
from scripts.data.ribfrac import CLASS_NAMES, UNKNOWN_CLASS
from scripts.files.folder_files import files_below
from scripts.files.scan_names import natural_order
from scripts.images.volume_files import is_volume, volume_stem

__all__ = ["NnunetDataset", "NnunetScans"]

_CHANNEL = re.compile(r"(.+)_(\d{4})", re.DOTALL)
_CODE_OF_NAME = {name.lower(): code for code, name in CLASS_NAMES.items()} | {"unknown": UNKNOWN_CLASS}
_ADVICE = (
    "name one value for all fractures, RibFrac's types (displaced, nondisplaced, buckle, segmental, unknown), "
    "or the ids of fractures (fracture_1, fracture_2 ...)."
)


class NnunetScans(NamedTuple):
    """
    What lies in the folders of a data set.

    Args:
        scans: the files of each case.
        sections: of each case, ``training``, ``validation`` or ``test``.
        ignored: files that are no volumes.
        problems: what is wrong with the cases.
    """

    scans: dict[str, FoundScan]
    sections: dict[str, str]
    ignored: list[Path]
    problems: list[str]


class NnunetDataset:
    """
    A folder in nnU-Net's layout.

    ``imagesTr`` and ``imagesTs`` hold ``CASE_0000.nii.gz``, ``labelsTr`` and, where there is one, ``labelsTs``
    ``CASE.nii.gz``, each in any format of :mod:`scripts.images.volume_files`. ``splits_final.json`` says which cases of
    ``imagesTr`` are for validation, by its first fold; without it every fifth one is. ``imagesTs`` is the test.

    Args:
        folder: the data set's folder, or its ``dataset.json``.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder.parent if folder.name == "dataset.json" else folder
        self.description = self.root / "dataset.json"

    @property
    def is_one(self) -> bool:
        """Whether the folder has this layout: nnU-Net's ``dataset.json``, or images whose names end with a channel."""
        content = _read_json(self.description) if self.description.is_file() else None
        if isinstance(content, dict) and "channel_names" in content:
            return True
        images = (path for part in ("Tr", "Ts") for path in self.root.glob(f"images{part}/*_0000.*"))
        return any(is_volume(path) and _CHANNEL.fullmatch(volume_stem(path)) for path in images)

    def find(self, labels: bool) -> NnunetScans:
        """
        Find the scans.

        Args:
            labels: whether scans have annotations; then ``imagesTs`` counts where there is a ``labelsTs``.

        Raises:
            ValueError: when ``splits_final.json`` does not have each case of ``imagesTr`` in its first fold.
        """
        found = NnunetScans(defaultdict(FoundScan), {}, [], [])
        trained = self._add("Tr", labels, found)
        tested = (
            self._add("Ts", labels, found) if (self.root / f"{'labels' if labels else 'images'}Ts").is_dir() else []
        )
        splits = self.root / "splits_final.json"
        found.sections.update(_split(splits, trained) if splits.is_file() else every_fifth_for_validation(trained))
        found.sections.update(dict.fromkeys(tested, "test"))
        return found

    def _add(self, part: str, labels: bool, to: NnunetScans) -> list[str]:
        """Add the scans of ``images`` + ``part``, and return their names."""
        images, others = split_volumes(files_below(self.root / f"images{part}").files)
        marked, more = split_volumes(files_below(self.root / f"labels{part}").files) if labels else ([], [])
        to.ignored.extend(path for path in (*others, *more) if path.is_file())
        channels: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
        for path in images:
            if match := _CHANNEL.fullmatch(volume_stem(path)):
                channels[match[1]][match[2]].append(path)
            else:
                to.problems.append(f"{path}: has no channel in its name: nnU-Net calls it {volume_stem(path)}_0000.")
        scans: dict[str, FoundScan] = defaultdict(FoundScan)
        for case, files in channels.items():
            scans[case].images += next(iter(files.values()))
            if len(files) > 1:
                to.problems.append(f"{scans[case].images[0]}: {case} has {len(files)} channels: keep the CT, in HU.")
        for path in marked:
            scans[volume_stem(path)].labels.append(path)
        for case, scan in scans.items():
            if not scan.images:
                to.problems.append(f"{scan.labels[0]}: has no image images{part}/{case}_0000.nii.gz.")
            elif labels and not scan.labels:
                what = f"has no label labels{part}/{case}.nii.gz"
                to.problems.append(f"{scan.images[0]}: {what}; to list images only, set labels to false.")
            to.scans[case].images += scan.images
            to.scans[case].labels += scan.labels
        return list(scans)

    def label_classes(self) -> dict[int, int] | None:
        """
        Read from ``dataset.json`` what the values of a label mean.

        Returns:
            The class code of each value, where a value marks all fractures or those of a type; ``None`` where it is the
            id of one fracture.

        Raises:
            ValueError: when it describes something else than fractures in CT.
        """
        path = self.description
        if not path.is_file():
            raise ValueError(f"{path} does not exist: it says what the labels' values mean; write it as for nnU-Net.")
        content = _read_json(path)
        channels = content.get("channel_names", content.get("modality")) if isinstance(content, dict) else None
        names = list(channels.values()) if isinstance(channels, dict) else channels
        if not isinstance(names, list) or [str(name).upper() for name in names] != ["CT"]:
            raise ValueError(f"{path}: its channels are {channels}; a scan has one, in HU: write {{'0': 'CT'}}.")
        foreground = _foreground(content.get("labels"))
        if not foreground:
            raise ValueError(f"{path}: its labels are {content.get('labels')}: {_ADVICE}")
        codes = {value: _CODE_OF_NAME.get(re.sub("fractures?|[^a-z]", "", n)) for value, n in foreground.items()}
        if len(codes) == 1:
            return {value: code or UNKNOWN_CLASS for value, code in codes.items()}
        if all(codes.values()):
            return {value: code for value, code in codes.items() if code}
        if all(re.fullmatch(rf"(fracture)?\W*_?0*{value}", name) for value, name in foreground.items()):
            return None
        raise ValueError(f"{path}: its labels are {', '.join(foreground.values())}: {_ADVICE}")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error


def _foreground(labels: Any) -> dict[int, str]:
    """Return the names of values above 0, in small letters; none where they are not of whole numbers."""
    if not isinstance(labels, dict):
        return {}
    is_old = all(str(key).isdecimal() for key in labels)  # of nnU-Net's first version, {"1": "fracture"}
    pairs = [(name, value) if is_old else (value, name) for name, value in labels.items()]
    if not all(str(value).isdecimal() for value, _ in pairs):
        return {}
    return {int(value): str(name).lower() for value, name in pairs if int(value) > 0}


def _split(path: Path, cases: Sequence[str]) -> dict[str, str]:
    """Read the first fold of ``splits_final.json``."""
    folds = _read_json(path)
    fold = folds[0] if isinstance(folds, list) and folds else None
    lists: list[Any] = [fold.get("train"), fold.get("val")] if isinstance(fold, dict) else [None]
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists):
        raise ValueError(f"{path}: its first fold has no lists of names 'train' and 'val': copy nnU-Net's file again.")
    sections = {name: section for section, names in zip(("training", "validation"), lists) for name in names}
    if doubled := sorted(set(lists[0]) & set(lists[1]), key=natural_order):
        raise ValueError(f"{path}: its first fold has {doubled[0]} in 'train' and in 'val': keep it in one.")
    if wrong := sorted(set(sections) ^ set(cases), key=natural_order):
        told = "is not in imagesTr" if wrong[0] in sections else "is in imagesTr, but not in its first fold"
        raise ValueError(f"{path}: {wrong[0]} {told}: make the splits anew, or remove the file.")
    return sections

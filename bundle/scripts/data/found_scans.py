"""The files of a data set under the names of their scans, and what is wrong with them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from scripts.files.scan_names import natural_order, printable
from scripts.images.volume_files import volume_suffix

__all__ = [
    "MAX_PROBLEMS_SHOWN",
    "FoundScan",
    "doubled_files",
    "every_fifth_for_validation",
    "raise_problems",
    "split_volumes",
]

MAX_PROBLEMS_SHOWN = 10
_VALIDATION_EVERY = 5


@dataclass
class FoundScan:
    """The files found under one name; more than one of a kind is a mistake of the folder."""

    images: list[Path] = field(default_factory=list)  # of a DICOM series, its folder
    labels: list[Path] = field(default_factory=list)
    slices: list[str] = field(default_factory=list)  # of a DICOM series, in order

    @property
    def image(self) -> str | list[str]:
        return self.slices or str(self.images[0])


def split_volumes(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """
    Tell files that stand for a volume from others; those that hold a part of one beside it are neither.

    A pair is listed by its ``.img``, one with the voxels elsewhere by its ``.nhdr`` or ``.mhd``.

    Args:
        files: all files of a data set.

    Returns:
        Those that stand for a volume, and the others.
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


def every_fifth_for_validation(scans: Iterable[str]) -> dict[str, str]:
    """Give the scans of a data set without sections theirs: every fifth, from the first on and in natural order."""
    in_order = sorted(scans, key=natural_order)
    return {scan: "training" if i % _VALIDATION_EVERY else "validation" for i, scan in enumerate(in_order)}


def doubled_files(scans: dict[str, FoundScan]) -> list[str]:
    """Tell which names more than one file claims: predictions are named after the scan."""
    kinds = chain.from_iterable(((scan, found.images), (scan, found.labels)) for scan, found in scans.items())
    return [
        f"{paths[1]}: {scan} is already at {paths[0]}: rename or remove one." for scan, paths in kinds if len(paths) > 1
    ]


def raise_problems(root: Path, problems: Iterable[str]) -> None:
    """
    Raise one error for all problems, with the first of them.

    Args:
        root: the folder or file that they are about.
        problems: messages, each of one line.

    Raises:
        ValueError: when there is one.
    """
    found = [printable(problem) for problem in problems]
    if len(found) == 1:
        raise ValueError(found[0])
    if found:
        first = found[:MAX_PROBLEMS_SHOWN]
        shown = "\n".join(first)
        raise ValueError(f"{printable(str(root))}: {len(found)} problems, here the first {len(first)}:\n{shown}")

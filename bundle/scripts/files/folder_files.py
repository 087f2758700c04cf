"""List the files of a data set's folder: each real folder once, and without the results of earlier runs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from monai.config import PathLike

__all__ = ["FolderFiles", "files_below"]

_RUN_CONFIG = "config.yaml"
# Settings that tell the config of a prediction, an evaluation or a training from other files of that name
_RUN_SETTINGS = re.compile(rb"^bundle_root:.*^(predictions_dir|ckpt_dir):", re.MULTILINE | re.DOTALL)
_RUN_CONFIG_BYTES = 1 << 16  # where they stand, far before its end
_MASK_FOLDERS = ("predictions", "probabilities", "ribs")
# What else a run writes, by the folder in which it lies; there may be scans beside it
_RUN_FILES = {
    ".": re.compile(
        r"config(_.*)?\.yaml|report(-\d+)?\.html|training\.html|(froc|curves)\.png|mlruns\.db|"
        r"progress\.json|headers\.db|summary(-\d+)?\.json"
    ),
    "pictures": re.compile(r".+\.png"),
    "records": re.compile(r".+\.json"),
    "dicom": re.compile(r".+\.(seg|sr)\.dcm"),
    "views": re.compile(r".+\.html"),
    "models": re.compile(r".+\.pt"),
    "tensorboard": re.compile(r"events\..+"),
}
_CHALLENGE_TABLE = "ribfrac-pred.csv"  # lies among the masks of a prediction
_NOT_VISITED = ("__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found")


@dataclass
class FolderFiles:
    """
    What lies in a folder and below it.

    Args:
        files: its files, in order.
        results: folders of results that were left out.
        unreadable: folders that may not be opened.
    """

    files: list[Path] = field(default_factory=list)
    results: list[Path] = field(default_factory=list)
    unreadable: list[Path] = field(default_factory=list)


def files_below(root: Path, predictions_dir: PathLike | None = None) -> FolderFiles:
    """
    List the files in a folder and below it, through links too.

    ``os.walk`` follows links in a loop for ever. Here each real folder is visited once, by its own path rather than by
    that of a link to it; a link to a folder around ``root`` is not followed. Hidden files and folders, and what is
    neither a file nor a folder, are left out. So are the results of predictions, evaluations and trainings: folders
    that hold ``ribfrac-pred.csv``, and beside the ``config.yaml`` that each run saves ``predictions/``,
    ``probabilities/``, ``ribs/`` and what else a run writes, by its name. ``root`` itself is never left out.

    Args:
        root: the folder; a file is listed alone.
        predictions_dir: folder of the masks of the run that asks, which is left out too; it need not exist.

    Returns:
        See :class:`FolderFiles`. A link to a file that does not exist is listed: whoever opens it says so.
    """
    if not root.is_dir():
        return FolderFiles([root])
    visit = _Visit(root, predictions_dir)
    visit.below(root)
    while visit.links:  # behind the folders, which may be those that links lead to
        links, visit.links = sorted(visit.links), []
        for link in links:
            visit.below(Path(link))
    visit.found.files.sort()
    return visit.found


class _Visit:
    """Which folders were visited, what was found there, and the links to folders that are still to be followed."""

    def __init__(self, root: Path, predictions_dir: PathLike | None) -> None:
        self.root = root
        self.found = FolderFiles()
        self.links: list[str] = []
        self.seen = {_identity(folder) for folder in root.resolve().parents}
        self.masks = (
            None if predictions_dir is None or not Path(predictions_dir).is_dir() else _identity(predictions_dir)
        )

    def below(self, start: Path) -> None:
        """Visit a folder and those below it; links to others are kept for later."""
        if start != self.root and _is_masks_of_run(start):
            self.found.results.append(start)
            return
        folders = [(start, "")]
        while folders:
            folder, kind = folders.pop()
            try:
                identity = _identity(folder)
                if identity not in self.seen:
                    self.seen.add(identity)
                    if folder != self.root and identity == self.masks:
                        self.found.results.append(folder)
                    else:
                        with os.scandir(folder) as entries:
                            folders += self._folders_in(folder, kind, {entry.name: entry for entry in entries})
            except OSError:
                self.found.unreadable.append(folder)

    def _folders_in(self, folder: Path, kind: str, entries: Mapping[str, os.DirEntry[str]]) -> list[tuple[Path, str]]:
        """
        Take the files of a folder.

        Args:
            folder: the folder.
            kind: its name, where a run has made it; else empty.
            entries: what lies in it.

        Returns:
            The folders in it that are to be visited, each with its kind.
        """
        if folder != self.root and _CHALLENGE_TABLE in entries:
            self.found.results.append(folder)
            return []
        is_of_run = _RUN_CONFIG in entries and _is_run_config(folder / _RUN_CONFIG)
        written = _RUN_FILES.get("." if is_of_run else kind)
        folders = []
        for name, entry in entries.items():
            if name.startswith(".") or name in _NOT_VISITED:
                continue
            if entry.is_symlink():
                # os.path, unlike the entry, says no where links lead to each other
                is_folder = os.path.isdir(entry.path)
                is_file = os.path.isfile(entry.path) or not os.path.exists(entry.path)
            else:
                is_folder, is_file = entry.is_dir(), entry.is_file()
            if is_folder and is_of_run and name in _MASK_FOLDERS:
                self.found.results.append(folder / name)
            elif is_folder and entry.is_symlink():
                self.links.append(entry.path)
            elif is_folder:
                folders.append((folder / name, name if is_of_run else ""))
            elif is_file and not (written and written.fullmatch(name)):
                self.found.files.append(folder / name)
        return folders


def _identity(folder: PathLike) -> tuple[int, int]:
    """Return device and number of a folder, which links to it share."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _is_run_config(path: Path) -> bool:
    """Tell whether a ``config.yaml`` is one that a run of this bundle has saved."""
    try:
        with path.open("rb") as file:
            return _RUN_SETTINGS.search(file.read(_RUN_CONFIG_BYTES)) is not None
    except OSError:
        return False


def _is_masks_of_run(link: Path) -> bool:
    """Tell whether a link leads to a run's folder of masks, of probabilities or of ribs, beside the run's config."""
    folder = link.resolve()
    return folder.name in _MASK_FOLDERS and _is_run_config(folder.parent / _RUN_CONFIG)

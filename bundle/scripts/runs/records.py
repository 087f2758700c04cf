"""What a prediction has done: a small record for each scan, and the tables that are joined from all records."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from itertools import count
from pathlib import Path
from typing import Any

from monai.config import PathLike

from scripts.candidates import (
    Candidate,
    ScanSummary,
    candidate_from_record,
    counted,
    failed_scan,
    summarize,
    summary_from_record,
)
from scripts.data.dataset import files_hashing
from scripts.files.atomic_write import unfinished_files, write_json
from scripts.files.scan_files import subfolder_of, subfolders_in
from scripts.files.scan_names import natural_order
from scripts.reporting.tables import write_candidate_tables, write_scan_table

__all__ = [
    "FRACTURES_CSV",
    "RECORD_FORMAT",
    "ScanRecords",
    "join_tables",
    "read_record",
    "record_path",
    "recorded_candidates",
]

RECORDS_DIR = "records"
FRACTURES_CSV = "fractures.csv"
SCANS_CSV = "scans.csv"
CHALLENGE_CSV = "ribfrac-pred.csv"
RECORD_FORMAT = 2  # numbers; a record without a format holds texts, as the tables show them

_logger = logging.getLogger(__name__)


class ScanRecords:
    """
    Deal the scans of a prediction to processes, tell which are done, and join the tables of all.

    MONAI's engines start anew each time, and each process knows its own part alone. Here each scan leaves a record of
    its candidates when everything else of it is written. A scan is done when its record names the same files (paths,
    sizes, times of change), the same definition of the prediction, and the size that its mask has. Records are all that
    processes share: they need no connection, and may run at any time, on any machine that sees the folder.

    Args:
        output_dir: folder of ``records/<scan>.json``, ``fractures.csv`` and ``scans.csv``.
        predictions_dir: folder of the masks, where the challenge wants its table.
        data: all scans, as ``load_datalist`` gives them.
        made_by: what tells this prediction from one of other settings, weights or code.
        outputs: names of the files that each scan gets, with ``{scan}`` in them, the mask's first, which may have
            ``{subfolder}``, too. Without any of them a scan is not done; None are those that are not asked for.
        shard: number of this process, from 0. It gets scans ``shard``, ``shard + shards`` and so on.
        shards: number of processes.
        resume: leave out what is done.
        operating_score: the operating point: candidates of this score or more count in ``scans.csv``.
        many_fractures: so many that count, or more, raise a scan's flag there.
        whole: the run is of all scans, as an evaluation is, whose score is of what it predicts.
        described: fractures are described, and sums tell what they are together.
        further: names, as in ``outputs``, of files that a scan may have or not, and has not when it failed.

    Raises:
        ValueError: when there is no such shard, a run of all scans is to leave out what is done, or a scan's own file
            is among what the run would write.
    """

    def __init__(
        self,
        output_dir: PathLike,
        predictions_dir: PathLike,
        data: Sequence[Mapping[str, Any]],
        made_by: str,
        outputs: Sequence[str | None],
        shard: int = 0,
        shards: int = 1,
        resume: bool = True,
        operating_score: float = 0.0,
        many_fractures: int = 3,
        whole: bool = False,
        described: bool = False,
        further: Sequence[str] = (),
    ) -> None:
        if not 0 <= shard < shards:
            raise ValueError(f"shard is {shard}, but must be one of 0 to {shards - 1}, since shards is {shards}.")
        if whole and resume:
            raise ValueError(
                "resume is true, but the score would be of the scans that are left alone: predict with inference.yaml "
                "alone, which goes on, and score the folder by python -m scripts score."
            )
        self.output_dir = Path(output_dir)
        self.predictions_dir = Path(predictions_dir)
        self.data = data
        self.made_by = made_by
        self.outputs = [output for output in outputs if output is not None]
        self.shard = shard
        self.shards = shards
        self.resume = resume
        self.operating_score = operating_score
        self.many_fractures = many_fractures
        self.described = described
        self.further = further
        self.check_sources()

    @property
    def mine(self) -> Sequence[Mapping[str, Any]]:
        """The scans of this process."""
        return self.data[self.shard :: self.shards]

    def to_do(self) -> list[Mapping[str, Any]]:
        """List the scans of this process that are not done."""
        left = [item for item in self.mine if not (self.resume and self.is_done(item))]
        part = f", {len(self.mine)} of them for this process (shard {self.shard} of {self.shards})"
        words = f"{counted(len(self.data), 'scan')}{part if self.shards > 1 else ''}"
        _logger.info(f"{words}: {len(self.mine) - len(left)} done and left out, {len(left)} to predict.")
        return left

    def is_done(self, item: Mapping[str, Any]) -> bool:
        """Tell whether a scan has been predicted as it would be now, and all is there."""
        record = read_record(self._record(item["scan"]))
        if record is None or record["made_by"] != self.made_by or record["source"] != _source(item):
            return False
        if has_failed(record):
            return False
        files = self._files(item["scan"])
        return all(path.is_file() for path in files) and files[0].stat().st_size == record["mask_bytes"]

    def is_free(self, item: Mapping[str, Any]) -> bool:
        """Tell whether nothing is overwritten by the files of a scan but what a prediction has written of it."""
        return self._record(item["scan"]).exists() or not any(path.exists() for path in self._files(item["scan"]))

    def prepare(self, items: Sequence[Mapping[str, Any]]) -> None:
        """
        Remove what an earlier run left of scans that are to be predicted: records, unfinished files, and the tables.

        Args:
            items: those scans.

        Raises:
            ValueError: see `check_masks`.
        """
        self.check_masks()
        for item in items:
            self.forget(item)
        self.remove_unfinished(items)

    def forget(self, item: Mapping[str, Any]) -> None:
        """Remove the record of a scan."""
        self._record(item["scan"]).unlink(missing_ok=True)

    def remove_results(self, item: Mapping[str, Any]) -> None:
        """Remove what was written of a scan."""
        self.forget(item)
        for path in self._named([*self.outputs, *self.further], item["scan"]):
            path.unlink(missing_ok=True)

    def remove_unfinished(self, items: Sequence[Mapping[str, Any]]) -> None:
        """
        Remove the tables, and the unfinished files of scans, or all when no other process may be writing them.

        Args:
            items: those scans.
        """
        for table in self.tables:
            table.unlink(missing_ok=True)
        self._remove_unfinished(items)

    def _remove_unfinished(self, items: Sequence[Mapping[str, Any]]) -> None:
        names = {path.name for item in items for path in (self._record(item["scan"]), *self._files(item["scan"]))}
        folders = {path.parent for path in (*self.tables, self._record(""), *self._files(""))}
        folders.update(subfolders_in(self.predictions_dir))
        for folder in folders:
            for path, final in unfinished_files(folder):
                if self.shards == 1 or final in names:
                    path.unlink(missing_ok=True)

    def write(self, item: Mapping[str, Any], candidates: Sequence[Candidate], notes: str = "") -> None:
        """
        Record that all of a scan is written.

        Args:
            item: the scan, of ``data``.
            candidates: what was found in it.
            notes: what is doubtful about it, as ``QualityNotesd`` writes it.
        """
        self._write(
            item,
            self.summarize(candidates, notes),
            mask_bytes=self._files(item["scan"])[0].stat().st_size,
            candidates=[_told(candidate) for candidate in candidates],
        )

    def write_failure(self, item: Mapping[str, Any], reason: str) -> None:
        """
        Record that a scan could not be predicted: the table of scans tells it, and a run that goes on tries it again.

        Files of it that are there are removed: no table would tell of its mask.

        Args:
            item: the scan, of ``data``.
            reason: what is wrong with which file.
        """
        self.remove_results(item)
        self._write(item, failed_scan(reason))

    def _write(self, item: Mapping[str, Any], summary: ScanSummary, **more: Any) -> None:
        record = {"format": RECORD_FORMAT, "scan": item["scan"], "made_by": self.made_by, "source": _source(item)}
        write_json(self._record(item["scan"]), {**record, "summary": asdict(summary), **more})

    def summarize(self, candidates: Sequence[Candidate], notes: str = "") -> ScanSummary:
        """Sum up a scan's candidates at the operating point, see ``scripts.candidates.summarize``."""
        return summarize(candidates, self.operating_score, self.many_fractures, notes, self.described)

    def join(self) -> None:
        """
        Write the tables from the records of all processes, as far as there are any.

        Raises:
            ValueError: see `check_masks`.
        """
        self.check_masks()
        self._remove_unfinished([])
        paths = [self._record(item["scan"]) for item in self.data]
        done = _join(paths, self.made_by, *self.tables)
        missing = "" if done == len(self.data) else "; the others failed, which scans.csv tells, or are not done yet"
        _logger.info(f"{self.tables[0]} lists {done} of {counted(len(self.data), 'scan')}{missing}.")

    def summaries(self) -> list[tuple[str, ScanSummary]]:
        """Return the names and sums of those scans of this process that are done, or failed."""
        paths = {self._record(item["scan"]): None for item in self.mine}
        return list(_summaries(_of_kind(paths, self.made_by)))

    def check_masks(self) -> None:
        """
        Raise ``ValueError`` when ``predictions_dir`` holds masks of scans that are not in ``data``, or at other places.

        No table would tell of them, and the challenge refuses them.
        """
        expected = {f"{item['scan']}.nii.gz" for item in self.data}
        are_inside = any("{subfolder}" in output for output in self.outputs)
        for folder in (self.predictions_dir, *subfolders_in(self.predictions_dir)):
            for mask in sorted(folder.glob("[!.]*.nii.gz")):
                is_inside = folder != self.predictions_dir
                if mask.name in expected and is_inside == are_inside:
                    continue
                whose = (
                    f"written where outputs#subfolders is {str(is_inside).lower()}"
                    if mask.name in expected
                    else "on a scan that this one does not have"
                )
                raise ValueError(
                    f"{mask} is a prediction of another run, {whose}: give this run a folder of its own, as by "
                    f"--output_dir {_free_folder(self.output_dir)}, or remove {self.predictions_dir}."
                )

    def check_sources(self) -> None:
        """Raise ``ValueError`` when a mask or a map of probabilities would be written over a scan or its annotation."""
        folders: dict[str, str] = {}  # links are followed once for each folder

        def real(path: PathLike) -> str:
            folder, name = os.path.split(path)
            if folder not in folders:
                folders[folder] = os.path.realpath(folder)
            return os.path.join(folders[folder], name).casefold()  # some file systems do not tell A from a

        sources = {
            real(path) for item in self.data for path in (item["image"], item.get("label")) if isinstance(path, str)
        }
        for item in self.data:
            for path in self._files(item["scan"]):
                if real(path) in sources:
                    raise ValueError(
                        f"{path} is a scan or an annotation, and a prediction would be written over it: give another "
                        "output_dir or predictions_dir."
                    )

    @property
    def tables(self) -> tuple[Path, Path, Path]:
        """The tables of candidates and of scans for people, and the challenge's."""
        return _tables(self.output_dir, self.predictions_dir)

    def _files(self, scan: str) -> list[Path]:
        return self._named(self.outputs, scan)

    def _named(self, outputs: Sequence[str], scan: str) -> list[Path]:
        inner = subfolder_of(scan)
        return [Path(output.replace("{subfolder}", inner).replace("{scan}", scan)) for output in outputs]

    def _record(self, scan: str) -> Path:
        return record_path(self.output_dir, scan)


def _free_folder(folder: Path) -> Path:
    """Name a folder beside another one that does not exist yet: ``prediction-2``, ``prediction-3`` and so on."""
    return next(path for number in count(2) if not (path := folder.with_name(f"{folder.name}-{number}")).exists())


def join_tables(output_dir: PathLike, predictions_dir: PathLike | None = None) -> int:
    """
    Write the tables of a prediction from its records, in the order of the scans' names.

    Args:
        output_dir: folder of a prediction, with ``records/``.
        predictions_dir: folder of its masks; ``predictions`` in it where None.

    Returns:
        The number of scans.

    Raises:
        FileNotFoundError: when there are no records.
        ValueError: when they are of different settings, weights or code, or of another version of the bundle.
    """
    output_dir = Path(output_dir)
    predictions_dir = output_dir / "predictions" if predictions_dir is None else Path(predictions_dir)
    paths = sorted((output_dir / RECORDS_DIR).glob("[!.]*.json"), key=lambda path: natural_order(path.stem))
    if not paths:
        raise FileNotFoundError(
            f"{output_dir / RECORDS_DIR} holds no record of a scan: name the folder of a prediction."
        )
    kinds = {record["made_by"] for path in paths if (record := read_record(path)) is not None}
    if len(kinds) > 1:
        raise ValueError(
            f"{output_dir / RECORDS_DIR} holds scans that {len(kinds)} different settings, weights or versions of the "
            "code predicted: start the prediction again, which predicts again the scans that differ from the others."
        )
    return _join(paths, kinds.pop(), *_tables(output_dir, predictions_dir))


def _tables(output_dir: Path, predictions_dir: Path) -> tuple[Path, Path, Path]:
    return output_dir / FRACTURES_CSV, output_dir / SCANS_CSV, predictions_dir / CHALLENGE_CSV


def _join(paths: Sequence[Path], made_by: str, fractures_csv: Path, scans_csv: Path, challenge_csv: Path) -> int:
    """Write the tables, and again when another process wrote a record meanwhile: the last to write has seen all."""
    while True:
        before = _times(paths)
        scans = write_candidate_tables(_candidates(_of_kind(before, made_by)), fractures_csv, challenge_csv)
        write_scan_table(_summaries(_of_kind(before, made_by)), scans_csv)
        if _times(paths) == before:
            return scans


def _times(paths: Sequence[Path]) -> dict[Path, int]:
    """Return the times of change of the files that exist, in their order."""
    times = {}
    for path in paths:
        with suppress(FileNotFoundError):
            times[path] = path.stat().st_mtime_ns
    return times


def _of_kind(paths: Mapping[Path, Any], made_by: str) -> Iterator[dict[str, Any]]:
    """Yield the records of a kind of prediction, one at a time."""
    for path in paths:
        record = read_record(path)
        if record is not None and record["made_by"] == made_by:
            yield record


def _candidates(records: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, list[Candidate]]]:
    return ((record["scan"], recorded_candidates(record)) for record in records if not has_failed(record))


def _summaries(records: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, ScanSummary]]:
    return ((record["scan"], summary_from_record(_checked(record)["summary"])) for record in records)


def has_failed(record: Mapping[str, Any]) -> bool:
    """Tell whether a record is of a scan that could not be predicted."""
    return bool(record.get("summary", {}).get("failure"))


def recorded_candidates(record: Mapping[str, Any]) -> list[Candidate]:
    """
    Take the candidates of a scan from its record.

    Args:
        record: as :func:`read_record` gives it.

    Returns:
        Candidates that equal those that were recorded.

    Raises:
        ValueError: when the scan failed, or a version of the bundle wrote the record that wrote other values.
    """
    if has_failed(record):
        raise ValueError(f"{record['scan']} could not be predicted: {record['summary']['failure']}")
    return [candidate_from_record(values) for values in _checked(record)["candidates"]]


def _checked(record: Mapping[str, Any]) -> Mapping[str, Any]:
    if record.get("format") != RECORD_FORMAT:
        raise ValueError(f"the record of {record['scan']} is of another version of this bundle: predict it again.")
    return record


def record_path(output_dir: PathLike, scan: str) -> Path:
    """Name the record of a scan in the folder of a prediction."""
    return Path(output_dir) / RECORDS_DIR / f"{scan}.json"


def read_record(path: Path) -> dict[str, Any] | None:
    """Read a record; None where there is none, or where a machine that broke down left it empty."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def _told(candidate: Candidate) -> dict[str, Any]:
    """Return what is known of a candidate: values that are not known have their defaults, and need no room."""
    unknown = {field.name: field.default for field in fields(Candidate)}
    return {name: value for name, value in asdict(candidate).items() if value != unknown[name]}


def _source(item: Mapping[str, Any]) -> str:
    return files_hashing(item).decode()

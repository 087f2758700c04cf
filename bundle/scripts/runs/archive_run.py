"""A prediction of an archive by many workers, on one machine or on a Ray cluster."""

from __future__ import annotations

import json
import logging
import os
import pickle
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.config import PathLike

from scripts.data.dataloader import SkippedScan
from scripts.files.atomic_write import write_json
from scripts.files.hollow_copy import HollowCopy, NoCopy
from scripts.files.object_store import ObjectStore, is_address
from scripts.runs.archive_worker import ScanWorker
from scripts.runs.config import running_parser, save_run_config
from scripts.runs.lock import FolderLock
from scripts.runs.prediction import PredictionRun
from scripts.runs.records import RECORDS_DIR
from scripts.runs.scratch import scratch_folder
from scripts.runs.settings import check_files, refuse_stray_words
from scripts.runs.worker_pool import WorkerPool, connected

__all__ = ["Progress", "run_archive"]

PROGRESS_JSON = "progress.json"
_TOLD_EVERY_S = 10.0
_COUNTS = ("scans", "done_before", "done", "failed")

_logger = logging.getLogger(__name__)


class Progress:
    """
    Tell how far a run is: in the log, in a file, and to Prometheus by Ray's endpoint of each node.

    Args:
        path: the file, which is written anew every ten seconds.
    """

    def __init__(self, path: Path) -> None:
        from ray.util.metrics import Gauge

        self.path = path
        self.scans: int | None = None  # of the archive; not known while it is listed
        self.done_before = 0
        self._gauges = {name: Gauge(f"rib_archive_{name}", f"of the archive: {name}") for name in _COUNTS}
        self._begin = self._told = time.monotonic()

    def tell(self, answers: Collection[SkippedScan | int], is_end: bool = False) -> bool:
        """
        Tell it, unless it was told a moment ago.

        Args:
            answers: what has come of scans.
            is_end: tell it in any case.

        Returns:
            Whether it was told.
        """
        now = time.monotonic()
        if now - self._told < _TOLD_EVERY_S and not is_end:
            return False
        self._told = now
        failed = sum(isinstance(answer, SkippedScan) for answer in answers)
        counts = dict(zip(_COUNTS, (self.scans, self.done_before, len(answers) - failed, failed)))
        per_minute = 60 * len(answers) / max(now - self._begin, 1e-9)
        left = None if self.scans is None else self.scans - self.done_before - len(answers)
        minutes_left = None if left is None or not answers else round(left / per_minute, 1)
        write_json(self.path, {**counts, "scans_per_minute": round(per_minute, 2), "minutes_left": minutes_left})
        for name, value in counts.items():
            if value is not None:
                self._gauges[name].set(value)
        expected = "" if left is None else f"; {left} are left"
        expected += "" if minutes_left is None else f", for {minutes_left:g} minutes"
        _logger.info(f"{counts['done']} scans are done, {failed} failed; {per_minute:.1f} a minute{expected}.")
        return True


def run_archive(
    prediction: str,
    folders: Sequence[PathLike],
    files: Mapping[str, PathLike | None],
    address: str | None = None,
    workers: int | None = None,
    cpus_per_worker: int = 4,
    gpus_per_worker: float | None = None,
    max_retries: int = 2,
    num_workers: int = 1,
) -> None:
    """
    Run a prediction on the workers of a Ray cluster while no other run writes to its folders.

    Results, records, tables and page are those of :func:`run_prediction`, whichever worker predicts a scan.

    Args:
        prediction: id of the :class:`PredictionRun` in the config.
        folders: folders of the run, which each node sees under the same path; the first one gets ``config.yaml``. It
            may be one of a bucket, and all others lie in it then.
        files: the files that settings name, see :func:`check_files`; each node sees them, too.
        address: of the cluster, such as ``auto`` or ``ray://host:10001``; None starts one on this machine.
        workers: processes that predict; None: as many as the cluster has room for.
        cpus_per_worker: cores of each.
        gpus_per_worker: GPUs of each, such as 0.5 for two on one; None: 1 where the cluster has any, or 0.
        max_retries: how often a scan is tried again whose worker ended.
        num_workers: processes of each that load scans ahead.

    Raises:
        ModuleNotFoundError: when Ray is not installed.
        FileNotFoundError: when a file that it needs does not exist.
        BlockingIOError: when another run writes to one of the folders.
        RuntimeError: when no worker can start, or none is left; or a bucket does not answer.
        ValueError: when a number is none, a folder holds masks of other scans, or the cluster has no room for a worker;
            and at the end, when scans failed.
        SystemExit: when the command line has words that belong to no setting.
    """
    refuse_stray_words()
    check_files(files)
    for name, value in (("workers", workers), ("gpus_per_worker", gpus_per_worker)):
        if value is not None and not (isinstance(value, int | float) and value >= 0):
            raise ValueError(f"{name} is '{value}': give a number, or null.")
    parser = running_parser()
    config = json.loads(json.dumps({k: v for k, v in parser.get().items() if k != parser.meta_key}, default=str))
    copy: HollowCopy | NoCopy = NoCopy()
    if is_address(folders[0]):
        config["output_dir"] = str(folders[0])
        copy = _copied(parser, config["output_dir"])
        folders = [copy.folder]
    with FolderLock(folders), connected(address, (workers or 1) * cpus_per_worker):
        run: PredictionRun = parser.get_parsed_content(prediction)
        if isinstance(copy, HollowCopy):
            parser["output_dir"] = config["output_dir"]
        save_run_config(Path(folders[0]) / "config.yaml")
        pool = WorkerPool(
            ScanWorker,
            (config, os.getcwd()),
            workers,
            cpus_per_worker,
            gpus_per_worker,
            max_retries,
            num_workers + 2,  # one is predicted, and one is there when a process has loaded one
            run.records.made_by,
        )
        try:
            run.predict(partial(_predict, run, pool, copy))
        except ValueError as error:  # that scans failed, which it says when all is written
            copy.push()
            raise ValueError(copy.text(str(error))) from error
        copy.push()


def _copied(parser: ConfigParser, output_dir: str) -> HollowCopy:
    """Copy the results that a bucket has so far, and let the config write to the copy."""
    dataset_dir = str(parser.get_parsed_content("dataset_dir"))
    if f"{dataset_dir.rstrip('/')}/".startswith(f"{output_dir.rstrip('/')}/"):
        raise ValueError(f"{dataset_dir} lies in output_dir, where results may replace scans: give another output_dir.")
    folder = Path(tempfile.mkdtemp(dir=scratch_folder()))
    parser["output_dir"] = str(folder)
    if folder not in Path(parser.get_parsed_content("predictions_dir")).parents:
        raise ValueError(f"output_dir is {output_dir}, and the masks lie in it: leave predictions_dir out.")
    copy = HollowCopy(ObjectStore(output_dir), folder, _is_read)
    copy.pull()
    return copy


def _is_read(name: str) -> bool:
    """Tell whether a file of a run is read by the next one."""
    return name.startswith(f"{RECORDS_DIR}/") or name.endswith(".db")


def _is_of_scan(name: str) -> bool:
    """Tell whether a worker writes a file."""
    return "/" in name


def _predict(run: PredictionRun, pool: WorkerPool, copy: HollowCopy | NoCopy) -> Sequence[SkippedScan]:
    """Predict what is to be done by a pool, and write the page."""
    answers: dict[str, SkippedScan | int] = {}
    progress = Progress(run.path(PROGRESS_JSON))
    run.records.remove_unfinished([])
    copy.push()
    with tempfile.TemporaryFile(dir=run.output_dir) as parts:  # of the page, by the places where they begin
        for item, answer in pool.predict(_items(run, answers, progress, copy)):
            if isinstance(answer, SkippedScan):
                _logger.error(f"{answer.scan} is skipped: {answer.reason}")
                answers[item["scan"]] = answer
            else:
                answers[item["scan"]] = parts.seek(0, os.SEEK_END)
                pickle.dump(answer, parts)
            if progress.tell(answers.values()):
                copy.push_files([PROGRESS_JSON])
        progress.tell(answers.values(), is_end=True)
        copy.pull(_is_of_scan)
        in_order = [answers[scan] for scan in run.items]
        skipped = [answer for answer in in_order if isinstance(answer, SkippedScan)]
        if run.to_do and run.outputs["review_page"]:
            page = run.new_page()
            for place in in_order:
                if isinstance(place, int):
                    parts.seek(place)
                    page.add_scan(*pickle.load(parts))
            page.write(None, run.other_scans(skipped))
            _logger.info(f"To look at the results, open {copy.text(str(page.path))} in a browser.")
    return skipped


def _items(
    run: PredictionRun, answers: dict[str, SkippedScan | int], progress: Progress, copy: HollowCopy | NoCopy
) -> Iterator[Mapping[str, Any] | None]:
    """
    Yield the scans that are to be predicted, the first ones while others are looked for; then tell the run all.

    Args:
        run: the prediction, of an ``ArchiveScans``.
        answers: what has come of those that were yielded; of those that are in the list otherwise it is removed.
        progress: is told how many there are.
        copy: of the results.
    """
    records = run.records
    scans: Any = run.scans
    early: dict[str, Mapping[str, Any]] = {}
    for item in scans.listed():
        if item is None:
            yield None
        elif item["scan"] not in early and records.is_free(item) and not (records.resume and records.is_done(item)):
            early[item["scan"]] = item
            records.forget(item)
            yield item
    copy.push_files([Path(scans.header_index).name])
    listed = {item["scan"]: item for item in scans}
    wrong = [item for scan, item in early.items() if listed.get(scan) != item]
    while any(item["scan"] not in answers for item in wrong):
        yield None
    if wrong:
        copy.pull(_is_of_scan)
        for item in wrong:
            records.remove_results(item)
            del answers[item["scan"]], early[item["scan"]]
        copy.push()
    records.check_sources()
    records.check_masks()
    progress.scans, run.to_do = len(scans), []
    for item in scans:
        if item["scan"] in early:
            run.to_do.append(item)
        elif records.resume and records.is_done(item):
            progress.done_before += 1
        else:
            run.to_do.append(item)
            records.forget(item)
            yield item

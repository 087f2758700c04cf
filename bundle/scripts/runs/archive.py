"""A prediction of an archive by many workers, on one machine or on a Ray cluster."""

from __future__ import annotations

import json
import logging
import os
import pickle
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from monai.config import PathLike

from scripts.data.dataloader import SkippedScan
from scripts.files.atomic_write import write_json
from scripts.runs.archive_worker import ScanWorker
from scripts.runs.config import running_parser, save_run_config
from scripts.runs.lock import FolderLock
from scripts.runs.prediction import PredictionRun
from scripts.runs.settings import check_files, refuse_stray_words
from scripts.runs.worker_pool import WorkerPool, connected

__all__ = ["Progress", "run_archive"]

PROGRESS_JSON = "progress.json"
_TOLD_EVERY_S = 10.0

_logger = logging.getLogger(__name__)


class Progress:
    """
    Tell how far a run is: in the log, in a file, and to Prometheus by Ray's endpoint of each node.

    Args:
        path: the file, which is written anew every ten seconds.
        done_before: scans that were done before the run.
    """

    def __init__(self, path: Path, done_before: int) -> None:
        from ray.util.metrics import Gauge

        self.path = path
        self.counts = {"done_before": done_before, "to_do": 0, "done": 0, "failed": 0}
        self._gauges = {name: Gauge(f"rib_archive_{name}", f"scans of the archive: {name}") for name in self.counts}
        self._begin = self._told = time.monotonic()

    def tell(self, is_end: bool = False) -> None:
        """Tell it, unless it was told a moment ago."""
        now = time.monotonic()
        if now - self._told < _TOLD_EVERY_S and not is_end:
            return
        self._told = now
        over = self.counts["done"] + self.counts["failed"]
        per_minute = 60 * over / max(now - self._begin, 1e-9)
        left = self.counts["to_do"] - over
        minutes_left = round(left / per_minute, 1) if over else None
        write_json(self.path, {**self.counts, "scans_per_minute": round(per_minute, 2), "minutes_left": minutes_left})
        for name, value in self.counts.items():
            self._gauges[name].set(value)
        expected = "" if minutes_left is None else f", {minutes_left:g} minutes left"
        _logger.info(
            f"{self.counts['done']} of {self.counts['to_do']} scans are done, {self.counts['failed']} failed; "
            f"{per_minute:.1f} a minute{expected}."
        )


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
        folders: folders of the run, which each node sees under the same path; the first one gets ``config.yaml``.
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
        RuntimeError: when no worker can start, or none is left.
        ValueError: when a folder holds masks of other scans, or the cluster has no room for a worker; and at the end,
            when scans failed.
        SystemExit: when the command line has words that belong to no setting.
    """
    refuse_stray_words()
    check_files(files)
    parser = running_parser()
    config = json.loads(json.dumps({k: v for k, v in parser.get().items() if k != parser.meta_key}, default=str))
    with FolderLock(folders), connected(address, (workers or 1) * cpus_per_worker):
        run: PredictionRun = parser.get_parsed_content(prediction)
        run.records.check_masks()
        save_run_config(Path(folders[0]) / "config.yaml")
        path = os.pathsep.join(filter(None, [os.path.abspath(run.bundle_root), os.environ.get("PYTHONPATH")]))
        pool = WorkerPool(
            ScanWorker,
            (config, os.getcwd()),
            workers,
            cpus_per_worker,
            gpus_per_worker,
            max_retries,
            num_workers + 2,  # one is predicted, and one is there when a process has loaded one
            run.records.made_by,
            {"PYTHONPATH": path, "TQDM_DISABLE": "1"},
        )
        run.predict(partial(_predict, run, pool))


def _predict(run: PredictionRun, pool: WorkerPool) -> Sequence[SkippedScan]:
    """Predict what is to be done by a pool, and write the page."""
    skipped: dict[str, SkippedScan] = {}
    progress = Progress(run.path(PROGRESS_JSON), len(run.done_before))
    progress.counts["to_do"] = len(run.to_do)
    if run.to_do:
        run.prepare()
    with tempfile.TemporaryFile(dir=run.output_dir) as parts:  # of the page, which has the scans in order
        places: dict[str, int] = {}
        for item, answer in pool.predict(run.to_do):
            if isinstance(answer, SkippedScan):
                _logger.error(f"{answer.scan} is skipped: {answer.reason}")
                skipped[answer.scan] = answer
                progress.counts["failed"] += 1
            else:
                progress.counts["done"] += 1
                places[item["scan"]] = parts.tell()
                pickle.dump(answer, parts)
            progress.tell()
        progress.tell(is_end=True)
        in_order = [skipped[scan] for scan in run.items if scan in skipped]
        if run.to_do and run.outputs["review_page"]:
            page = run.new_page()
            for scan in run.items:
                if scan in places:
                    parts.seek(places[scan])
                    page.add_scan(*pickle.load(parts))
            page.write(None, run.other_scans(in_order))
            _logger.info(f"To look at the results, open {page.path} in a browser.")
    return in_order

"""One of the processes that predict an archive: it keeps the network, and predicts the scans that it is sent."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

from ignite.engine import Engine, Events
from monai.bundle import ConfigParser

from scripts.data.dataloader import SkippedScan
from scripts.files.object_store import ObjectStore, is_address
from scripts.runs.memory import keep_freed_memory
from scripts.runs.prediction import PredictionRun
from scripts.runs.records import record_path
from scripts.runs.scratch import scratch_folder
from scripts.runs.stored_scans import fetch_scan

__all__ = ["PagePart", "ScanWorker", "WorkerRun"]

# What differs in the config of a run: its scans come one by one
_OF_WORKER = {
    "scans": [],
    "dataloader": {
        "_target_": "scripts.data.StreamDataLoader",
        "transform": "@preprocessing",
        "num_workers": "@num_workers",
    },
    "prediction::_target_": "scripts.runs.archive_worker.WorkerRun",
    "prediction::resume": False,
    "prediction::shard": 0,
    "prediction::shards": 1,
}


class PagePart:
    """Take the place of ``ReviewPage``: keep what it is told of the last scan, for the page of the whole archive."""

    def __init__(self) -> None:
        self.results: list[Any] = []
        self.scan: tuple[Any, ...] | None = None

    def add_scan(self, *of_scan: Any) -> None:
        self.scan = of_scan


class WorkerRun(PredictionRun):
    """
    The scans that a worker is sent, by their names in ``items``: whoever sends them lists them, joins and sums up.

    Args:
        arguments: as of :class:`PredictionRun`, without scans.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.items = {}
        self.page = PagePart()

    def prepare(self) -> None:
        """Leave all as it is: other workers have begun."""

    def new_page(self) -> Any:
        return self.page


class ScanWorker:
    """
    Predict single scans by a prediction's own config, into its folders; made an actor by ``ray.remote``.

    Its evaluator runs as long as it lives, in a thread, so that network, weights and handlers are made once. A scan of
    a bucket is fetched, and results for one are written, while others are predicted.

    Args:
        config: of the run, as ``ConfigParser.get`` gives it, without objects.
        folder: of the bundle, to which relative paths refer.
    """

    def __init__(self, config: Mapping[str, Any], folder: str) -> None:
        self.config = config
        self.folder = folder

    def start(self) -> str:
        """
        Make all that predicts.

        Returns:
            What tells this prediction from one of other settings, weights or code, see :class:`ScanRecords`.
        """
        os.chdir(self.folder)
        keep_freed_memory()
        parser = ConfigParser(dict(self.config))
        parser.update(_OF_WORKER)
        self.store = ObjectStore(parser["output_dir"]) if is_address(parser["output_dir"]) else None
        if self.store is not None:
            parser["output_dir"] = str(scratch_folder() / "results")
        parser.get_parsed_content("initialize")
        self.run: WorkerRun = parser.get_parsed_content("prediction")
        evaluator: Any = parser.get_parsed_content("evaluator")
        self.loader = evaluator.data_loader
        evaluator.add_event_handler(Events.ITERATION_STARTED, self._begin)
        evaluator.add_event_handler(Events.ITERATION_COMPLETED, self._finish)
        Thread(target=partial(self._predict, evaluator), daemon=True).start()
        return self.run.records.made_by

    def predict(self, item: Mapping[str, Any]) -> Any:
        """
        Predict a scan, behind those that were sent before.

        Args:
            item: the scan, as ``load_datalist`` gives it.

        Returns:
            The arguments of ``ReviewPage.add_scan``, or None where there is no page; or a ``SkippedScan``.

        Raises:
            RuntimeError: when a bucket does not answer.
        """
        scan = item["scan"]
        self.run.items[scan] = item
        try:
            if "stored" not in item:
                answer = self.loader.put(item).result()
            else:
                answer = self._predict_stored(item)
            if self.store is not None and not isinstance(answer, SkippedScan):
                self._write(self.store, scan)
            return answer
        finally:
            del self.run.items[scan]

    def _predict_stored(self, item: Mapping[str, Any]) -> Any:
        """Predict a scan of a bucket."""
        folder = scratch_folder() / "scans" / item["scan"]
        address = item["stored"]["address"]
        try:
            try:
                local = fetch_scan(item, folder)
            except FileNotFoundError:  # which may name the patient
                return SkippedScan(item["scan"], f"a file of it is gone from {address} since it was listed.")
            answer = self.loader.put(local).result()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(answer, SkippedScan):
            return SkippedScan(answer.scan, answer.reason.replace(str(folder), address))
        return answer

    def _write(self, store: ObjectStore, scan: str) -> None:
        """Write the results of a scan to a bucket: its record last, and first none that tells of what was there."""
        folder = self._finished(scan)
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        record = record_path(folder, scan).relative_to(folder).as_posix()
        store.remove([record])
        store.put({name: path for name, path in files.items() if name != record})
        store.put({record: files[record]})
        shutil.rmtree(folder)

    def _finished(self, scan: str) -> Path:
        return scratch_folder() / "finished" / scan

    def _predict(self, evaluator: Any) -> None:
        try:
            evaluator.run()
        except Exception as error:  # is raised where the scans are waited for
            self.loader.fail(error)

    def _begin(self, engine: Engine) -> None:
        if self.store is not None:  # what a scan that failed has left
            shutil.rmtree(self.run.output_dir, ignore_errors=True)

    def _finish(self, engine: Engine) -> None:
        outputs: Any = engine.state.output
        for output in outputs:
            if self.store is not None:
                finished = self._finished(output["pred"].meta["scan"])
                finished.parent.mkdir(exist_ok=True)
                self.run.output_dir.rename(finished)  # the next scan's are written anew
            self.loader.finish(output["pred"].meta["scan"], self.run.page.scan)

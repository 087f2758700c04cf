"""Handlers of a prediction: its records, pictures and scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ignite.distributed as idist
import numpy as np
from ignite.engine import Events
from monai.config import PathLike

from scripts.candidates import count_words
from scripts.images.grids import on_grid_of
from scripts.metrics.ribfrac_froc import RibFracFROCMetric
from scripts.reporting.figures import scan_picture
from scripts.reporting.scores import METRICS_FILES, metrics_table, write_metrics
from scripts.runs.prediction import PredictionRun

if TYPE_CHECKING:
    from ignite.engine import Engine

__all__ = ["FROCReportHandler", "ScanPictureHandler", "ScanRecordsHandler"]


class ScanRecordsHandler:
    """
    Record each scan that is predicted, and what was found in it.

    Attach to:
        the evaluator, behind the handlers that write files of a scan; its post-processing ends with candidates on the
        scan's own grid and writes the mask.

    Runs at:
        ``Events.STARTED`` (removing what an earlier run left of the scans) and ``Events.ITERATION_COMPLETED``.

    Reads:
        ``pred`` (its metadata tell the scan's name and notes) and ``candidates`` (as ``DescribeCandidatesd`` gives
        them) of the evaluator's decollated output.

    Writes:
        ``records/<scan>.json``, see ``scripts.runs.records``.

    Args:
        run: the prediction, whose records they are.
    """

    def __init__(self, run: PredictionRun) -> None:
        self.run = run
        self.records = run.records

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._record)

    def _start(self, engine: Engine) -> None:
        self.run.prepare()

    def _record(self, engine: Engine) -> None:
        outputs: Any = engine.state.output
        for output in outputs:
            meta, candidates = output["pred"].meta, output["candidates"]
            scan, notes = meta["scan"], meta.get("notes", "")
            self.records.write(self.run.items[scan], candidates, notes)
            many = self.records.summarize(candidates).many_fractures
            flag = f"; {self.records.many_fractures} or more fractures" if many else ""
            done = f"scan {engine.state.iteration} of {len(self.run.items)}"
            found = count_words([candidate.score for candidate in candidates], self.records.operating_score)
            engine.logger.info("%s: %s%s (%s)", scan, found, flag, done)
            if notes:
                engine.logger.warning("%s: %s", scan, notes)


class ScanPictureHandler:
    """
    Draw a picture of each scan: candidates that count, and where there is one the annotation beside them.

    Attach to:
        the evaluator; its post-processing ends with candidates on the scan's own grid.

    Runs at:
        ``Events.ITERATION_COMPLETED``.

    Reads:
        ``image`` (in RAS orientation, scaled from ``hu_range`` to [-1, 1]; its grid is drawn), ``pred``,
        ``candidates`` (as ``DescribeCandidatesd`` gives them) and, where present, ``label`` of the decollated output.

    Writes:
        ``pictures/<scan>.png`` in the run's folder.

    Args:
        run: the prediction, whose operating score decides what is drawn; without ``pictures`` among its outputs there
            are none.
        hu_range: HU that were scaled to -1 and 1.
    """

    def __init__(self, run: PredictionRun, hu_range: Sequence[float]) -> None:
        self.run = run
        self.hu_range = hu_range

    def attach(self, engine: Engine) -> None:
        if self.run.outputs["pictures"]:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        outputs: Any = engine.state.output
        for output in outputs:
            image, pred, label = output["image"], output["pred"], output.get("label")
            scan_picture(
                image[0].cpu().numpy(),
                np.asarray(image.affine),
                on_grid_of(image, pred),
                [candidate.score for candidate in output["candidates"]],
                self.run.path("pictures") / f"{pred.meta['scan']}.png",
                label=None if label is None else on_grid_of(image, label),
                operating_score=self.run.records.operating_score,
                title=pred.meta["scan"],
                hu_range=self.hu_range,
            )


class FROCReportHandler:
    """
    Write the challenge's figures of an evaluation.

    Attach to:
        the evaluator that has ``metric`` as a metric.

    Runs at:
        ``Events.STARTED`` (removing those of an earlier run) and ``Events.COMPLETED``.

    Reads:
        the details that the metric has gathered.

    Writes:
        ``metrics.json``, ``froc.csv`` and ``froc.png`` in ``output_dir``; of several processes, the first one writes.
        None of them where no scan could be loaded.

    Args:
        metric: the metric that scored the scans.
        output_dir: folder of the three files.
    """

    def __init__(self, metric: RibFracFROCMetric, output_dir: PathLike) -> None:
        self.metric = metric
        self.output_dir = Path(output_dir)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.COMPLETED, self)

    def _start(self, engine: Engine) -> None:
        if idist.get_rank() == 0:
            for name in METRICS_FILES:
                (self.output_dir / name).unlink(missing_ok=True)

    def __call__(self, engine: Engine) -> None:
        if not self.metric.results():  # all processes together, as below
            engine.logger.error("There is no score, since no scan could be loaded.")
            return
        details = self.metric.details()
        if idist.get_rank() > 0:
            return
        write_metrics(details, self.output_dir)
        for line in metrics_table(details).splitlines():
            engine.logger.info(line)

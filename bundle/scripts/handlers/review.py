"""Handlers that write pages to look at: of a prediction, and of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Events
from ignite.handlers import ProgressBar
from monai.config import PathLike
from monai.handlers import TensorBoardStatsHandler, from_engine
from monai.utils import str2bool

from scripts.candidates import ribs_of
from scripts.data.dataloader import SkippingDataLoader
from scripts.handlers.training import CurveHistory, CurvesHandler, TrainingLogHandler
from scripts.images.grids import on_grid_of
from scripts.metrics.froc import ScanResult, challenge_scores
from scripts.metrics.ribfrac_froc import RibFracFROCMetric
from scripts.reporting.found_words import found_words
from scripts.reporting.pages.findings import scan_findings
from scripts.reporting.pages.page import ReviewPage
from scripts.reporting.pages.rib_views import unfolded_views
from scripts.reporting.pages.training import Example, write_training_page
from scripts.reporting.pages.views import Scan, projections
from scripts.runs.prediction import PredictionRun

if TYPE_CHECKING:
    from ignite.engine import Engine
    from monai.engines import Evaluator

__all__ = ["ReviewPageHandler", "TrainingPageHandler", "TrainingReportHandler"]


class ReviewPageHandler:
    """
    Write one page to review a run in a browser: candidates with pictures, a threshold, and scores where annotated.

    Attach to:
        the evaluator; its post-processing ends with candidates on the scan's own grid.

    Runs at:
        ``Events.STARTED``, ``Events.ITERATION_COMPLETED`` and ``Events.COMPLETED``: the page appears at the end.

    Reads:
        ``image`` (in RAS orientation, scaled to [-1, 1]; its grid is drawn), ``pred``, ``label_scores``, ``candidates``
        (as ``DescribeCandidatesd`` gives them) and, where present, ``scan_result`` (as ``MatchCandidatesd`` gives it)
        with ``label`` of the decollated output; ``midsagittal_plane``, ``thorax_axis`` and ``rib_cage`` of its batch,
        where present.

    Writes:
        the page.

    Args:
        run: the prediction. The page is its ``report.html``, opens at its operating score, and reports its settings and
            weights; without ``review_page`` among its outputs there is none.
        metric: what scores the scans, where they are annotated: the page shows its figures. Of several processes each
            has a page with scores of its own scans, with as many draws for their interval as the metric makes.
        dataloader: gives the scans, and keeps those that it skipped: the page lists them as failed.
    """

    def __init__(
        self,
        run: PredictionRun,
        metric: RibFracFROCMetric | None = None,
        dataloader: SkippingDataLoader | None = None,
    ) -> None:
        self.run = run
        self.dataloader = dataloader
        self.metric = metric
        self._page: ReviewPage | None = None

    def attach(self, engine: Engine) -> None:
        if not self.run.outputs["review_page"]:
            return
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self, engine: Engine) -> None:
        if self._page is not None:
            self._page.close()
        self._page = self.run.new_page()

    def _add(self, engine: Engine) -> None:
        assert self._page is not None
        batches: Any = engine.state.batch
        outputs: Any = engine.state.output
        for batch, output in zip(batches, outputs):
            image, pred, result = (output.get(key) for key in ("image", "pred", "scan_result"))
            plane, cage = batch.get("midsagittal_plane"), batch.get("rib_cage")
            instances = {"candidate": on_grid_of(image, pred)}
            annotation = None
            if result is not None:
                instances["fracture"] = on_grid_of(image, output["label"])
                annotation = (output["label"], result)
            scan = Scan(image[0].cpu().numpy(), np.asarray(image.affine), (-1.0, 1.0), instances)
            name = str(pred.meta["scan"])
            findings = scan_findings(
                name, scan, output["candidates"], annotation, plane, batch.get("thorax_axis"), cage
            )
            notes, unfolded = pred.meta.get("notes", ""), []
            if cage is not None:
                rib_of = {"candidate": {its.id: its.rib_id for its in output["candidates"] if its.rib_id is not None}}
                rib_of |= {} if result is None else {"fracture": ribs_of(output["label"], cage)}
                unfolded = unfolded_views(scan, cage, rib_of)
            chest = self.run.records.summarize(output["candidates"]).chest
            counted = [its for its in output["candidates"] if its.score >= self.run.records.operating_score]
            found = found_words(counted, chest)
            self._page.add_scan(name, findings, projections(scan, plane), result, notes, unfolded, chest, found)

    def _write(self, engine: Engine) -> None:
        assert self._page is not None
        skipped = [] if self.dataloader is None else self.dataloader.skipped
        self._page.write(self._details(self._page.results), self.run.other_scans(skipped))
        engine.logger.info("To look at the results, open %s in a browser.", self._page.path)

    def _details(self, results: Sequence[ScanResult]) -> dict[str, Any] | None:
        if self.metric is None or not results:
            return None
        if idist.get_world_size() > 1:
            return challenge_scores(results, self.metric.exact_thresholds, self.metric.bootstrap, self.metric.seed)
        return self.metric.details()


class TrainingPageHandler:
    """
    Write a page to look at a training: its curves, and ROIs with their annotation and what the network makes of them.

    Attach to:
        the trainer, behind the ``ValidationHandler`` and the ``CurvesHandler``.

    Runs at:
        ``Events.EPOCH_STARTED`` and ``Events.ITERATION_COMPLETED`` of trainer and evaluator, whose first ROIs of an
        epoch it keeps, and ``Events.EPOCH_COMPLETED`` of the trainer.

    Reads:
        ``image`` (scaled to [-1, 1]), ``label`` and, of the evaluator, ``pred`` (logits) of the outputs, decollated or
        not; the points of the history.

    Writes:
        ``training.html`` in ``output_dir``; of several processes the first one does, of its own ROIs.

    Args:
        output_dir: folder of the page.
        evaluator: the engine that validates.
        history: the points of the curves.
        settings: what the page tells of the run, by name.
    """

    name = "training.html"
    examples = 16  # ROIs of each kind: a batch of the default recipe

    def __init__(
        self,
        output_dir: PathLike,
        evaluator: Evaluator,
        history: CurveHistory,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.evaluator = evaluator
        self.history = history
        self.settings = dict(settings or {})
        self._sampled: list[Example] = []
        self._validated: list[Example] = []

    def attach(self, engine: Engine) -> None:
        for source, kept, with_pred in ((engine, self._sampled, False), (self.evaluator, self._validated, True)):
            source.add_event_handler(Events.EPOCH_STARTED, kept.clear)
            source.add_event_handler(Events.ITERATION_COMPLETED, self._keep, kept, with_pred)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _keep(self, engine: Engine, kept: list[Example], with_pred: bool) -> None:
        output: Any = engine.state.output
        keys = ["image", "label", *(["pred"] if with_pred else [])]
        decollated = isinstance(output, list)
        for number in range(min(len(output if decollated else output["image"]), self.examples - len(kept))):
            roi = output[number] if decollated else {key: output[key][number] for key in keys}
            image, label, *pred = (roi[key][0].detach().float().cpu().numpy() for key in keys)
            kept.append(Example(image, label > 0, pred[0] > 0 if pred else None))

    def _write(self, engine: Engine) -> None:
        if idist.get_rank() > 0:
            return
        write_training_page(
            self.output_dir / self.name,
            self.history.points,
            int(engine.state.max_epochs or 0),
            self._sampled,
            self._validated,
            self.settings,
        )


class TrainingReportHandler:
    """
    Attach all that reports a training: the log, TensorBoard's files, the curves, and a page to look at.

    Within an epoch Ignite's ``ProgressBar`` shows the time that is left. The log has a line for each epoch, and
    TensorBoard's files are those of MONAI's ``TensorBoardStatsHandler``, of both engines; all of it by the first of
    several processes.

    Attach to:
        the trainer, behind the ``ValidationHandler`` and before the ``ResumableCheckpointHandler``.

    Args:
        output_dir: folder of ``curves.csv``, ``curves.png``, ``training.html`` and ``tensorboard/``.
        evaluator: the engine that validates.
        optimizer: the optimizer whose learning rate is shown.
        history: the points of the curves.
        page: False writes no page.
        weights: file of the best weights, which the log names at the end.
        settings: what the page tells of the run, by name.
    """

    def __init__(
        self,
        output_dir: PathLike,
        evaluator: Evaluator,
        optimizer: torch.optim.Optimizer,
        history: CurveHistory,
        page: bool | str = True,
        weights: PathLike = "models/model.pt",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.evaluator = evaluator
        self.log_dir = str(Path(output_dir) / "tensorboard")
        self.loss = from_engine("loss", first=True)
        self.handlers: list[Any] = [CurvesHandler(output_dir, evaluator, optimizer, history, self.loss)]
        page_path = Path(output_dir) / TrainingPageHandler.name if str2bool(page) else None
        if page_path is not None:
            self.handlers.append(TrainingPageHandler(output_dir, evaluator, history, settings))
        if idist.get_rank() == 0:
            self.handlers.append(TrainingLogHandler(weights, history, page_path))

    def attach(self, engine: Engine) -> None:
        for handler in self.handlers:
            handler.attach(engine)
        if idist.get_rank() == 0:
            bar = ProgressBar()
            bar.attach(engine, output_transform=lambda output: {"loss": float(self.loss(output))})
            engine.add_event_handler(Events.STARTED, self._start_tensorboard)

    def _start_tensorboard(self, engine: Engine) -> None:
        """Attach what opens a file as it is made: a training that fails before its start leaves none."""
        TensorBoardStatsHandler(log_dir=self.log_dir, tag_name="train_loss", output_transform=self.loss).attach(engine)
        TensorBoardStatsHandler(log_dir=self.log_dir, iteration_log=False).attach(self.evaluator)

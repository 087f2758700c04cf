"""Handlers of a prediction: its tables, pictures and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from ignite.engine import Events
from monai.config import PathLike
from monai.data import MetaTensor
from monai.transforms import Orientation

from scripts.candidate_table import candidate_rows, scan_row, write_candidate_tables, write_scan_table
from scripts.froc_report import metrics_table, write_metrics
from scripts.metrics import RibFracFROCMetric
from scripts.pictures import scan_picture

if TYPE_CHECKING:
    from ignite.engine import Engine

__all__ = ["CandidateTablesHandler", "FROCReportHandler", "ScanPictureHandler"]


class CandidateTablesHandler:
    """
    Write the tables of a prediction: candidates and scans for people, and one for the challenge.

    Attach to:
        the evaluator; its post-processing ends with candidates on the scan's own grid.

    Runs at:
        ``Events.STARTED`` and ``Events.ITERATION_COMPLETED``: after each scan the tables hold what has been predicted.

    Reads:
        ``pred`` (its metadata tell the scan's name) and ``label_scores`` of the evaluator's decollated output and,
        where present, ``midsagittal_plane`` and ``thorax_axis`` of its batch, to tell where a candidate lies.

    Writes:
        ``fractures.csv`` and ``scans.csv`` in ``output_dir`` and ``ribfrac-pred.csv`` in ``predictions_dir``; see
        ``scripts.candidate_table``.

    Args:
        output_dir: folder of ``fractures.csv`` and ``scans.csv``.
        predictions_dir: folder of the masks, where the challenge wants its table.
        data: the items of the run, as ``load_datalist`` gives them.
        operating_score: the operating point: candidates of this score or more count in ``scans.csv``.
        many_fractures: so many that count, or more, raise a scan's flag, in ``scans.csv`` and in the log.

    Raises:
        ValueError: at the start, when ``predictions_dir`` holds masks of scans that are not in ``data``: the table
            would not tell of them.
    """

    def __init__(
        self,
        output_dir: PathLike,
        predictions_dir: PathLike,
        data: Sequence[Mapping[str, Any]],
        operating_score: float = 0.0,
        many_fractures: int = 3,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.predictions_dir = Path(predictions_dir)
        self.operating_score = operating_score
        self.many_fractures = many_fractures
        self.scans = [str(item["scan"]) for item in data]
        self.rows: dict[str, list[dict[str, Any]]] = {}

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)

    def _start(self, engine: Engine) -> None:
        expected = {f"{scan}.nii.gz" for scan in self.scans}
        for mask in sorted(self.predictions_dir.glob("*.nii.gz")):
            if mask.name.startswith("."):
                mask.unlink()  # what a killed run left unfinished
            elif mask.name not in expected:
                raise ValueError(
                    f"{mask} is a prediction of another run, on a scan that this one does not have: give another "
                    "output_dir, or remove the predictions that are there."
                )
        self.rows = {}
        self._write()

    def _add(self, engine: Engine) -> None:
        batches: Any = engine.state.batch
        outputs: Any = engine.state.output
        for batch, output in zip(batches, outputs):
            scan, scores = output["pred"].meta["scan"], output["label_scores"]
            chest = (batch.get("midsagittal_plane"), batch.get("thorax_axis"))
            self.rows[scan] = candidate_rows(output["pred"], scores, *chest)
            done = f"scan {len(self.rows)} of {len(self.scans)}"
            summary = self._scan_row(scan)
            flag = f", {self.many_fractures} or more fractures" if summary["many_fractures"] == "yes" else ""
            engine.logger.info("%s: %d candidates%s (%s)", scan, len(scores), flag, done)
        self._write()

    def _scan_row(self, scan: str) -> dict[str, Any]:
        return scan_row(self.rows[scan], self.operating_score, self.many_fractures)

    def _write(self) -> None:
        write_candidate_tables(self.rows, self.output_dir / "fractures.csv", self.predictions_dir / "ribfrac-pred.csv")
        write_scan_table({scan: self._scan_row(scan) for scan in self.rows}, self.output_dir / "scans.csv")


class ScanPictureHandler:
    """
    Draw a picture of each scan: candidates, and where there is one the annotation beside them.

    Attach to:
        the evaluator; its post-processing ends with candidates on the scan's own grid.

    Runs at:
        ``Events.ITERATION_COMPLETED``.

    Reads:
        ``image`` (in RAS orientation, scaled from ``hu_range`` to [-1, 1]; its grid is drawn), ``pred``,
        ``label_scores`` and, where present, ``label`` of the decollated output.

    Writes:
        ``<scan>.png`` in ``output_dir``.

    Args:
        output_dir: folder of the pictures.
        hu_range: HU that were scaled to -1 and 1.
    """

    def __init__(self, output_dir: PathLike, hu_range: Sequence[float]) -> None:
        self.output_dir = Path(output_dir)
        self.hu_range = hu_range

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        self.output_dir.mkdir(parents=True, exist_ok=True)
        low_hu, high_hu = self.hu_range
        outputs: Any = engine.state.output
        for output in outputs:
            image, pred, label = output["image"], output["pred"], output.get("label")
            image_hu = (image[0].cpu().numpy() + 1) / 2 * (high_hu - low_hu) + low_hu
            scan_picture(
                image_hu,
                np.asarray(image.affine),
                _on_grid_of(image, pred),
                output["label_scores"].cpu().numpy(),
                self.output_dir / f"{pred.meta['scan']}.png",
                label=None if label is None else _on_grid_of(image, label),
                title=pred.meta["scan"],
            )


class FROCReportHandler:
    """
    Write the challenge's figures of an evaluation.

    Attach to:
        the evaluator that has ``metric`` as a metric.

    Runs at:
        ``Events.COMPLETED``.

    Reads:
        the details that the metric has gathered.

    Writes:
        ``metrics.json``, ``froc.csv`` and ``froc.png`` in ``output_dir``.

    Args:
        metric: the metric that scored the scans.
        output_dir: folder of the three files.
    """

    def __init__(self, metric: RibFracFROCMetric, output_dir: PathLike) -> None:
        self.metric = metric
        self.output_dir = Path(output_dir)

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        details = self.metric.details()
        write_metrics(details, self.output_dir)
        for line in metrics_table(details).splitlines():
            engine.logger.info(line)


def _on_grid_of(image: MetaTensor, mask: MetaTensor) -> np.ndarray:
    """
    Bring a mask from the scan's own grid to that of its image, in RAS orientation, cropped and perhaps resampled.

    Args:
        image: shape ``(1, H, W, D)``.
        mask: ids of shape ``(1, H', W', D')``.

    Returns:
        The ids nearest to the image's voxels, shape ``(H, W, D)``.
    """
    turned = cast(MetaTensor, Orientation(axcodes="RAS", labels=None)(mask))
    ids = turned[0].cpu().numpy()
    to_ids = np.linalg.inv(np.asarray(turned.affine)) @ np.asarray(image.affine)
    places = [
        np.rint(to_ids[axis, axis] * np.arange(extent) + to_ids[axis, 3]).astype(int).clip(0, ids.shape[axis] - 1)
        for axis, extent in enumerate(image.shape[1:])
    ]
    return ids[np.ix_(*places)]

"""Write the ribs of a scan: a mask, a table and a picture of the unfolded rib cage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ignite.engine import Events

from scripts.anatomy.rib_cage import RibCage
from scripts.candidates import ribs_of
from scripts.files.atomic_write import write_volume
from scripts.images.grids import on_grid_of
from scripts.reporting.rib_picture import rib_picture
from scripts.reporting.tables import write_rib_table
from scripts.runs.prediction import PredictionRun

if TYPE_CHECKING:
    from ignite.engine import Engine

__all__ = ["RibCageHandler"]


class RibCageHandler:
    """
    Write the ribs of each scan; without the run's ``ribs`` nothing.

    Attach to:
        the evaluator; its post-processing ends with candidates on the scan's own grid.

    Runs at:
        ``Events.ITERATION_COMPLETED``, before the handler that records a scan.

    Reads:
        ``image`` (in RAS orientation, scaled from ``hu_range`` to [-1, 1]; its grid is drawn), ``pred``,
        ``candidates`` (as ``DescribeCandidatesd`` gives them) and, where present, ``label`` of the
        decollated output; ``rib_cage`` (as ``LabelRibsd`` stores it) of its batch.

    Writes:
        ``ribs/<scan>.nii.gz``, the ids of the ribs on the scan's own grid, ``ribs/<scan>.csv``, a row for each rib,
        and with ``pictures`` among the run's outputs ``pictures/<scan>_ribs.png``, unless there is no rib.

    Args:
        run: the prediction.
        hu_range: HU that were scaled to -1 and 1.
    """

    def __init__(self, run: PredictionRun, hu_range: Sequence[float]) -> None:
        self.run = run
        self.hu_range = hu_range

    def attach(self, engine: Engine) -> None:
        if self.run.ribs:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        batches: Any = engine.state.batch
        outputs: Any = engine.state.output
        for batch, output in zip(batches, outputs):
            cage, pred = batch["rib_cage"], output["pred"]
            scan, affine = pred.meta["scan"], np.asarray(pred.affine, dtype=float)
            folder = self.run.path("ribs")
            write_volume(folder / f"{scan}.nii.gz", cage.on_grid(affine, pred.shape[1:]), affine)
            write_rib_table(cage.ribs, folder / f"{scan}.csv")
            if self.run.outputs["pictures"]:
                self._draw(output, cage)

    def _draw(self, output: Any, cage: RibCage) -> None:
        image, pred, label = output["image"], output["pred"], output.get("label")
        path = self.run.path("pictures") / f"{pred.meta['scan']}_ribs.png"
        if not cage.ribs:
            path.unlink(missing_ok=True)  # what an earlier run drew
            return
        rib_picture(
            image[0].cpu().numpy(),
            np.asarray(image.affine, dtype=float),
            cage,
            on_grid_of(image, pred),
            [candidate.score for candidate in output["candidates"]],
            {candidate.id: candidate.rib_id for candidate in output["candidates"] if candidate.rib_id is not None},
            path,
            label=None if label is None else on_grid_of(image, label),
            label_rib_of=None if label is None else ribs_of(label, cage),
            title=pred.meta["scan"],
            operating_score=self.run.records.operating_score,
            hu_range=self.hu_range,
        )

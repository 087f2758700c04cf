"""The handler that writes a page to review a prediction."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ignite.engine import Events
from monai.config import PathLike

from scripts.grids import on_grid_of
from scripts.review.findings import scan_findings, scan_result
from scripts.review.page import ReviewPage
from scripts.review.views import Scan, projections

if TYPE_CHECKING:
    from ignite.engine import Engine

__all__ = ["ReviewPageHandler"]

_SHIPPED_NOTE = (
    "The shipped weights ran. They saw made-up fractures, and fractures implanted into real chest CT, and no others; "
    "nothing was measured on real fractures."
)


class ReviewPageHandler:
    """
    Write one page to review a run in a browser: candidates with pictures, a threshold, and scores where annotated.

    Attach to:
        the evaluator; its post-processing ends with candidates on the scan's own grid.

    Runs at:
        ``Events.STARTED``, ``Events.ITERATION_COMPLETED`` and ``Events.COMPLETED``: the page appears at the end.

    Reads:
        ``image`` (in RAS orientation, scaled to [-1, 1]; its grid is drawn), ``pred``, ``label_scores`` and, where
        present, ``label`` and ``fracture_codes`` of the decollated output; ``midsagittal_plane`` of its batch, where
        present.

    Writes:
        the page.

    Args:
        path: the page.
        bundle_root: the bundle's folder, whose metadata tell its version.
        checkpoint: the weights that run; None where they are part of the network.
        threshold: score at which the page opens.
        settings: settings of the run that the page tells.
        not_shown: scans of the data set that this run does not predict, since they are done or others do it.
    """

    def __init__(
        self,
        path: PathLike,
        bundle_root: PathLike,
        checkpoint: PathLike | None,
        threshold: float,
        settings: Mapping[str, Any],
        not_shown: int = 0,
    ) -> None:
        self.path = Path(path)
        self.bundle_root = Path(bundle_root)
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        self.threshold = float(threshold)
        self.settings = settings
        self.not_shown = not_shown
        self._page: ReviewPage | None = None

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self, engine: Engine) -> None:
        metadata = json.loads((self.bundle_root / "configs" / "metadata.json").read_text(encoding="utf-8"))
        digest, shipped = (_digest(path) for path in (self.checkpoint, self.bundle_root / "models" / "model.pt"))
        weights = (
            "part of the network" if self.checkpoint is None else f"{self.checkpoint.name}, SHA-256 {digest[:12]}…"
        )
        summary = {
            "bundle": f"{metadata['name']} {metadata['version']}",
            "weights": weights,
            "settings": self.settings,
        }
        if self.not_shown:
            summary["not on this page"] = f"{self.not_shown} scans that are done already, or that others predict"
        if self._page is not None:
            self._page.close()
        self._page = ReviewPage(
            self.path, summary, self.threshold, _SHIPPED_NOTE if digest and digest == shipped else ""
        )

    def _add(self, engine: Engine) -> None:
        assert self._page is not None
        batches: Any = engine.state.batch
        outputs: Any = engine.state.output
        for batch, output in zip(batches, outputs):
            image, pred, label, scores = (output.get(key) for key in ("image", "pred", "label", "label_scores"))
            plane = batch.get("midsagittal_plane")
            instances = {"candidate": on_grid_of(image, pred)}
            annotation = None
            if label is not None:
                instances["fracture"] = on_grid_of(image, label)
                annotation = (label, *scan_result(pred, label, scores, output.get("fracture_codes")))
            scan = Scan(image[0].cpu().numpy(), np.asarray(image.affine), (-1.0, 1.0), instances)
            name = str(pred.meta["scan"])
            findings = scan_findings(name, scan, pred, scores, plane, annotation)
            self._page.add_scan(name, findings, projections(scan, plane), annotation[1] if annotation else None)

    def _write(self, engine: Engine) -> None:
        assert self._page is not None
        self._page.write()
        engine.logger.info("To look at the results, open %s in a browser.", self.path)


def _digest(path: Path | None) -> str:
    """Return the SHA-256 of a file; empty where there is none."""
    if path is None or not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

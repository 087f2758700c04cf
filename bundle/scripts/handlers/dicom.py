"""Write what was found in a DICOM series as DICOM."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ignite.engine import Events
from monai.config import PathLike

from scripts.candidate_table import scan_row
from scripts.dicom_out import (
    MAX_SEGMENTS,
    Algorithm,
    candidate_report,
    candidate_segmentation,
    missing_uids,
    read_sources,
    write_dicom,
)
from scripts.dicom_series import is_dicom, series_files

if TYPE_CHECKING:
    from ignite.engine import Engine

__all__ = ["DicomResultHandler"]


class DicomResultHandler:
    """
    Write a segmentation and a structured report of each scan that came as DICOM; others are passed over.

    Attach to:
        the evaluator; its post-processing ends with candidates on the scan's own grid.

    Runs at:
        ``Events.STARTED`` and ``Events.ITERATION_COMPLETED``. A series whose headers lack the UIDs to refer to, or with
        more candidates than a segmentation holds, gets no DICOM, and a warning says so.

    Reads:
        ``pred`` (its metadata tell the scan's name) and ``candidates`` (as ``DescribeCandidatesd`` gives them) of the
        evaluator's decollated output.

    Writes:
        ``<scan>.seg.dcm``, unless there is no candidate, and ``<scan>.sr.dcm`` in ``output_dir``; see
        ``scripts.dicom_out``.

    Args:
        output_dir: folder of the objects.
        data: the items of the run, as ``load_datalist`` gives them: of a DICOM series ``image`` is a list of slices, or
            a folder.
        metadata: the bundle's ``metadata.json``, for the algorithm's name and version.
        checkpoint: the weights, which the device's serial number tells; None where they are part of the network.
        operating_score: candidates of this score or more count in the report's number of fractures.
        many_fractures: so many that count, or more, are many.
    """

    def __init__(
        self,
        output_dir: PathLike,
        data: Sequence[Mapping[str, Any]],
        metadata: PathLike,
        checkpoint: PathLike | None,
        operating_score: float,
        many_fractures: int,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.series = {str(item["scan"]): item["image"] for item in data if is_dicom(item["image"])}
        self.metadata = metadata
        self.checkpoint = checkpoint
        self.operating_score = operating_score
        self.many_fractures = many_fractures

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write)

    def _start(self, engine: Engine) -> None:
        if self.series:
            logging.getLogger("highdicom").setLevel(logging.WARNING)  # at INFO it names every object by its UID
            self.algorithm = Algorithm.of_bundle(self.metadata, self.checkpoint)

    def _write(self, engine: Engine) -> None:
        outputs: Any = engine.state.output
        for output in outputs:
            pred, rows = output["pred"], output["candidates"]
            scan = pred.meta["scan"]
            if scan not in self.series:
                continue
            sources = read_sources(series_files(self.series[scan]))
            missing = missing_uids(sources[0])
            if missing:
                engine.logger.warning(
                    "%s: no DICOM is written, since its headers have no %s to refer to", scan, " and no ".join(missing)
                )
                continue
            if len(rows) > MAX_SEGMENTS:
                engine.logger.warning("%s: no DICOM is written, which holds %d candidates at most", scan, MAX_SEGMENTS)
                continue
            found = None
            if rows:
                ids, affine = pred[0].cpu().numpy(), np.asarray(pred.affine, dtype=float)
                found = candidate_segmentation(sources, ids, affine, rows, self.algorithm)
                write_dicom(self.output_dir / f"{scan}.seg.dcm", found)
            else:  # what an earlier run found
                (self.output_dir / f"{scan}.seg.dcm").unlink(missing_ok=True)
            summary = scan_row(rows, self.operating_score, self.many_fractures)
            report = candidate_report(sources, found, rows, summary, self.algorithm)
            write_dicom(self.output_dir / f"{scan}.sr.dcm", report)

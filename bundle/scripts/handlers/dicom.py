"""Write what was found in a DICOM series as DICOM."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from ignite.engine import Events
from numpy.typing import NDArray

from scripts.candidates import Candidate
from scripts.data.loading_faults import where_raised
from scripts.files.atomic_write import whole_file
from scripts.images.dicom_series import is_dicom, series_files
from scripts.images.header_privacy import header_fault
from scripts.runs.prediction import PredictionRun

if TYPE_CHECKING:
    from ignite.engine import Engine

    from scripts.reporting.dicom import Algorithm

__all__ = ["DicomResultHandler"]


class DicomResultHandler:
    """
    Write a segmentation and a structured report of each scan that came as DICOM; others are skipped.

    Attach to:
        the evaluator; its post-processing ends with candidates on the scan's own grid.

    Runs at:
        ``Events.ITERATION_COMPLETED``, before the handlers that tell of a scan's notes. A series that no object can
        refer to by UIDs, whose headers cannot be taken over, or with more candidates than a segmentation holds, gets no
        DICOM; the run goes on.

    Reads:
        ``pred`` (its metadata tell the scan's name) and ``candidates`` (as ``DescribeCandidatesd`` gives them) of the
        evaluator's decollated output.

    Writes:
        into the metadata of ``pred``, after its ``notes``, why there is no DICOM, or what is left empty in it; and
        ``<scan>.seg.dcm``, unless there is no candidate, and ``<scan>.sr.dcm`` in the run's ``dicom/``; see
        ``scripts.reporting.dicom``.

    Args:
        run: the prediction. The objects lie in its ``dicom/``, and its bundle and weights are the algorithm that they
            name; without ``dicom`` among its outputs there are none.
    """

    def __init__(self, run: PredictionRun) -> None:
        from scripts.reporting import dicom  # of highdicom, without which a training runs, as in MONAI Label

        self._dicom = dicom
        self.run = run
        self.output_dir = run.path("dicom")

    @cached_property
    def algorithm(self) -> Algorithm:
        """What the objects name as their maker."""
        return self._dicom.Algorithm.of_bundle(self.run.bundle_root / "configs" / "metadata.json", self.run.checkpoint)

    def attach(self, engine: Engine) -> None:
        if not self.run.outputs["dicom"]:
            return
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._write)

    def _write(self, engine: Engine) -> None:
        outputs: Any = engine.state.output
        for output in outputs:
            pred, candidates = output["pred"], output["candidates"]
            scan = pred.meta["scan"]
            if not is_dicom(self.run.items[scan]["image"]):
                continue
            paths = {kind: self.output_dir / f"{scan}.{kind}.dcm" for kind in ("seg", "sr")}
            ids, affine = pred[0].cpu().numpy(), np.asarray(pred.affine, dtype=float)
            try:
                files, note = self._files(scan, ids, affine, candidates)
            except Exception as error:  # of headers highdicom and pydicom raise nearly anything; the scan is done
                files, note = {}, f"No DICOM is written: {header_fault(error).removesuffix('.')}."
                engine.logger.debug("%s: no DICOM, %s", scan, where_raised(error))
            if note:
                pred.meta["notes"] = " ".join(filter(None, [pred.meta.get("notes", ""), note]))
            for kind, path in paths.items():
                if kind in files:
                    with whole_file(path) as temporary:
                        temporary.write_bytes(files[kind])
                else:  # what an earlier run found
                    path.unlink(missing_ok=True)

    def _files(
        self, scan: str, ids: NDArray, affine: NDArray, candidates: Sequence[Candidate]
    ) -> tuple[dict[str, bytes], str]:
        """Return the objects of a scan as files, ``seg`` and ``sr``, and what a user should know of them."""
        dicom = self._dicom
        sources, emptied = dicom.read_sources(series_files(self.run.items[scan]["image"]))
        if problem := dicom.reference_problem(sources):
            return {}, f"No DICOM is written, since {problem}."
        if len(candidates) > dicom.MAX_SEGMENTS:
            return {}, f"No DICOM is written, which holds {dicom.MAX_SEGMENTS} candidates at most."
        found = dicom.candidate_segmentation(sources, ids, affine, candidates, self.algorithm) if candidates else None
        summary = self.run.records.summarize(candidates)
        report = dicom.candidate_report(sources, found, candidates, summary, self.algorithm)
        files = {} if found is None else {"seg": dicom.encoded(found)}
        note = f"Not valid in its headers, and left empty in DICOM: {', '.join(emptied)}." if emptied else ""
        return files | {"sr": dicom.encoded(report)}, note

"""The RibFrac challenge's score of detected fractures as a MONAI metric; its rule is in ``scripts.metrics.froc``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from monai.metrics import Cumulative
from monai.utils import convert_to_numpy, str2bool

from scripts.data.ribfrac import integer_ids
from scripts.metrics.froc import ScanResult, challenge_scores, detection_scores, score_scan

__all__ = ["RibFracFROCMetric", "annotated_and_predicted", "scan_result"]

# Scans, fractures and candidates are rows of one table, so that MONAI can gather them from several processes.
# A process without a scan has an empty row: MONAI would gather nothing from it, and the others would wait for it.
_SCAN_ROW, _FRACTURE_ROW, _CANDIDATE_ROW, _EMPTY_ROW = range(4)


class RibFracFROCMetric(Cumulative):
    """
    Score detected fractures as the RibFrac challenge does, inside a MONAI evaluator.

    MONAI's metrics take tensors of one shape; here each scan brings volumes, a score per candidate and a class per
    fracture, so `__call__` takes dictionaries, and each scan becomes rows of one table of float64, which ``Cumulative``
    gathers from all processes. These must share the scans in turns, as MONAI's ``partition_dataset`` and
    ``DistributedSampler`` deal them: scans then keep their order, and the bootstrap its draws. In
    ``IgniteMetricHandler``, the ``output_transform`` is `annotated_and_predicted`. Volumes must have one orientation;
    where a candidate and a fracture share several pieces, another orientation than the file's may choose another piece
    than the challenge does.

    Args:
        exact_thresholds: passed to `challenge_scores` by `details`, as are the next two.
        bootstrap: number of draws for the 95 % interval; 0 leaves it out.
        seed: seed of the draws.

    Example:
        >>> metric = RibFracFROCMetric()
        >>> volume = torch.zeros(1, 4, 4, 4, dtype=torch.int16)
        >>> volume[0, 1:3, 1:3, 1:3] = 1
        >>> metric([{"pred": volume, "label_scores": torch.tensor([0.9])}], [{"label": volume}])
        >>> metric.aggregate()
        tensor(1., dtype=torch.float64)
    """

    def __init__(self, exact_thresholds: bool | str = False, bootstrap: int = 1000, seed: int = 0) -> None:
        super().__init__()
        self.exact_thresholds = str2bool(exact_thresholds)
        self.bootstrap = bootstrap
        self.seed = seed

    def reset(self) -> None:
        """Forget all scans."""
        super().reset()
        self._scans = 0
        self._details: dict[str, Any] | None = None

    def __call__(self, y_pred: Sequence[Mapping[str, Any]], y: Sequence[Mapping[str, Any]]) -> None:
        """
        Add scans.

        Args:
            y_pred: per scan ``pred``, ids 1 to n of the candidates, integer, shape ``(1, H, W, D)``; ``label_scores``,
                the score of each candidate in the order of the ids, in [0, 1], shape ``(n,)``; and, where candidates
                have a class, ``pred_codes``, likewise, 1 to 4, -1 or 0 for none. Where ``scan_result`` is there, as
                ``MatchCandidatesd`` stores it, it is taken, and nothing else is read.
            y: per scan ``label``, ids of the fractures, integer, shape ``(1, H, W, D)``; and, where known,
                ``label_codes``, the class code of each id, 1 to 4 or -1. An entry for id 0 (background) is ignored.
                MONAI's engines leave such an item of the batch out of their output unless it was copied to another
                key: ``fracture_codes`` is read as well, and first.

        Raises:
            ValueError: when the lists differ in length, or a scan's volumes, scores and codes do not fit each other.
        """
        if len(y_pred) != len(y):
            raise ValueError(f"{len(y_pred)} predicted and {len(y)} annotated scans: give one of each per scan")
        for predicted, annotated in zip(y_pred, y):
            result = predicted.get("scan_result") or scan_result(predicted, annotated)
            self.extend(_to_rows(result, self._scans * idist.get_world_size() + idist.get_rank()))
            self._scans += 1
            self._details = None

    def results(self) -> list[ScanResult]:
        """Return what each scan added, from all processes, in the order in which one process would have met them."""
        if self._buffers is None:
            self.append(torch.full((5,), _EMPTY_ROW, dtype=torch.float64))
        rows = self.get_buffer()
        rows = rows[rows[:, 0] != _EMPTY_ROW]
        if not len(rows):
            return []
        starts = torch.nonzero(rows[:, 0] == _SCAN_ROW)[1:, 0]
        scans = torch.tensor_split(rows.cpu(), starts.cpu())
        return [_from_rows(scan) for scan in sorted(scans, key=lambda scan: float(scan[0, 4]))]

    def aggregate(self) -> torch.Tensor:
        """
        Return the average of recall at 0.5, 1, 2, 4 and 8 false positives per scan, a scalar in [0, 1]; not a number
        when no scan was added.
        """
        results = self.results()
        recall = detection_scores(results)["average_recall"] if results else float("nan")
        return torch.tensor(recall, dtype=torch.float64)

    def details(self) -> dict[str, Any]:
        """
        Return every score, see `challenge_scores`; they are computed once, for all who ask.

        Raises:
            ValueError: when no scan was added.
        """
        if self._details is None:
            self._details = challenge_scores(self.results(), self.exact_thresholds, self.bootstrap, self.seed)
        return self._details


def scan_result(predicted: Mapping[str, Any], annotated: Mapping[str, Any]) -> ScanResult:
    """
    Match the candidates of a scan with its fractures.

    Args:
        predicted: ``pred``, ``label_scores`` and, where candidates have a class, ``pred_codes``, see
            `RibFracFROCMetric`.
        annotated: ``label`` and, where known, ``label_codes`` or ``fracture_codes``, see there; may be the same.

    Returns:
        What the scan adds to the scores.

    Raises:
        ValueError: when its volumes, scores and codes do not fit each other.
    """
    pred, label = (_channel(scan, key) for scan, key in ((predicted, "pred"), (annotated, "label")))
    codes = annotated.get("fracture_codes", annotated.get("label_codes"))
    return score_scan(
        pred,
        label,
        _by_id(predicted["label_scores"]),
        None if predicted.get("pred_codes") is None else _by_id(predicted["pred_codes"]),
        None if codes is None else {int(key): int(code) for key, code in codes.items() if int(key) != 0},
    )


def annotated_and_predicted(output: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """
    Give an engine's output to `RibFracFROCMetric`: an ``output_transform`` for ``IgniteMetricHandler``.

    Args:
        output: decollated output of the evaluator, a dictionary per scan with the keys that the metric reads.

    Returns:
        The output, twice: the metric reads the candidates from the first and the fractures from the second.
    """
    return output, output


def _channel(scan: Mapping[str, Any], key: str) -> np.ndarray:
    """Return the volume of ids under ``key`` without its channel, checked."""
    volume = convert_to_numpy(scan[key])
    if volume.ndim != 4 or volume.shape[0] != 1:
        raise ValueError(f"'{key}' has shape {volume.shape}: give ids as (1, H, W, D)")
    return integer_ids(volume[0], f"'{key}'")


def _by_id(values: Any) -> dict[int, Any]:
    """Return values in the order of the ids 1 to n as ``{id: value}``."""
    return dict(enumerate(np.atleast_1d(convert_to_numpy(values)).tolist(), start=1))


def _to_rows(result: ScanResult, position: int) -> torch.Tensor:
    """Return a scan as rows ``(kind, 4 values)``: the scan's own, then its fractures', then its candidates'."""
    fractures, candidates = len(result.fracture_codes), len(result.candidate_codes)
    rows = np.zeros((1 + fractures + candidates, 5))
    rows[0] = _SCAN_ROW, result.candidate_voxels, result.fracture_voxels, result.shared_voxels, position
    rows[1 : 1 + fractures, 0] = _FRACTURE_ROW
    rows[1 : 1 + fractures, 1] = result.fracture_codes
    columns = result.candidate_codes, result.label_scores, result.best_fracture, result.best_overlap
    rows[1 + fractures :, 0] = _CANDIDATE_ROW
    rows[1 + fractures :, 1:] = np.stack(columns, axis=1)
    return torch.from_numpy(rows)


def _from_rows(rows: torch.Tensor) -> ScanResult:
    """Undo `_to_rows`."""
    table = rows.numpy()
    candidates = table[table[:, 0] == _CANDIDATE_ROW]
    return ScanResult(
        fracture_codes=table[table[:, 0] == _FRACTURE_ROW, 1].astype(np.int64),
        candidate_codes=candidates[:, 1].astype(np.int64),
        label_scores=candidates[:, 2],
        best_fracture=candidates[:, 3].astype(np.int64),
        best_overlap=candidates[:, 4],
        candidate_voxels=int(table[0, 1]),
        fracture_voxels=int(table[0, 2]),
        shared_voxels=int(table[0, 3]),
    )

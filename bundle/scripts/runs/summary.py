"""What a prediction or an evaluation came to, for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from monai.config import PathLike

from scripts.data.dataloader import SkippedScan
from scripts.data.ribfrac import KEY_FALSE_POSITIVES
from scripts.files.atomic_write import write_json
from scripts.files.file_digest import file_sha256
from scripts.files.ignored_files import IgnoredFiles
from scripts.runs.records import ScanRecords

__all__ = ["RunSummary", "bundle_facts"]


class RunSummary:
    """
    Sum up the scans that one process predicted, skipped, or found done, in one small JSON file.

    MONAI logs as much, but for people, and exits with one status for all failures. ``docs/reference.md`` lists what the
    file holds.

    Args:
        path: the file.
        records: what is done.
        bundle_root: the bundle's folder, whose metadata tell its name and version.
        checkpoint: the weights that ran; None where they are part of the network.
        settings: settings of the run that the summary tells.
        metrics: the ``metrics.json`` of this run; None without annotations.
        ignored: files of the data set that were not taken for a scan, see ``scripts.files.ignored_files``.
    """

    def __init__(
        self,
        path: PathLike,
        records: ScanRecords,
        bundle_root: PathLike,
        checkpoint: PathLike | None,
        settings: Mapping[str, Any],
        metrics: PathLike | None = None,
        ignored: Sequence[IgnoredFiles] = (),
    ) -> None:
        self.path = Path(path)
        self.records = records
        self.bundle_root = bundle_root
        self.checkpoint = checkpoint
        self.settings = settings
        self.metrics = None if metrics is None else Path(metrics)
        self.ignored = ignored

    def remove(self) -> None:
        """Remove the summary of an earlier run: one that is killed has none."""
        self.path.unlink(missing_ok=True)

    def write(self, to_do: int, skipped: Sequence[SkippedScan]) -> None:
        """
        Write the summary, when the run is at its end.

        Args:
            to_do: scans of this run.
            skipped: those of them that it skipped.
        """
        named = self.records.summaries()
        summaries = [summary for _, summary in named]
        content = {
            **bundle_facts(self.bundle_root, self.checkpoint),
            "settings": self.settings,
            "shard": self.records.shard,
            "shards": self.records.shards,
            "scans": {
                "all": len(self.records.mine),
                "done_before": len(self.records.mine) - to_do,
                "predicted": to_do - len(skipped),
                "skipped": len(skipped),
            },
            "candidates": {
                "all": sum(summary.candidates for summary in summaries),
                "at_operating_point": sum(summary.at_operating_point for summary in summaries),
            },
            "scans_with_many_fractures": sum(summary.many_fractures for summary in summaries),
            "chests": [{"scan": scan, **asdict(summary.chest)} for scan, summary in named if summary.chest is not None],
            "statuses": [
                {"scan": scan, "status": its.status, "notes": its.failure or its.notes} for scan, its in named
            ],
            "skipped_scans": [scan._asdict() for scan in skipped],
            "ignored": list(self.ignored),
            "froc": self._froc() if to_do else None,
        }
        write_json(self.path, content)

    def _froc(self) -> dict[str, Any] | None:
        """Pick the main figures of ``metrics.json``."""
        if self.metrics is None or not self.metrics.is_file():
            return None
        metrics = json.loads(self.metrics.read_text(encoding="utf-8"))
        detection = metrics["detection"]
        return {
            **metrics["counts"],
            "recall_at_fp_per_scan": dict(zip(map(str, KEY_FALSE_POSITIVES), detection["key_recall"])),
            "average_recall": detection["average_recall"],
            "max_recall": detection["max_recall"],
        }


def bundle_facts(bundle_root: PathLike, checkpoint: PathLike | None) -> dict[str, str | None]:
    """
    Tell which bundle and which weights run.

    Args:
        bundle_root: the bundle's folder.
        checkpoint: the weights; None where they are part of the network.

    Returns:
        ``bundle``, its name; ``version``; ``weights``, the file's name; ``weights_sha256``. The last two are None
        without a file.
    """
    metadata = json.loads((Path(bundle_root) / "configs" / "metadata.json").read_text(encoding="utf-8"))
    return {
        "bundle": metadata["name"],
        "version": metadata["version"],
        "weights": None if checkpoint is None else Path(checkpoint).name,
        "weights_sha256": None if checkpoint is None else file_sha256(checkpoint),
    }

"""A prediction from its first scan to its tables: one object for what a run keeps, shares and leaves."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from monai.config import PathLike
from monai.engines import Evaluator
from monai.utils import str2bool

from scripts.candidates import counted
from scripts.data.datalist import ScanList
from scripts.data.dataloader import SkippedScan, raise_skipped
from scripts.files.file_digest import file_sha256
from scripts.images.dicom_series import is_hidden_name
from scripts.reporting.pages.page import OtherScan, ReviewPage
from scripts.runs.config import definition_hash, flat_settings, running_parser, save_run_config
from scripts.runs.lock import FolderLock
from scripts.runs.log_lines import hide_false_resuming
from scripts.runs.memory import keep_freed_memory
from scripts.runs.records import ScanRecords
from scripts.runs.settings import check_files, refuse_stray_words
from scripts.runs.summary import RunSummary, bundle_facts

__all__ = ["PredictionRun", "run_prediction"]

_SHIPPED_NOTE = (
    "The shipped weights ran. They saw synthetic fractures, and fractures implanted into real chest CT, and no others; "
    "nothing was measured on fractures that a radiologist confirmed."
)

# Settings that change neither a mask nor a table
_WITHOUT_EFFECT = (
    "output_dir",
    "predictions_dir",
    "windows::batch_size",
    "outputs::probabilities",
    "outputs::subfolders",
)

_logger = logging.getLogger(__name__)


class PredictionRun:
    """
    Deal the scans of a prediction, record what is done, and write the tables and the summary.

    MONAI's evaluator predicts what its loader gives, and knows nothing of runs before or beside it.

    Args:
        scans: all scans, as ``load_datalist`` gives them.
        output_dir: folder of the tables, the records, the summary, ``config.yaml``, ``pictures/``, ``dicom/``,
            ``probabilities/``, ``ribs/`` and the page.
        predictions_dir: folder of the masks, where the challenge wants its table.
        bundle_root: the bundle's folder, whose metadata tell its name and version.
        checkpoint: the weights; None where they are part of the network.
        outputs: what is written beside masks and tables: switches ``pictures``, ``review_page``, ``dicom`` and
            ``probabilities``; and ``subfolders``, whether masks lie in 256 folders.
        operating_score: candidates of this score or more count in ``scans.csv``.
        many_fractures: so many that count, or more, raise a scan's flag there.
        definition: ids of the config that decide what a mask is: a scan that others have predicted is not done.
        files: files that do so, too; the checkpoint where None.
        settings: what summary and page report of the run.
        shard: number of this process, from 0; the environment's ``RANK`` where None, or 0.
        shards: processes that share the scans; the environment's ``WORLD_SIZE`` where None, or 1.
        resume: leave out scans that are done.
        whole: the run is of all scans, as an evaluation is, whose score is of what it predicts.
        metrics: the ``metrics.json`` of the run; None without annotations.
        ribs: whether the ribs are found, and written to ``ribs/``.
        describe: whether fractures are described, so that ``scans.csv`` tells what they are together.

    Raises:
        ValueError: see :class:`ScanRecords`.
    """

    def __init__(
        self,
        scans: Sequence[Mapping[str, Any]],
        output_dir: PathLike,
        predictions_dir: PathLike,
        bundle_root: PathLike,
        checkpoint: PathLike | None,
        outputs: Mapping[str, Any],
        operating_score: float = 0.5,
        many_fractures: int = 3,
        definition: Sequence[str] = (),
        files: Sequence[PathLike] | None = None,
        settings: Mapping[str, Any] | None = None,
        shard: int | None = None,
        shards: int | None = None,
        resume: bool | str = False,
        whole: bool = False,
        metrics: PathLike | None = None,
        ribs: bool | str = False,
        describe: bool | str = False,
    ) -> None:
        self.scans = scans
        self.output_dir = Path(output_dir)
        self.bundle_root = Path(bundle_root)
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        self.outputs = {
            name: str2bool(outputs.get(name, False)) for name in ("pictures", "review_page", "dicom", "probabilities")
        }
        self.settings = {name: _plain(value) for name, value in (settings or {}).items()}
        self.shard, self.shards = _share(shard, shards)
        self.metrics = metrics
        self.ribs = str2bool(ribs)
        weights = [path for path in [self.checkpoint] if path is not None]
        subfolder = "{subfolder}" if str2bool(outputs.get("subfolders", False)) else ""
        files_of_a_scan = [Path(predictions_dir) / subfolder / "{scan}.nii.gz"]
        files_of_a_scan += [self.output_dir / "pictures" / "{scan}.png"] if self.outputs["pictures"] else []
        files_of_a_scan += [self.output_dir / "ribs" / "{scan}.nii.gz"] if self.ribs else []
        if self.outputs["probabilities"]:
            files_of_a_scan.append(self.output_dir / "probabilities" / "{scan}.nii.gz")
        further = ["pictures/{scan}_ribs.png", "ribs/{scan}.csv", "dicom/{scan}.seg.dcm", "dicom/{scan}.sr.dcm"]
        self.records = ScanRecords(
            self.output_dir,
            predictions_dir,
            scans,
            definition_hash(definition, weights if files is None else files, _WITHOUT_EFFECT),
            [str(path) for path in files_of_a_scan],
            self.shard,
            self.shards,
            str2bool(resume),
            operating_score,
            many_fractures,
            whole,
            str2bool(describe),
            [str(self.output_dir / name) for name in further],
        )

    @cached_property
    def to_do(self) -> list[Mapping[str, Any]]:
        """The scans that this process predicts."""
        return self.records.to_do()

    @cached_property
    def items(self) -> dict[str, Mapping[str, Any]]:
        """These scans by their names."""
        return {str(item["scan"]): item for item in self.to_do}

    @property
    def done_before(self) -> list[str]:
        """The names of the scans of this process that were done before it began."""
        return [item["scan"] for item in self.records.mine if item["scan"] not in self.items]

    def path(self, name: str) -> Path:
        """Return the path of a file or folder of this run; a file of this process alone has the shard in its name."""
        path = self.output_dir / name
        return path.with_stem(f"{path.stem}-{self.shard}") if self.shards > 1 and path.suffix else path

    def prepare(self) -> None:
        """Remove what an earlier run left of the scans that are to be predicted."""
        self.records.prepare(self.to_do)

    def new_page(self) -> ReviewPage:
        """Begin the review page."""
        facts = bundle_facts(self.bundle_root, self.checkpoint)
        digest = facts["weights_sha256"]
        is_shipped = digest is not None and digest == file_sha256(self.bundle_root / "models" / "model.pt")
        summary = {
            "bundle": f"{facts['bundle']} {facts['version']}",
            "weights": f"{facts['weights']}, SHA-256 {digest[:12]}…" if digest else "part of the network",
            "settings": flat_settings(self.settings, "#"),  # as on the command line
        }
        if of_others := len(self.scans) - len(self.records.mine):
            summary["not on this page"] = f"{counted(of_others, 'scan')} that other processes predict"
        return ReviewPage(
            self.path("report.html"),
            summary,
            self.records.operating_score,
            _SHIPPED_NOTE if is_shipped else "",
            self.records.many_fractures,
        )

    def other_scans(self, skipped: Sequence[SkippedScan]) -> list[OtherScan]:
        """
        List the scans of this process that have no pictures on its page.

        Args:
            skipped: the scans of this run that failed.
        """
        failed = [OtherScan(scan, "failed", reason) for scan, reason in skipped]
        return failed + [OtherScan(scan, "done earlier", "see scans.csv") for scan in self.done_before]

    def predict(self, predict_scans: Callable[[], Sequence[SkippedScan]]) -> None:
        """
        Predict what is to be done, and write the tables and the summary.

        Args:
            predict_scans: predicts the scans of `to_do`, and returns those that it skipped.

        Raises:
            ValueError: at the end, when scans were skipped.
        """
        summary = RunSummary(
            self.path("summary.json"),
            self.records,
            self.bundle_root,
            self.checkpoint,
            self.settings,
            self.metrics,
            self.scans.ignored if isinstance(self.scans, ScanList) else (),
        )
        summary.remove()
        skipped = predict_scans()
        for scan, reason in skipped:
            self.records.write_failure(self.items[scan], reason)
        self.records.join()
        summary.write(len(self.to_do), skipped)
        if hidden := sum(is_hidden_name(item["scan"]) for item in self.records.mine):
            _logger.info(
                f"Scans called ct-... lie in folders that name patients ({hidden} of {len(self.records.mine)}). A list "
                "for you alone of which is which: python -m scripts list_scans --dataset_dir ... --output private.json"
            )
        raise_skipped(skipped, len(self.to_do))


def run_prediction(
    prediction: str,
    evaluator: str,
    folders: Sequence[PathLike],
    files: Mapping[str, PathLike | None],
    shard: int | None = None,
    shards: int | None = None,
) -> None:
    """
    Run a prediction while no other run writes to its folders.

    The parts are given by their ids in the config: a folder that cannot be written to is refused before the scans are
    listed.

    Args:
        prediction: id of the :class:`PredictionRun`.
        evaluator: id of the evaluator.
        folders: folders of the run; the first one gets ``config.yaml``.
        files: the files that settings name, see :func:`check_files`.
        shard: see :class:`PredictionRun`.
        shards: likewise.

    Raises:
        FileNotFoundError: when a file that it needs does not exist.
        BlockingIOError: when another run writes to one of the folders.
        ValueError: when a folder holds masks of other scans; and at the end, when scans were skipped.
        RuntimeError: when it is called from anywhere but a config.
        SystemExit: when the command line has words that belong to no setting.
    """
    refuse_stray_words()
    hide_false_resuming()
    keep_freed_memory()
    check_files(files)
    parser = running_parser()
    with FolderLock(folders, *_share(shard, shards)):
        run: PredictionRun = parser.get_parsed_content(prediction)
        run.records.check_masks()  # before the network is made
        save_run_config(Path(folders[0]) / "config.yaml")
        run.predict(partial(_predict_here, run, parser.get_parsed_content(evaluator)))


def _predict_here(run: PredictionRun, evaluator: Evaluator) -> Sequence[SkippedScan]:
    """Predict what is to be done in this process."""
    if run.to_do:
        evaluator.run()
    loader: Any = evaluator.data_loader
    return loader.skipped


def _share(shard: int | None, shards: int | None) -> tuple[int, int]:
    """Return the number of this process, and that of all, as the environment says where they are not given."""
    return (
        int(os.environ.get("RANK", 0)) if shard is None else shard,
        int(os.environ.get("WORLD_SIZE", 1)) if shards is None else shards,
    )


def _plain(value: Any) -> Any:
    """Return a setting as JSON can hold it, such as a device."""
    return value if isinstance(value, bool | int | float | str | list | dict | None) else str(value)

"""Scoring a folder of predictions as the RibFrac challenge takes them: volumes of ids and tables of scores."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from tqdm import tqdm

from scripts.data.ribfrac import UNKNOWN_CLASS, integer_ids, is_hidden, read_ribfrac_table
from scripts.files.scan_files import subfolders_in
from scripts.images.grids import grid_difference
from scripts.images.headers import checked_axcodes, nifti_affine, orientation_problem, tells_orientation
from scripts.metrics.froc import ScanResult, score_scan

__all__ = ["Instances", "load_instances", "load_pair", "score_folders"]


def _files(folder: Path, pattern: str) -> list[Path]:
    """List files in order; hidden ones are a system's, an editor's, or what a killed run left unfinished."""
    return sorted(path for path in folder.glob(pattern) if path.is_file() and not is_hidden(path, folder))


def _volumes(paths: Sequence[Path]) -> dict[str, Path]:
    """Return NIfTI files by the name of their scan."""
    found: dict[str, Path] = {}
    for path in sorted(paths):
        scan = path.name.removesuffix(".gz").removesuffix(".nii").removesuffix("-label").strip()
        if scan in found:
            raise ValueError(f"{path} and {found[scan]} are both of scan {scan}: keep one")
        found[scan] = path
    return found


class Instances(NamedTuple):
    """
    A volume of ids.

    Args:
        ids: integer, 0 is background, shape ``(H, W, D)``.
        affine: voxels to mm in RAS, shape ``(4, 4)``; where nothing tells where the axes run to, as nibabel has it.
        is_oriented: whether the file or the user tells where the axes run to.
    """

    ids: np.ndarray
    affine: np.ndarray
    is_oriented: bool


def load_instances(path: Path, assumed_orientation: str | None = None) -> Instances:
    """
    Read a volume of ids.

    Args:
        path: a NIfTI file.
        assumed_orientation: where its axes run to if it does not tell, such as LPS, see
            :func:`scripts.images.checked_axcodes`.

    Returns:
        The ids and where they lie.

    Raises:
        ValueError: when the file cannot be read, or holds no such volume, or ``assumed_orientation`` is none.
    """
    axcodes = checked_axcodes(assumed_orientation)
    try:
        image = nib.Nifti1Image.from_filename(path)
        volume = np.asanyarray(image.dataobj)
    except (nib.filebasedimages.ImageFileError, OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read as NIfTI ({error}): write it again") from error
    if volume.ndim != 3:
        raise ValueError(f"{path} has shape {volume.shape}: a volume of ids has three axes")
    is_oriented = axcodes is not None or tells_orientation(image)
    affine = nifti_affine(image, path, axcodes) if is_oriented else image.affine
    return Instances(integer_ids(volume, str(path)), affine, is_oriented)


def load_pair(
    prediction: Path, annotation: Path, assumed_orientation: str | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Read the candidates and the fractures of a scan, which must lie on one grid.

    Two files that state no orientation lie on one grid where shape and spacing say so. Where one of them tells it, the
    other one's axes must be stated.

    Args:
        prediction: NIfTI file of the candidates' ids.
        annotation: NIfTI file of the fractures' ids.
        assumed_orientation: see :func:`load_instances`.

    Returns:
        Both volumes of ids, shape ``(H, W, D)``, and the annotation's affine.

    Raises:
        ValueError: when one cannot be read, or they are not on one grid; the message names both.
    """
    pred, label = (load_instances(path, assumed_orientation) for path in (prediction, annotation))
    if pred.is_oriented != label.is_oriented:
        silent, other = (prediction, annotation) if label.is_oriented else (annotation, prediction)
        raise ValueError(orientation_problem(silent, f"its sform_code and qform_code are 0; {other} states one"))
    if difference := grid_difference(pred.ids.shape, pred.affine, label.ids.shape, label.affine):
        raise ValueError(f"{prediction} is not on the grid of {annotation}, {difference}: predict on the scan's grid")
    return pred.ids, label.ids, label.affine


class _Row(NamedTuple):
    """One instance in a table: its class code, its score (0 for fractures), and the file that says so."""

    code: int
    score: float
    path: Path


def _load_tables(paths: Sequence[Path], has_scores: bool) -> dict[str, dict[int, _Row]]:
    """Read tables of instances into ``{scan: {id: row}}``; a scan's background row leaves an empty table."""
    wanted = ["public_id", "label_id", "confidence" if has_scores else "label_code"]
    table: dict[str, dict[int, _Row]] = {}
    for path in sorted(paths):
        for line in read_ribfrac_table(path, wanted).rows:
            instance = line.whole_number("label_id")
            code = line.whole_number("label_code") if line.values.get("label_code") else UNKNOWN_CLASS
            scan = line.values["public_id"]
            rows = table.setdefault(scan, {})
            if instance in rows:
                raise ValueError(f"{line.where}: {scan} has id {instance} twice")
            row = _Row(code, line.number("confidence") if has_scores else 0.0, path)
            if instance != 0:
                rows[instance] = row
    return table


def _score_files(
    scan: str,
    gt_path: Path,
    pred_path: Path,
    gt: dict[int, _Row],
    pred: dict[int, _Row],
    assumed_orientation: str | None,
) -> ScanResult:
    """Score one scan from its two volumes and their tables' rows."""
    volume, label, _ = load_pair(pred_path, gt_path, assumed_orientation)
    try:
        return score_scan(
            volume,
            label,
            {instance: row.score for instance, row in pred.items()},
            {instance: row.code for instance, row in pred.items()},
            {instance: row.code for instance, row in gt.items()},
        )
    except ValueError as error:
        tables = " and ".join(sorted({str(row.path) for row in (*gt.values(), *pred.values())}))
        raise ValueError(
            f"{scan} ({pred_path}, {gt_path}; tables {tables or 'without a row of it'}): {error}"
        ) from error


def score_folders(
    gt_dir: str | Path, pred_dir: str | Path, workers: int = 1, assumed_orientation: str | None = None
) -> list[ScanResult]:
    """
    Score the predictions in one folder against the annotations in another.

    Args:
        gt_dir: holds ``*-label.nii.gz`` and tables ``*info*.csv`` (``public_id,label_id,label_code``), at any depth;
            the tables may also lie beside the folder.
        pred_dir: holds ``NAME.nii.gz`` or ``NAME-label.nii.gz`` per scan, or a prediction's 256 folders of them, and
            tables ``*pred*.csv`` (``public_id,label_id,confidence`` and, where candidates have a class,
            ``label_code``). Each scan has at least one row, id 0 for the background.
        workers: scans that are read and scored at the same time.
        assumed_orientation: of a volume that tells none, see `load_pair`.

    Returns:
        What each scan adds to the scores, in the order of their names.

    Raises:
        FileNotFoundError: when a folder, its volumes or its tables are missing.
        ValueError: when volumes and tables do not fit each other; the message names the file.
    """
    gt_dir, pred_dir = Path(gt_dir), Path(pred_dir)
    for folder in (gt_dir, pred_dir):
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is not a folder")
    labels = _volumes([*_files(gt_dir, "**/*-label.nii.gz"), *_files(gt_dir, "**/*-label.nii")])
    pred_dirs = (pred_dir, *subfolders_in(pred_dir))
    predictions = _volumes(
        [path for folder in pred_dirs for end in ("", ".gz") for path in _files(folder, f"*.nii{end}")]
    )
    # RibFrac's tables lie beside the folders of labels.
    gt_tables = _files(gt_dir, "**/*info*.csv") or _files(gt_dir.resolve().parent, "*info*.csv")
    pred_tables = _files(pred_dir, "*pred*.csv")
    for what, found, folder in (
        ("*-label.nii.gz", labels, gt_dir),
        ("*info*.csv", gt_tables, gt_dir),
        ("*pred*.csv", pred_tables, pred_dir),
    ):
        if not found:
            raise FileNotFoundError(f"{folder} holds no {what}")
    gt, pred = _load_tables(gt_tables, has_scores=False), _load_tables(pred_tables, has_scores=True)
    for scan in sorted({*labels, *predictions}):
        if scan not in predictions:
            raise ValueError(f"{labels[scan]} has no prediction: {pred_dir} holds neither {scan}.nii.gz nor its -label")
        if scan not in labels:
            raise ValueError(f"{predictions[scan]} has no annotation in {gt_dir}: move it out of {pred_dir}")
        for table, paths in ((gt, gt_tables), (pred, pred_tables)):
            if scan not in table:
                names = ", ".join(map(str, sorted(paths)))
                raise ValueError(f"{names}: no row of scan {scan}; add at least its background row, label_id 0")

    scans = sorted(labels)
    columns = ([found[scan] for scan in scans] for found in (labels, predictions, gt, pred))
    score = partial(_score_files, assumed_orientation=assumed_orientation)
    progress = partial(tqdm, total=len(scans), desc="score scans", unit="scan")
    if workers == 1:
        return list(progress(map(score, scans, *columns)))
    # Processes, not threads: much of the work holds Python's lock, and results are small to hand back.
    with ProcessPoolExecutor(max_workers=workers) as pool:
        return list(progress(pool.map(score, scans, *columns)))

"""
Pack a folder of predictions as the RibFrac challenge takes them, once they are checked by its rules.

    python -m scripts submission --predictions_dir output/prediction/predictions --output submission.zip

The challenge's evaluator trusts what it is given: ids above 255 wrap, a scan without a row does not count, a candidate
without a row is lost. Here each of these is an error that names the file.
"""

from __future__ import annotations

import zipfile
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from scripts.commands._parsers import parser_of
from scripts.data.ribfrac import read_ribfrac_table
from scripts.files.atomic_write import whole_file
from scripts.files.scan_files import subfolders_in
from scripts.metrics.folders import load_instances
from scripts.reporting.tables import CHALLENGE_COLUMNS

__all__ = ["main", "pack_submission", "submission_problems"]

# RibFrac's numbers, Zenodo records 3893496 and 3993380
_NUMBERS = {"validation": range(421, 501), "test": range(501, 661)}
_FRACTURE_CODES = (-1, 1, 2, 3, 4)
_MAX_ID = 255  # masks are read as uint8
_MAX_SHOWN = 10
_OF_WINDOWS = ("desktop.ini", "Thumbs.db")


def submission_problems(predictions_dir: str | Path, section: str = "test") -> list[str]:
    """
    Find what the challenge would take wrongly.

    Args:
        predictions_dir: holds ``RibFracN.nii.gz`` or ``RibFracN-label.nii.gz`` for each scan, and one table
            ``*pred*.csv`` with the columns ``public_id,label_id,confidence,label_code``.
        section: ``validation`` or ``test``, all of whose scans must be there; ``any`` asks for no certain scans.

    Returns:
        a sentence for each fault, which names the file, what is wrong and what to do; none where all is well.

    Raises:
        FileNotFoundError: when there is no such folder.
    """
    folder = Path(predictions_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: give the predictions/ of a run.")
    problems = []
    masks: dict[str, Path] = {}
    tables = []
    for path in _visible(folder):
        scan = path.name.removesuffix(".nii.gz").removesuffix("-label")
        if path.is_file() and path.name.endswith(".nii.gz"):
            if scan in masks:
                problems.append(f"{path}: {masks[scan].name} is of the same scan; keep one.")
            masks[scan] = path
        elif path.is_file() and path.suffix == ".csv" and "pred" in path.name:
            tables.append(path)
        else:
            problems.append(f"{path}: is neither a mask nor the table; move it out of the folder.")
    problems += _missing_scans(folder, masks, section)
    if len(tables) != 1:
        return [*problems, f"{folder}: holds {len(tables)} tables *pred*.csv; keep one, with the rows of all scans."]
    rows, table_problems = _read_table(tables[0])
    problems += table_problems
    problems += [
        f"{tables[0]}: has rows of {scan}, of which there is no mask; remove them, or predict it."
        for scan in rows.keys() - masks
    ]
    with ThreadPoolExecutor(2) as pool:  # unpacking lets go of Python's lock
        for found in pool.map(lambda scan: _problems_of_scan(masks[scan], tables[0], rows.get(scan)), masks):
            problems += found
    return problems


def _visible(folder: Path) -> list[Path]:
    """
    List what is in a folder, in order, without what systems and editors leave there: that is not packed.

    Of a prediction's 256 folders in it, what is in these.
    """
    inner = subfolders_in(folder)
    paths = (path for one in (folder, *inner) for path in one.iterdir() if path not in inner)
    return sorted(path for path in paths if not path.name.startswith(".") and path.name not in _OF_WINDOWS)


def _missing_scans(folder: Path, masks: dict[str, Path], section: str) -> list[str]:
    """Tell which scans of the section have no mask, and which masks are not the section's."""
    if section == "any":
        return [] if masks else [f"{folder}: holds no mask RibFracN.nii.gz."]
    wanted = [f"RibFrac{number}" for number in _NUMBERS[section]]
    missing = [scan for scan in wanted if scan not in masks]
    problems = [
        f"{path}: is no scan of the section {section}, {wanted[0]} to {wanted[-1]}; move it out of the folder."
        for scan, path in masks.items()
        if scan not in wanted
    ]
    if missing:
        shown = ", ".join(missing[:_MAX_SHOWN]) + (" ..." if len(missing) > _MAX_SHOWN else "")
        problems.append(
            f"{folder}: lacks {len(missing)} of the {len(wanted)} scans of {section}: {shown}; predict them."
        )
    return problems


def _read_table(path: Path) -> tuple[dict[str, dict[int, int]], list[str]]:
    """Read ``{scan: {id: code}}`` with the background rows, and tell which lines are wrong."""
    rows: dict[str, dict[int, int]] = defaultdict(dict)
    problems = []
    try:
        table = read_ribfrac_table(path, CHALLENGE_COLUMNS)
    except ValueError as error:
        return rows, [str(error)]
    if table.columns != CHALLENGE_COLUMNS:
        return rows, [f"{path}: its first line must be {','.join(CHALLENGE_COLUMNS)}, is {','.join(table.columns)}."]
    if not table.encoding.startswith("utf-8") or table.delimiter != ",":
        return rows, [f"{path}: is {table.encoding.upper()} with '{table.delimiter}'; save it as UTF-8 with commas."]
    for row in table.rows:
        try:
            number, code = row.whole_number("label_id"), row.whole_number("label_code")
            confidence = row.number("confidence")
        except ValueError as error:
            problems.append(str(error))
            continue
        scan = row.values["public_id"]
        if not 0 <= confidence <= 1:
            problems.append(f"{row.where}: the confidence {confidence} is not from 0 to 1; scale it.")
        if number < 0 or code not in (_FRACTURE_CODES if number else (0,)):
            problems.append(f"{row.where}: id {number} with code {code}; candidates have -1, 1, 2, 3 or 4, id 0 has 0.")
        if number in rows[scan]:
            problems.append(f"{row.where}: {scan} has the id {number} twice; keep one.")
        rows[scan][number] = code
    return dict(rows), problems


def _problems_of_scan(mask: Path, table: Path, rows: dict[int, int] | None) -> list[str]:
    """Hold the ids in a mask against the scan's rows."""
    try:
        ids = np.unique(load_instances(mask).ids)
    except ValueError as error:
        return [str(error)]
    present = {int(number) for number in ids if number}
    problems = []
    if present and max(present) > _MAX_ID:
        problems.append(
            f"{mask}: has the id {max(present)}, and ids above 255 wrap; write fewer, by a higher min_score."
        )
    if rows is None:
        return [*problems, f"{table}: has no row of {mask.name}; add at least that of the background, with id 0."]
    if 0 not in rows:
        problems.append(f"{table}: has no background row, id 0 and code 0, of {mask.name}; add it.")
    for numbers, what in (
        (present - rows.keys(), f"{table}: has no row of the ids {{}} of {mask.name}; add them, or remove the voxels."),
        (rows.keys() - present - {0}, f"{mask}: has no voxel of the ids {{}} of {table.name}; remove their rows."),
    ):
        if numbers:
            problems.append(what.format(", ".join(map(str, sorted(numbers)))))
    if present and sorted(present) != list(range(1, len(present) + 1)):
        problems.append(f"{mask}: its ids are not 1 to {len(present)}; renumber them.")
    return problems


def pack_submission(predictions_dir: str | Path, output: str | Path, section: str = "test") -> int:
    """
    Check predictions, and pack their masks and their table flat into an archive.

    Args:
        predictions_dir: as for :func:`submission_problems`.
        output: the ``.zip`` to write, whole or not at all.
        section: as for :func:`submission_problems`.

    Returns:
        The number of masks.

    Raises:
        FileNotFoundError: when there is no such folder.
        ValueError: when a check fails; the message has the first ten faults.
    """
    problems = submission_problems(predictions_dir, section)
    if problems:
        shown = "\n".join(problems[:_MAX_SHOWN])
        raise ValueError(
            f"{predictions_dir}: {len(problems)} problems, here the first {len(problems[:_MAX_SHOWN])}:\n{shown}"
        )
    files = _visible(Path(predictions_dir))
    with whole_file(output) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for path in files:
            archive.write(path, path.name, zipfile.ZIP_DEFLATED if path.suffix == ".csv" else zipfile.ZIP_STORED)
    return len(files) - 1


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Pack from the command line; ``--help`` explains the arguments.

    Args:
        arguments: command line arguments; those of the process where None.
    """
    parser = parser_of("submission")
    options = parser.parse_args(arguments)
    try:
        count = pack_submission(options.predictions_dir, options.output, options.section)
    except (FileNotFoundError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")
    print(f"{options.output}: {count} scans, {Path(options.output).stat().st_size / 1e6:.1f} MB")

"""The challenge's archive: what is in it, and one error for each thing that the challenge would take wrongly."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import lps_affine

from scripts.commands.submission import main, pack_submission

HEADER = "public_id,label_id,confidence,label_code"
ROWS = ["RibFrac501,0,0.0,0", "RibFrac501,1,0.9,-1", "RibFrac501,2,0.5,3", "RibFrac502,0,0.0,0"]


def save(path: Path, ids: list[int], kind: type = np.uint8) -> None:
    nib.save(nib.Nifti1Image(np.array(ids, dtype=kind)[:, None, None], lps_affine()), path)


def save_table(folder: Path, rows: list[str], header: str = HEADER) -> None:
    (folder / "ribfrac-pred.csv").write_text("\n".join([header, *rows]) + "\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two scans: one with two candidates, one with none."""
    path = tmp_path / "predictions"
    path.mkdir()
    save(path / "RibFrac501.nii.gz", [0, 1, 1, 2])
    save(path / "RibFrac502-label.nii.gz", [0, 0])
    save_table(path, ROWS)
    return path


def test_the_archive_holds_masks_and_table_flat_and_unchanged(folder: Path, tmp_path: Path) -> None:
    assert pack_submission(folder, tmp_path / "out" / "s.zip", "any") == 2
    with zipfile.ZipFile(tmp_path / "out" / "s.zip") as archive:
        assert sorted(archive.namelist()) == ["RibFrac501.nii.gz", "RibFrac502-label.nii.gz", "ribfrac-pred.csv"]
        assert all(archive.read(path.name) == path.read_bytes() for path in folder.iterdir())


def test_what_systems_and_killed_runs_leave_is_not_packed(folder: Path, tmp_path: Path) -> None:
    for name in (".DS_Store", "._ribfrac-pred.csv", ".7.RibFrac501.nii.gz", "desktop.ini"):
        (folder / name).write_bytes(b"\xff")
    assert pack_submission(folder, tmp_path / "s.zip", "any") == 2
    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        assert sorted(archive.namelist()) == ["RibFrac501.nii.gz", "RibFrac502-label.nii.gz", "ribfrac-pred.csv"]


def spoil_row(old: str, new: str) -> Callable[[Path], None]:
    return lambda folder: save_table(folder, [row.replace(old, new) for row in ROWS])


@pytest.mark.parametrize(
    "spoil, message",
    [
        pytest.param(lambda f: (f / "notes.txt").touch(), "notes.txt: is neither a mask nor", id="another file"),
        pytest.param(lambda f: save(f / "RibFrac501-label.nii.gz", [0]), "of the same scan", id="a scan twice"),
        pytest.param(lambda f: (f / "ribfrac-pred.csv").unlink(), "holds 0 tables", id="no table"),
        pytest.param(lambda f: (f / "more-pred.csv").write_text(HEADER), "holds 2 tables", id="two tables"),
        pytest.param(
            lambda f: save_table(f, ROWS, HEADER[:-11]), "has the columns .*needs public_id", id="no label_code"
        ),
        pytest.param(
            lambda f: save_table(f, ROWS, f"{HEADER},more"), "first line must be public_id", id="a column more"
        ),
        pytest.param(
            lambda f: save_table(f, [row.replace(",", ";") for row in ROWS], HEADER.replace(",", ";")),
            "ribfrac-pred.csv: is UTF-8 with ';'; save it as UTF-8 with commas",
            id="semicolons",
        ),
        pytest.param(
            lambda f: (f / "ribfrac-pred.csv").write_text("\n".join([HEADER, *ROWS]), encoding="utf-16"),
            "ribfrac-pred.csv: is UTF-16 with ','; save it as UTF-8 with commas",
            id="UTF-16",
        ),
        pytest.param(
            spoil_row("0.9", "high"), "line 3: confidence is 'high', needs a number", id="confidence in words"
        ),
        pytest.param(spoil_row("0.9", "1.1"), "line 3: the confidence 1.1 is not from 0 to 1", id="above 1"),
        pytest.param(spoil_row("0.9", "nan"), "line 3: the confidence nan is not", id="no number"),
        pytest.param(spoil_row("0.5,3", "0.5,7"), "line 4: id 2 with code 7", id="unknown code"),
        pytest.param(spoil_row("0.0,0", "0.0,-1"), "line 2: id 0 with code -1", id="code of the background"),
        pytest.param(spoil_row("501,2", "501,1"), "line 4: RibFrac501 has the id 1 twice", id="id twice"),
        pytest.param(lambda f: save_table(f, ROWS[:3]), "no row of RibFrac502-label.nii.gz", id="scan without a row"),
        pytest.param(lambda f: save_table(f, ROWS[1:]), "no background row", id="no background row"),
        pytest.param(
            lambda f: save_table(f, [*ROWS, "RibFrac503,0,0,0"]), "rows of RibFrac503, of which", id="row without mask"
        ),
        pytest.param(
            lambda f: save_table(f, ROWS[:2] + ROWS[3:]), "no row of the ids 2 of RibFrac501", id="id without a row"
        ),
        pytest.param(
            lambda f: save(f / "RibFrac501.nii.gz", [0, 1]), "has no voxel of the ids 2 of", id="id without a voxel"
        ),
        pytest.param(
            lambda f: save(f / "RibFrac501.nii.gz", [1, 3]),
            "its ids are not 1 to 2; renumber them",
            id="ids with a gap",
        ),
        pytest.param(
            lambda f: save(f / "RibFrac501.nii.gz", [1, 2, 256], np.uint16), "has the id 256, .*wrap", id="above 255"
        ),
        pytest.param(
            lambda f: save(f / "RibFrac501.nii.gz", [1, 1.5], np.float32), "RibFrac501.nii.gz", id="parts of numbers"
        ),
        pytest.param(
            lambda f: (f / "RibFrac501.nii.gz").write_bytes(b"cut"), "RibFrac501.nii.gz cannot be read", id="unreadable"
        ),
    ],
)
def test_each_fault_is_told_and_nothing_is_written(
    spoil: Callable[[Path], object], message: str, folder: Path, tmp_path: Path
) -> None:
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        pack_submission(folder, tmp_path / "s.zip", "any")
    assert not (tmp_path / "s.zip").exists()


def test_scans_of_a_section_must_all_be_there(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lacks 158 of the 160 scans of test: RibFrac503, .*RibFrac512 ...; predict"):
        pack_submission(folder, tmp_path / "s.zip")
    with pytest.raises(ValueError, match="RibFrac501.nii.gz: is no scan of the section validation"):
        pack_submission(folder, tmp_path / "s.zip", "validation")


def test_by_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--predictions_dir", str(folder), "--output", str(tmp_path / "s.zip")]
    main([*arguments, "--section", "any"])
    assert "s.zip: 2 scans" in capsys.readouterr().out
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 1 and "lacks 158" in capsys.readouterr().err


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="give the predictions/ of a run"):
        pack_submission(tmp_path / "nowhere", tmp_path / "s.zip")

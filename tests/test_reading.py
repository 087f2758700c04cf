"""The pictures to read ribs in."""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import BUNDLE_ROOT
from matplotlib.image import imread
from rib_cages import image_of, made_cage

sys.path.insert(0, str(BUNDLE_ROOT.parent))

from benchmarks.detection import reading  # noqa: E402
from benchmarks.detection.__main__ import main  # noqa: E402
from benchmarks.detection.data import read_bodies  # noqa: E402


@pytest.fixture
def scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scan under the name of the first body, whose ribs are known: five on the left, one on the right."""
    cage = made_cage([("left", number) for number in (3, 4, 5)] + [("right", None)])
    monkeypatch.setattr(reading, "find_rib_cage", lambda *_: cage)
    path = tmp_path / "ct" / f"{read_bodies()[0].name}.nii.gz"
    path.parent.mkdir()
    nib.save(nib.Nifti1Image(image_of(cage).astype(np.int16), cage.affine), path)
    return path


def test_a_picture_has_four_ribs_of_one_side_at_most(scan: Path, tmp_path: Path) -> None:
    main(["read", "--real_ct_dir", str(scan.parent), "--output_dir", str(tmp_path / "out")])
    name = read_bodies()[0].name
    pictures = sorted(tmp_path.glob("out/*.png"))
    assert [path.name for path in pictures] == [f"{name}-left-1.png", f"{name}-right-1.png"]
    left, right = (imread(path) for path in pictures)
    assert left.shape[0] == 3 * right.shape[0]
    # 170 mm and 10 mm at both ends, at 2 pixels a mm and more, are drawn: bone is white
    assert (right[..., 0] > 0.7).any(axis=0).sum() > 300


def test_marks_stand_on_their_rib(scan: Path, tmp_path: Path) -> None:
    on_right = (70.0, 0.0, 25.0)
    plain = reading.reading_pictures(scan, tmp_path / "plain", "a")
    marked = reading.reading_pictures(scan, tmp_path / "marked", "a", {"x": [on_right], "y": [(0.0, 60.0, 60.0)]})
    differing = [(imread(a) != imread(b)).any() for a, b in zip(plain, marked)]
    assert differing == [False, True]


def test_a_folder_without_known_scans_is_told(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="holds none of the scans that bodies.json names"):
        main(["read", "--real_ct_dir", str(tmp_path), "--output_dir", str(tmp_path)])

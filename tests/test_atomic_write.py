"""A file is written whole or not at all."""

from __future__ import annotations

import pytest

from scripts.files.atomic_write import whole_file


def test_the_file_appears_at_the_end(tmp_path):
    path = tmp_path / "new" / "table.nii.gz"
    with whole_file(path) as temporary:
        temporary.write_text("all")
        assert not path.exists() and temporary.name.endswith(".nii.gz")
    assert path.read_text() == "all"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(OSError, match="disk full"), whole_file(path) as temporary:
        temporary.write_text("ha")
        raise OSError("disk full")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]

"""What is written is whole, and as small as its ids allow."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import lps_affine
from monai.data import MetaTensor
from monai.transforms import SaveImage

from scripts.images.image_writer import AtomicNibabelWriter
from scripts.transforms import scan_name_formatter


def saver(folder, **arguments):
    return SaveImage(
        folder,
        output_postfix="",
        separate_folder=False,
        print_log=False,
        writer=AtomicNibabelWriter,
        output_name_formatter=scan_name_formatter,
        **arguments,
    )


def volume(highest, dtype=torch.int32, shape=(1, 4, 3, 2), name="RibFrac501"):
    ids = torch.zeros(shape, dtype=dtype)
    ids[0, 1, 2, 0] = highest
    return MetaTensor(ids, affine=torch.as_tensor(lps_affine()), meta={"scan": name})


@pytest.mark.parametrize(
    "highest, dtype", [(0, np.uint8), (255, np.uint8), (256, np.uint16), (65535, np.uint16), (65536, np.uint32)]
)
def test_smallest_type_that_holds_the_ids(tmp_path, highest, dtype):
    saver(tmp_path, output_dtype=None)(volume(highest))
    image = nib.load(tmp_path / "RibFrac501.nii.gz")
    assert image.get_data_dtype() == dtype
    assert image.dataobj[1, 2, 0] == highest and np.count_nonzero(image.dataobj) == bool(highest)


def test_affine_and_shape_are_kept(tmp_path):
    saver(tmp_path, output_dtype=None)(volume(1, shape=(1, 4, 3, 1)))
    image = nib.load(tmp_path / "RibFrac501.nii.gz")
    assert image.shape == (4, 3, 1)
    assert np.allclose(image.affine, lps_affine()) and image.get_sform(coded=True)[1] == 1


def test_floating_point_stays(tmp_path):
    saver(tmp_path)(volume(0.25, torch.float32))
    image = nib.load(tmp_path / "RibFrac501.nii.gz")
    assert image.get_data_dtype() == np.float32 and image.dataobj[1, 2, 0] == 0.25


def test_a_name_with_dots_is_kept(tmp_path):
    saver(tmp_path, output_dtype=None)(volume(1, name="CT.1.3.12"))
    assert [path.name for path in tmp_path.iterdir()] == ["CT.1.3.12.nii.gz"]


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    saver(tmp_path, output_dtype=None)(volume(1))

    def cut(image, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(nib, "save", cut)
    with pytest.raises(RuntimeError, match="disk full"):
        saver(tmp_path, output_dtype=None)(volume(2))
    assert [path.name for path in tmp_path.iterdir()] == ["RibFrac501.nii.gz"]
    assert nib.load(tmp_path / "RibFrac501.nii.gz").dataobj[1, 2, 0] == 1


def test_negative_ids_are_refused(tmp_path):
    with pytest.raises(RuntimeError, match="must not be negative"):
        saver(tmp_path, output_dtype=None)(volume(-1))

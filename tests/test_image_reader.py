"""Tests of reading scans."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import lps_affine
from dicom_scans import write_series
from monai.transforms import LoadImage
from nibabel.nifti1 import Nifti1Image

from scripts.images.image_reader import CTReader


@pytest.fixture
def volume() -> np.ndarray:
    """More slices than are copied at a time, and no two voxels alike."""
    return np.arange(7 * 6 * 35, dtype=np.int16).reshape(7, 6, 35)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("slope, offset", [(1.0, 0.0), (0.5, -1024.0)])
def test_voxels_and_metadata_are_those_of_monais_reader(
    suffix: str, slope: float, offset: float, volume: np.ndarray, tmp_path: Path
) -> None:
    image = Nifti1Image(volume, lps_affine())
    image.header.set_slope_inter(slope, offset)
    path = tmp_path / f"scan{suffix}"
    nib.save(image, path)
    ours, monais = (LoadImage(reader, image_only=True)(path) for reader in (CTReader, None))
    np.testing.assert_array_equal(ours.numpy(), monais.numpy())
    np.testing.assert_allclose(ours.numpy()[1, 2, 3], volume[1, 2, 3] * slope + offset)
    assert ours.is_contiguous()
    assert ours.meta.keys() == monais.meta.keys()
    np.testing.assert_array_equal(ours.affine, monais.affine)


def test_every_byte_of_a_compressed_file_counts(volume: np.ndarray, tmp_path: Path) -> None:
    """Bytes that nibabel alone reads without a word, or never reads, as the checksum."""
    path = tmp_path / "scan.nii.gz"
    raw = Nifti1Image(volume, lps_affine()).to_bytes()
    stored = bytearray(gzip.compress(raw, compresslevel=0))  # stored as they are: a changed byte is a changed voxel
    place = stored.index(raw[-100:])
    stored[place] ^= 0x01
    path.write_bytes(stored)
    assert np.count_nonzero(np.asanyarray(nib.load(path).dataobj) != volume) == 1
    with pytest.raises(ValueError, match=r"scan\.nii\.gz: is damaged \(CRC check failed.*copy it again"):
        LoadImage(CTReader, image_only=True)(path)


def bomb(path: Path, volume: np.ndarray, megabytes: int) -> None:
    """A small file: a volume, and behind it so many megabytes of zeros."""
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(Nifti1Image(volume, lps_affine()).to_bytes())
        for _ in range(megabytes):
            file.write(bytes(1 << 20))


def test_what_lies_behind_the_voxels_is_read_to_its_end_or_refused(volume: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "scan.nii.gz"
    bomb(path, volume, megabytes=1)
    np.testing.assert_array_equal(LoadImage(CTReader, image_only=True)(path), volume)
    bomb(path, volume, megabytes=500)
    assert path.stat().st_size < 3 << 20
    with pytest.raises(ValueError, match=r"scan\.nii\.gz: holds far more data than its header says"):
        LoadImage(CTReader, image_only=True)(path)


def test_a_folder_of_slices_is_read_without_a_complaint(
    volume: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    slices = write_series(tmp_path, np.tile(volume, 3))
    for image in (tmp_path, [str(path) for path in slices]):
        ours = LoadImage(CTReader, image_only=True)(image)
        np.testing.assert_array_equal(ours.numpy(), np.tile(volume, 3))
        assert ours.is_contiguous()
    assert not [record for record in caplog.records if "unable to load" in record.message]

"""
Broken files by the thousand: each is read right, or refused in one sentence that names it.

FUZZ_EXAMPLES=10000 python -m pytest tests/test_fuzz.py is the long run; without it there are as many as a test run has
time for, the same each time.
"""

from __future__ import annotations

import gzip
import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import lps_affine
from dicom_scans import write_series
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from monai.data import Dataset
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Orientationd

from scripts.data.datalist import load_datalist
from scripts.data.dataloader import SkippingDataLoader
from scripts.images.image_reader import CTReader
from scripts.metrics.folders import score_folders
from scripts.runs.settings import settings_given
from scripts.transforms import CheckFilesd, CheckImaged

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", 0))
fuzz = settings(
    max_examples=EXAMPLES or 40,
    deadline=None,
    derandomize=not EXAMPLES,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SHAPE = (9, 8, 7)
VOLUME = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
RAW = nib.nifti1.Nifti1Image(VOLUME, lps_affine()).to_bytes()
FILE = gzip.compress(RAW, compresslevel=1, mtime=0)
HEADER_BYTES = 348
MEMORY_BYTES = 6 << 30  # more than the test's program with its libraries maps, and far less than a header can ask for

changes = st.lists(st.tuples(st.integers(0, HEADER_BYTES - 1), st.integers(0, 255)), min_size=1, max_size=4)
lines = st.text(st.sampled_from('RibFrac501,;"\t 0123-.\n\r\x00éX/label_id'), max_size=120)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module", autouse=True)
def bounded_memory() -> Iterator[None]:
    """A reader that believes a header's size runs out of memory."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY_BYTES, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


def loading() -> Compose:
    """The preprocessing of a prediction, as far as it reads a file."""
    return Compose(
        [
            CheckFilesd("image"),
            LoadImaged("image", CTReader, image_only=True),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="RAS", labels=None),
            CheckImaged("image"),
        ]
    )


def load(path: Path) -> SkippingDataLoader:
    return SkippingDataLoader(Dataset([{"scan": "scan", "image": str(path)}], loading()))


def read_or_refused(path: Path) -> np.ndarray | None:
    """What is read of a file; None where it is refused, in a sentence that names it and is no traceback."""
    loader = load(path)
    volumes = [batch["image"].numpy() for batch in loader]
    if volumes:
        assert volumes[0].ndim == 5 and np.isfinite(volumes[0]).all()
        return volumes[0]
    (skipped,) = loader.skipped
    assert str(path) in skipped.reason and len(skipped.reason) < len(str(path)) + 400, skipped.reason
    assert "Traceback" not in skipped.reason
    return None


@fuzz
@given(changes=changes, compressed=st.booleans())
def test_headers(changes: list[tuple[int, int]], compressed: bool, tmp_path: Path) -> None:
    content = bytearray(RAW)
    for place, value in changes:
        content[place] = value
    path = tmp_path / ("scan.nii.gz" if compressed else "scan.nii")
    path.write_bytes(gzip.compress(bytes(content), compresslevel=1) if compressed else content)
    read_or_refused(path)


@fuzz
@given(place=st.integers(0, len(FILE) - 1), value=st.integers(1, 255))
def test_changed_bytes_of_a_compressed_file(place: int, value: int, tmp_path: Path) -> None:
    """The gzip header's own bytes (its date, its name of the system) tell nothing of the voxels; all others count."""
    content = bytearray(FILE)
    content[place] ^= value
    path = tmp_path / "scan.nii.gz"
    path.write_bytes(content)
    volume = read_or_refused(path)
    if volume is not None:
        np.testing.assert_array_equal(np.sort(volume, axis=None), VOLUME.ravel())


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.nii"])
@pytest.mark.parametrize("percent", range(0, 100, 10))
def test_files_cut_short(percent: int, name: str, tmp_path: Path) -> None:
    whole = FILE if name.endswith(".gz") else RAW
    (tmp_path / name).write_bytes(whole[: len(whole) * percent // 100])
    assert read_or_refused(tmp_path / name) is None


@fuzz
@given(number=st.integers(0, 8), changes=st.lists(st.tuples(st.integers(132, 1400), st.integers(0, 255)), max_size=4))
def test_headers_of_dicom(number: int, changes: list[tuple[int, int]], tmp_path: Path) -> None:
    """A slice is read where it says that it lies, or the series is refused, or has a slice less."""
    slices = write_series(tmp_path / "series", np.tile(VOLUME, 2)[..., :9])
    content = bytearray(slices[number].read_bytes())
    for place, value in changes:
        content[min(place, len(content) - 1)] = value
    slices[number].write_bytes(content)
    try:
        items = load_datalist(tmp_path, "all", labels=False, check=False)
    except ValueError as error:
        assert "holds no scan" in str(error)
        return
    assert [len(item["image"]) in (1, 8, 9) for item in items] == [True] * len(items)
    loader = SkippingDataLoader(Dataset(items, loading()))
    volumes = [batch["image"].numpy() for batch in loader]
    assert all(volume.ndim == 5 and np.isfinite(volume).all() for volume in volumes)
    for skipped in loader.skipped:
        assert "Traceback" not in skipped.reason and len(skipped.reason) < len(str(tmp_path)) + 400, skipped.reason


@fuzz
@given(content=st.binary(max_size=600))
def test_any_bytes(content: bytes, tmp_path: Path) -> None:
    for name in ("scan.nii.gz", "scan.nii"):
        (tmp_path / name).write_bytes(content)
        assert read_or_refused(tmp_path / name) is None


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A folder of one scan with its label, for a table beside them."""
    nib.save(nib.nifti1.Nifti1Image(VOLUME, lps_affine()), tmp_path / "RibFrac501-image.nii.gz")
    ids = (VOLUME % 50 == 0).astype(np.uint8)
    nib.save(nib.nifti1.Nifti1Image(ids, lps_affine()), tmp_path / "RibFrac501-label.nii.gz")
    (tmp_path / "pred").mkdir()
    nib.save(nib.nifti1.Nifti1Image(ids, lps_affine()), tmp_path / "pred" / "RibFrac501.nii.gz")
    return tmp_path


@fuzz
@given(text=lines, has_header=st.booleans())
def test_tables_of_fractures(text: str, has_header: bool, pair: Path) -> None:
    table = pair / "info.csv"
    table.write_text(("public_id,label_id,label_code\n" if has_header else "") + text, encoding="utf-8")
    try:
        (item,) = load_datalist(pair, "all")
        assert set(item["label_codes"].values()) <= {-1, 1, 2, 3, 4}
    except ValueError as error:
        assert str(pair) in str(error)


@fuzz
@given(text=lines, has_header=st.booleans())
def test_tables_of_candidates(text: str, has_header: bool, pair: Path) -> None:
    (pair / "info.csv").write_text("public_id,label_id,label_code\nRibFrac501,0,0\nRibFrac501,1,2\n")
    table = pair / "pred" / "pred.csv"
    table.write_text(("public_id,label_id,confidence\n" if has_header else "") + text, encoding="utf-8")
    try:
        (result,) = score_folders(pair, pair / "pred")
        assert np.isfinite(result.label_scores).all()
    except ValueError as error:
        assert str(pair) in str(error)


@fuzz
@given(content=plain | st.dictionaries(st.sampled_from(["training", "test", "name"]), plain))
def test_data_lists(content: object, pair: Path) -> None:
    path = pair / "list.json"
    path.write_text(json.dumps(content))
    try:
        load_datalist(path, "test")
    except ValueError as error:
        assert str(pair) in str(error)


@fuzz
@given(words=st.lists(st.text(st.sampled_from("-=+~#:_'[]a1 \x00"), max_size=12), max_size=4))
def test_command_lines(words: list[str], tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("a: 1\na_1: {a: [1, 2]}\n")
    try:
        settings_given(["x/monai/bundle/__main__.py", "run", "a", "--config_file", str(config), *words])
    except SystemExit as error:
        assert str(error).startswith("error: ")

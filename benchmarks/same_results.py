"""
Check that a change of the code changes no result: predict the same scans by two revisions, and compare files by bytes.

Masks, ``fractures.csv``, ``scans.csv`` and the challenge's table must be the same. Both run on this machine, since
other processors round otherwise. From the root of the repository::

    python benchmarks/same_results.py --before v0.12.0 --scans /data/scans

What is not committed counts: the working tree is compared with the revision before.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

__all__ = ["digests", "differences", "main"]

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ("predictions/*.nii.gz", "predictions/*.csv", "fractures.csv", "scans.csv")


def digests(output_dir: Path) -> dict[str, str]:
    """Return the SHA-256 of each result of a prediction, by its name in the folder."""
    paths = sorted(path for pattern in RESULTS for path in output_dir.glob(pattern))
    return {path.relative_to(output_dir).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def differences(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """List the results that are not the same, or that one of both lacks."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def predict(bundle_dir: Path, scans: Path, output_dir: Path) -> dict[str, str]:
    """Predict scans by the bundle of a checkout, and return what `digests` does."""
    command = [sys.executable, "-m", "monai.bundle", "run", "inference", "--config_file", "configs/inference.yaml"]
    command += ["--dataset_dir", str(scans.resolve()), "--output_dir", str(output_dir)]
    subprocess.run(command, cwd=bundle_dir, check=True)
    return digests(output_dir)


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare from the command line; ``--help`` explains the arguments. The exit status is 1 where results differ."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("--before", required=True, help="revision to compare with, such as a commit or a tag")
    parser.add_argument("--scans", required=True, type=Path, help="folder of NIfTI files or DICOM series")
    options = parser.parse_args(arguments)
    with TemporaryDirectory() as folder:
        checkout = Path(folder) / "checkout"
        subprocess.run(["git", "worktree", "add", "--detach", str(checkout), options.before], cwd=ROOT, check=True)
        try:
            before = predict(checkout / "bundle", options.scans, Path(folder) / "before")
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(checkout)], cwd=ROOT, check=True)
        after = predict(ROOT / "bundle", options.scans, Path(folder) / "after")
    different = differences(before, after)
    print(f"{len(before)} results before, {len(after)} after; not the same: {', '.join(different) or 'none'}")
    return bool(different)


if __name__ == "__main__":
    sys.exit(main())

"""The bundle from Python, in a program that runs in another folder, which has a package ``scripts`` of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import BUNDLE_ROOT, write_scan

PROGRAM = """
import sys
from monai.bundle import ConfigWorkflow, create_workflow

bundle_root, scans, output_dir = sys.argv[1:]
settings = {"bundle_root": bundle_root, "dataset_dir": scans, "device": "cpu", "num_workers": 0}

def files(*names):
    return [f"{bundle_root}/configs/{name}.yaml" for name in names]

training = create_workflow(
    config_file=files("train"),
    workflow_type="train",
    output_dir=f"{output_dir}/training",
    cache_dir="$None",
    **settings,
)
print("training", training.check_properties())

evaluation = ConfigWorkflow(
    files("inference", "evaluate"), workflow_type="inference", output_dir=f"{output_dir}/evaluation", **settings
)
evaluation.initialize()
print("evaluation", evaluation.check_properties())

inference = create_workflow(
    config_file=files("inference"), workflow_type="inference", output_dir=f"{output_dir}/prediction", **settings
)
print("inference", inference.check_properties())
inference.run()
inference.finalize()
"""


@pytest.mark.slow
def test_from_python_in_another_folder(tmp_path: Path) -> None:
    for section, number in (("train", 1), ("val", 421), ("test", 501)):
        write_scan(tmp_path / "scans", section, number, fractures=2)
    (tmp_path / "working" / "scripts").mkdir(parents=True)
    (tmp_path / "working" / "scripts" / "__init__.py").write_text("raise ImportError('scripts of another program')")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, BUNDLE_ROOT, tmp_path / "scans", tmp_path / "out"],
        cwd=tmp_path / "working",
        env=environment | {"PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for workflow in ("training", "evaluation", "inference"):  # what it lacks of what MONAI asks for
        assert f"{workflow} []" in done.stdout.splitlines()
    written = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {"out/prediction/predictions/RibFrac501.nii.gz", "out/prediction/fractures.csv"} <= written
    assert [name for name in written if name.startswith("working/")] == ["working/scripts/__init__.py"]

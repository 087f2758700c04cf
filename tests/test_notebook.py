"""The notebook of first steps, run from top to bottom."""

from __future__ import annotations

import copy
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from conftest import BUNDLE_ROOT
from nbclient import NotebookClient
from page_blocks import ROOT

NOTEBOOK = nbformat.read(ROOT / "docs" / "notebooks" / "first-steps.ipynb", as_version=4)


def test_it_is_committed_without_outputs() -> None:
    nbformat.validate(NOTEBOOK)
    cells = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]
    assert cells and all(cell.outputs == [] and cell.execution_count is None for cell in cells)


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(tmp_path: Path) -> None:
    """In a copy of the bundle, beside which it lies as in the repository."""
    bundle, folder = tmp_path / "bundle", tmp_path / "docs" / "notebooks"
    folder.mkdir(parents=True)
    for part in ("configs", "scripts"):
        shutil.copytree(BUNDLE_ROOT / part, bundle / part, ignore=shutil.ignore_patterns("__pycache__"))
    (bundle / "models").symlink_to(BUNDLE_ROOT / "models")
    done = NotebookClient(copy.deepcopy(NOTEBOOK), timeout=None, resources={"metadata": {"path": folder}}).execute()
    outputs = [output for cell in done.cells for output in cell.get("outputs", [])]
    printed = "".join(output.text for output in outputs if output.get("name") == "stdout")
    ((before, after),) = re.findall(r"^(\d+) candidates before, (\d+) now$", printed, re.MULTILINE)
    assert 0 < int(before) < int(after)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert (bundle / "output" / "first_steps" / "training" / "models" / "model.pt").is_file()

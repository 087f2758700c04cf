"""The benchmark of a prediction's speed: its rows, its figures and its table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import BUNDLE_ROOT, write_scan
from matplotlib.image import imread
from monai.bundle import ConfigParser

sys.path.insert(0, str(BUNDLE_ROOT.parent))

from benchmarks import inference  # noqa: E402
from benchmarks.timing import computing_threads  # noqa: E402

pytestmark = pytest.mark.processor

FLOOR = {"windows": 1200, "gflop": 5400.0, "precision": "float32", "seconds": 18.0}
FLOOR["gflop_a_second_of_a_matrix_product"] = 300.0


@pytest.mark.parametrize("row", inference.ROWS.values(), ids=inference.ROWS)
def test_rows_set_only_what_the_config_has(row: inference.Row) -> None:
    """MONAI adds a misspelled id silently, and the row would be the default."""
    config = ConfigParser()
    config.read_config(str(inference.INFERENCE))
    settings = [name for overlay in row.overlays for name in yaml.safe_load(overlay.read_text())] + list(row.settings)
    assert [name for name in settings if name.removesuffix("::_disabled_") not in config] == []


def test_the_stock_row_is_monais_inferer_on_the_whole_scan_with_the_weights() -> None:
    parser = ConfigParser()
    parser.read_config(str(inference.INFERENCE))
    parser.update({**inference.stock_settings(), "device": "cpu", "bundle_root": str(BUNDLE_ROOT)})
    parser.update({"dataset_dir": str(BUNDLE_ROOT), "scans": [], "dataset::data": []})
    assert type(parser.get_parsed_content("inferer")).__name__ == "SlidingWindowInferer"
    names = [type(transform).__name__ for transform in parser.get_parsed_content("preprocessing").transforms]
    assert "CropBodyd" not in names and "ScaleIntensityRanged" in names
    network, weights = (parser.get_parsed_content(name) for name in ("network", "network_def"))
    probability = network.eval()(torch.zeros(1, 1, 16, 16, 16))
    assert 0 < probability.min() and probability.max() < 1
    assert parser.get_parsed_content("handlers")[0].load_dict["model"] is weights


def test_figures_and_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    asked = []

    def generate(folder: Path, *_: Any, **arguments: Any) -> None:
        asked.append(arguments["shape"])

    def run(row: inference.Row, scan: Path, folder: Path, threads: int) -> tuple[float, float]:
        if row.says:
            write_scan(folder, "test", 501, fractures=2 if row.settings else 1)
            (folder / "ribfrac-test-labels").rename(folder / "predictions")
        return (25.0 if row.settings else 15.0) if row.says else 5.0, 1.5

    monkeypatch.setattr(inference, "generate_phantoms", generate)
    monkeypatch.setattr(inference, "_run", run)
    monkeypatch.setattr(inference, "_floor", lambda scan: FLOOR)
    arguments = ["--output_dir", str(tmp_path), "--slices", "40", "--json", str(tmp_path / "speed.json")]
    inference.main([*arguments, "--rows", "float32", "default", "fracnet", "--picture", str(tmp_path / "speed.png")])
    assert asked[0] == (512, 512, 40)
    growth = json.loads((tmp_path / "speed.json").read_text())["growth"]
    assert [run["slices"] for run in growth] == [shape[2] for shape in asked[2:]] == [10, 20, 30, 40]
    assert imread(tmp_path / "speed.png").shape == (330, 880, 4)
    rows = json.loads((tmp_path / "speed.json").read_text())["rows"]
    assert rows["float32"] == {"says": inference.ROWS["float32"].says, "seconds": [20.0], "peak_gb": 1.5, "dice": 1.0}
    # one cube beside two of the same size
    assert rows["default"]["dice"] == pytest.approx(2 * 1 / (1 + 2)) and "dice" not in rows["fracnet"]
    table = capsys.readouterr().out
    assert "| `default` | the default of `inference.yaml` | 10 | 2.0 | 1.5 |" in table
    assert "1,200 windows, 5,400 GFLOP in all, which take 18 s" in table and "in float32." in table


@pytest.mark.parametrize(
    "refine_above, windows, voxels",
    [
        pytest.param(1.0, 1, 96 * 96 * 64, id="the larger windows alone"),
        pytest.param(0.0, 2, 96 * 96 * 64 + 48 * 48 * 32, id="and a second pass"),
    ],
)
def test_the_floor_counts_the_windows_that_the_network_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refine_above: float, windows: int, voxels: int
) -> None:
    """The scan is smaller than a window of either look; the network multiplies and adds once for each voxel."""
    write_scan(tmp_path, "test", 501, fractures=2)
    config = tmp_path / "inference.yaml"
    settings = yaml.safe_load(inference.INFERENCE.read_text(encoding="utf-8"))
    settings |= {"large_windows::refine_above": refine_above, "checkpoint": str(tmp_path / "model.pt")}
    settings |= {"windows::roi_size": [48, 48, 32], "large_windows::roi_size": [96, 96, 64], "bone::min_voxels": 0}
    settings["network_def"] = {"_target_": "torch.nn.Conv3d", "in_channels": 1, "out_channels": 1, "kernel_size": 1}
    torch.save(torch.nn.Conv3d(1, 1, 1).state_dict(), tmp_path / "model.pt")
    config.write_text(yaml.safe_dump(settings, sort_keys=False))
    monkeypatch.setattr(inference, "INFERENCE", config)
    assert inference._work(tmp_path) == (windows, pytest.approx(2 * voxels / 1e9))


def test_a_product_of_matrices_takes_two_operations_a_term(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "least_seconds", lambda step, repeats: 0.5 if step().shape == (10, 10) else 0.0)
    # 10 x 10 sums of 10 products, in half a second
    assert inference._matrix_product(torch.float32, size=10) == pytest.approx(2 * 10**3 / 1e9 / 0.5)


@pytest.mark.parametrize("is_fast, precision", [(True, "bfloat16"), (False, "float32")])
def test_the_floor_is_of_the_precision_that_the_default_computes_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_fast: bool, precision: str
) -> None:
    """Where bfloat16 is emulated, the product of large matrices in it would take minutes."""
    asked = []
    monkeypatch.setattr(inference, "has_fast_bfloat16", lambda device: is_fast)
    monkeypatch.setattr(inference, "_work", lambda scan: (3, 60.0))
    monkeypatch.setattr(inference, "_matrix_product", lambda dtype: asked.append(dtype) or 20.0)
    floor = inference._floor(tmp_path)
    assert asked == [getattr(torch, precision)] and floor["precision"] == precision
    assert (floor["windows"], floor["gflop"], floor["seconds"]) == (3, 60.0, 3.0)  # 60 / 20


def test_torch_computes_with_as_many_threads_as_before() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), computing_threads(before + 3):
        assert torch.get_num_threads() == before + 3
        raise KeyError
    assert torch.get_num_threads() == before


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="only Linux tells what a process holds")
def test_memory_is_that_of_the_process_and_its_children() -> None:
    code = "import sys; block = b'1' * 300_000_000; print(flush=True); sys.stdin.read()"
    before = inference._memory_gb(os.getpid())
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stdout.readline()
        alone, both = inference._memory_gb(child.pid), inference._memory_gb(os.getpid())
        child.communicate()
    assert alone == pytest.approx(0.31, abs=0.02)  # the block, and a Python
    assert both - before == pytest.approx(alone, abs=0.05)
    assert inference._memory_gb(child.pid) == 0  # it has ended

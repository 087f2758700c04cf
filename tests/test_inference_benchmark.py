"""The benchmark of a prediction's speed: its rows, its figures and its table."""

from __future__ import annotations

import json
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

FLOOR = {"windows": 1200, "gflop": 5400.0, "gflop_a_second_of_a_matrix_product": 300.0, "seconds": 18.0}


@pytest.mark.parametrize("row", inference.ROWS.values(), ids=inference.ROWS)
def test_rows_set_only_what_the_config_has(row: inference.Row) -> None:
    """MONAI adds a misspelled id silently, and the row would be the default."""
    config = yaml.safe_load(inference.INFERENCE.read_text())
    for overlay in row.overlays:
        assert set(yaml.safe_load(overlay.read_text())) <= set(config)
    for setting in row.settings:
        part: Any = config
        *outer, last = setting.split("::")
        for name in outer:
            part = part[int(name) if isinstance(part, list) else name]
        assert last in part or last == "_disabled_"


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
    monkeypatch.setattr(inference, "_floor", lambda scan, threads: FLOOR)
    arguments = ["--output_dir", str(tmp_path), "--slices", "40", "--json", str(tmp_path / "speed.json")]
    inference.main([*arguments, "--rows", "float32", "default", "fracnet", "--picture", str(tmp_path / "speed.png")])
    assert asked[0] == (512, 512, 40)
    growth = json.loads((tmp_path / "speed.json").read_text())["growth"]
    assert [run["slices"] for run in growth] == [shape[2] for shape in asked[2:]] == [10, 20, 30, 40]
    assert imread(tmp_path / "speed.png").shape == (330, 880, 4)
    rows = json.loads((tmp_path / "speed.json").read_text())["rows"]
    assert rows["float32"] == {"says": inference.ROWS["float32"].says, "seconds": [20.0], "peak_gb": 1.5, "dice": 1.0}
    assert 0 < rows["default"]["dice"] < 1 and "dice" not in rows["fracnet"]
    table = capsys.readouterr().out
    assert "| `default` | the default of `inference.yaml` | 10 | 2.0 | 1.5 |" in table
    assert "1,200 windows, 5,400 GFLOP in all, which take 18 s" in table


@pytest.mark.parametrize("look_again_above, windows", [(1.0, 1), (0.0, 2)])
def test_the_floor_counts_the_windows_that_the_network_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look_again_above: float, windows: int
) -> None:
    """The scan is smaller than a window of either look."""
    write_scan(tmp_path, "test", 501, fractures=2)
    config = tmp_path / "inference.yaml"
    settings = yaml.safe_load(inference.INFERENCE.read_text(encoding="utf-8"))
    config.write_text(yaml.safe_dump({**settings, "look_again_above": look_again_above}, sort_keys=False))
    monkeypatch.setattr(inference, "INFERENCE", config)
    floor = inference._floor(tmp_path, 1)
    assert floor["windows"] == windows and floor["gflop"] > 1
    assert floor["gflop_a_second_of_a_matrix_product"] > 0


def test_memory_is_that_of_the_process_and_its_children() -> None:
    held = inference._memory_gb(inference.os.getpid())
    assert 0.05 < held < 20 or not Path("/proc/self/smaps_rollup").exists()
    assert inference._memory_gb(2**22 + 1) == 0  # no such process

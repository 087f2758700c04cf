"""The rehearsal of RibFrac's day: its records, its commands, and its table."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import BUNDLE_ROOT, write_scan
from test_examples import check_run

sys.path.insert(0, str(BUNDLE_ROOT.parent))

from benchmarks import rehearsal  # noqa: E402
from scripts.commands._parsers import parser_of  # noqa: E402
from scripts.commands.download import RECORDS, download_ribfrac  # noqa: E402
from scripts.data.datalist import load_datalist  # noqa: E402

STEPS = rehearsal.commands(Path("/data/rehearsal"), "http://127.0.0.1:1/api")
# lines of real logs: what counts is the last find, and what the table says of it
LOGS = {
    "download": ("9 files, 3.5 GB, of which 0 are here and whole. To fetch", "9 files, 3.5 GB"),
    "inspect": (
        "scans                       34, of which 34 could be read\nfractures                   190\n"
        "fractures a scan            0 to 17, median 5\nscans with problems         0\n\nProblems: 0\n",
        "34 scans, 190 fractures, problems: 0",
    ),
    "training": (
        "Epoch 1 of 1: training_loss 0.8728, learning_rate 0.0001, validation_loss 0.2641",
        "losses of training 0.8728 and validation 0.2641",
    ),
    "untuned": ("INFO - average recall            0.8125", "average recall 0.8125"),
    "tune": (
        "before         0.6   0.2        0   0.8    800     0  mean    0.664    -2.080    0.750   11.0    8.0\n"
        "1              0.6   0.2        0   0.8    800   0.8  mean    1.000     0.000    0.875    3.0    0.0\n",
        "average recall 0.750 before, 0.875 with the best settings",
    ),
    "evaluation": ("average recall            0.1000\naverage recall            0.8750", "average recall 0.8750"),
    "download_test": ("1 files, 0.6 GB, of which 0 are here and whole.", "0.6 GB"),
    "test": ("fractures.csv lists 6 of 6 scans.", "6 of 6 scans"),
    "submission": ("/data/submission.zip: 6 scans, 0.3 MB", "6 scans, 0.3 MB"),
}


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Small scans stand for the synthetic ones; what was asked for."""
    asked: list[tuple[Any, ...]] = []

    def generate(folder: Path, *counts: int, **arguments: Any) -> None:
        asked.append((*counts, arguments["shape"]))
        for section, first, count in zip(("train", "val", "test"), (1, 421, 501), counts):
            for number in range(first, first + count):
                write_scan(folder, section, number, fractures=number % 2, shape=(12, 10, 8))

    monkeypatch.setattr(rehearsal, "generate_phantoms", generate)
    return asked


def test_forty_scans_in_the_records() -> None:
    scans = [[scan for _, scan in part.scans()] for part in rehearsal.parts(28, 6, 6)]
    assert [len(names) for names in scans] == [20, 8, 6, 6]  # 28 · 120 / 420 = 8
    assert [names[0] for names in scans] == ["RibFrac1", "RibFrac301", "RibFrac421", "RibFrac501"]
    assert [phantom for phantom, _ in rehearsal.parts(28, 6, 6)[1].scans()][0] == "RibFrac21"


def test_the_records_are_downloaded_as_ribfracs_are(generated: list[Any], tmp_path: Path) -> None:
    rehearsal.make_records(tmp_path, (3, 1, 1), (12, 10, 8))
    with rehearsal.serving(tmp_path) as url:
        data = download_ribfrac(tmp_path / "ribfrac", api_url=url)
    found = {section: load_datalist(data, section, labels=section != "test") for section in RECORDS}
    assert {section: [item["scan"] for item in items] for section, items in found.items()} == {
        "training": ["RibFrac1", "RibFrac2", "RibFrac301"],
        "validation": ["RibFrac421"],
        "test": ["RibFrac501"],
    }
    codes = {item["scan"]: item["label_codes"] for section in ("training", "validation") for item in found[section]}
    assert codes == {"RibFrac1": {1: 2}, "RibFrac2": {}, "RibFrac301": {1: 2}, "RibFrac421": {1: 2}}
    write_scan(tmp_path / "third", "train", 3, fractures=1, shape=(12, 10, 8))
    third = tmp_path / "third" / "ribfrac-train-images" / "RibFrac3-image.nii.gz"
    image = data / "ribfrac-train-images-2" / "Part2" / "RibFrac301-image.nii.gz"
    assert image.read_bytes()[10:] == third.read_bytes()[10:]  # behind the time in gzip's header
    assert (data / "ribfrac-val-images" / "RibFrac421-image.nii.gz").is_file()
    assert not list(data.glob("*test-label*")) and not (tmp_path / "phantoms").exists()


def test_records_are_made_once(generated: list[Any], tmp_path: Path) -> None:
    for _ in range(2):
        rehearsal.make_records(tmp_path, (2, 1, 1), (12, 10, 8))
    assert generated == [(2, 1, 1, (12, 10, 8))]


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_commands_are_read_by_what_they_start(step: rehearsal.Step, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BUNDLE_ROOT)
    module, *words = step.command
    if module == "scripts":
        parser_of(words[0]).parse_args(words[1:])
        return
    importlib.import_module(module)
    check_run([word.replace("/data/rehearsal/my_tuned", "my_tuned") for word in words])


@pytest.mark.parametrize("name", STEPS)
def test_what_matters_in_a_log(name: str) -> None:
    log, said = LOGS[name]
    assert rehearsal._printed(STEPS[name], f"before\n{log}\nbehind") == said
    assert rehearsal._printed(STEPS[name], "something else") == ""


def test_a_step_is_run_once_and_frees_what_it_made(tmp_path: Path) -> None:
    source = tmp_path / "source" / "scan"
    source.parent.mkdir()
    source.write_bytes(bytes(3_000_000))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "kept").touch()
    step = rehearsal.Step(
        "packs",
        ["tarfile", "--verbose", "--create", f"{folder}/a.tar", str(source)],
        r"(\w+)\.tar",
        r"\1 is made",
        ["*.tar"],
    )
    figures = rehearsal.run("pack", step, folder)
    assert figures["says"] == "packs" and figures["printed"] == "a is made"
    assert figures["kept_gb"] == pytest.approx(0.003, rel=0.01) == figures["most_gb"]
    assert 0 < figures["cpu_seconds"] and 0 < figures["seconds"]
    assert sorted(path.name for path in folder.iterdir()) == ["kept", "steps"]
    source.unlink()
    assert rehearsal.run("pack", step, folder) == figures


def test_a_step_that_fails_names_its_log_and_is_run_again(tmp_path: Path) -> None:
    step = rehearsal.Step("fails", ["no_such_module"], "x", "x")
    for _ in range(2):
        with pytest.raises(SystemExit, match=r"fail\.log: the command failed"):
            rehearsal.run("fail", step, tmp_path)
    assert "No module named no_such_module" in (tmp_path / "steps" / "fail.log").read_text()


def test_the_table(generated: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- rehearsal -->\n<!-- /rehearsal -->\nbehind\n")
    figures = {"seconds": 150.4, "cpu_seconds": 99.6, "most_gb": 2.06, "kept_gb": 1.04, "printed": "done"}
    monkeypatch.setattr(rehearsal, "run", lambda name, step, folder: {"says": step.says, **figures})
    monkeypatch.chdir(tmp_path)
    rehearsal.main("--output_dir work --scans 2 1 1 --shape 12 10 8 --markdown page.md".split())
    lines = page.read_text().splitlines()
    assert "2 training, 1 validation and 1 test scans of 12×10×8 voxels; 23 minutes in all." in lines  # 9 · 150.4 / 60
    assert "| `tune` | 150 | 100 | 2.06 | 1.04 | done |" in lines
    assert sum(line.startswith("| `") for line in lines) == len(STEPS) and lines[-1] == "behind"
    assert json.loads((tmp_path / "work" / "records.json").read_text()).keys() == {
        str(number) for numbers in RECORDS.values() for number in numbers
    }

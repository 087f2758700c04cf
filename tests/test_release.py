"""The archive that is shared: built, served, downloaded by MONAI's command, and run where nothing else of this is."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import re
import shutil
import subprocess
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import BUNDLE_ROOT, write_scan

from scripts.commands.release import archive_files, build_archive, main

REFERENCE = BUNDLE_ROOT.parent / "docs" / "reference.md"
NAME = "rib_fracture_ct_segmentation"
SMALL = {"windows::roi_size": "[16,16,16]", "num_workers": 0}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_archive(BUNDLE_ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def downloaded(archive: Path, tmp_path_factory: pytest.TempPathFactory, python: Path) -> Path:
    """The bundle as ``monai.bundle download`` leaves it, in an empty folder; the address is one of this machine."""
    folder = tmp_path_factory.mktemp("elsewhere")
    with served(archive.parent) as address:
        settings = {"name": NAME, "url": f"{address}/{archive.name}", "bundle_dir": folder, "progress": False}
        run(python, folder, "download", **settings)
    return folder / NAME


class served:  # noqa: N801
    """Serve a folder on 127.0.0.1 for the time of a ``with`` block, which gets the address."""

    def __init__(self, folder: Path) -> None:
        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)

    def __enter__(self) -> str:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *_: Any) -> None:
        self.server.shutdown()
        self.server.server_close()


def run(python: Path, folder: Path, *arguments: str, **settings: Any) -> str:
    """Run MONAI's command in a folder, with nothing of this repository on Python's path; return what it says."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"no_proxy": "127.0.0.1"}
    command = [
        python,
        "-m",
        "monai.bundle",
        *arguments,
        *(f"--{key}={value}" for key, value in settings.items()),
    ]
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        check=False,
        text=True,
        timeout=300,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_an_archive_holds_what_belongs_in_it(archive: Path) -> None:
    with zipfile.ZipFile(archive) as content:
        names = content.namelist()
    assert {name.split("/")[0] for name in names} == {NAME}
    inside = {name.removeprefix(f"{NAME}/") for name in names}
    assert {"LICENSE", "configs/metadata.json", "configs/inference.json", "docs/README.md", "models/model.pt"} <= inside
    assert {"docs/data_license.txt", "scripts/__init__.py", "scripts/transforms/candidates.py"} <= inside
    kept = {path.relative_to(BUNDLE_ROOT).as_posix() for path in BUNDLE_ROOT.rglob("*.py")}
    assert {name for name in inside if name.endswith(".py")} == kept
    assert {"scripts/reporting/pages/templates/review.html", "scripts/reporting/pages/templates/review.js"} <= inside
    assert not [name for name in inside if "__pycache__" in name or name.startswith(("data/", "output/"))]
    checksum, name = archive.with_name(archive.name + ".sha256").read_text().split()
    assert (checksum, name) == (hashlib.sha256(archive.read_bytes()).hexdigest(), archive.name)


def test_the_same_files_give_the_same_archive(
    archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("bundle/configs", "bundle/docs", "bundle/models", "bundle/scripts", "bundle/LICENSE", "docs"):
        source, target = BUNDLE_ROOT.parent / part, tmp_path / part
        target.parent.mkdir(exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    main(["--bundle_root", str(tmp_path / "bundle"), "--output_dir", str(tmp_path / "dist")])
    again = tmp_path / "dist" / archive.name
    assert again.read_bytes() == archive.read_bytes()  # though its files have other times
    assert str(again) in capsys.readouterr().out


def test_twins_in_json_are_the_configs() -> None:
    files = archive_files(BUNDLE_ROOT)
    configs = sorted((BUNDLE_ROOT / "configs").glob("*.yaml"))
    assert configs
    for config in configs:
        twin, own = json.loads(files[f"configs/{config.stem}.json"]), yaml.safe_load(config.read_text())
        assert (twin.pop("bundle_root", None) is None) == (own.pop("bundle_root", None) is None)
        assert twin == own


def test_documents_lead_to_nothing_outside_the_archive() -> None:
    files = archive_files(BUNDLE_ROOT)
    for name in ("docs/README.md", "docs/reference.md"):
        for target in re.findall(r"\]\((?!#|https?:)([^)#]+)", files[name].decode()):
            assert os.path.normpath(f"docs/{target}") in files, f"{name}: {target}"
    assert len(files["docs/reference.md"].splitlines()) == len(REFERENCE.read_bytes().splitlines())


def test_packages_are_listed_for_pip() -> None:
    pins = (BUNDLE_ROOT.parent / "constraints.txt").read_text().splitlines()
    lines = archive_files(BUNDLE_ROOT)["requirements.txt"].decode().splitlines()
    assert {"monai", "numpy", "torch", "itk"} <= {line.split("==")[0] for line in lines}
    assert set(lines) <= set(pins)


def test_the_card_names_the_repository(tmp_path: Path) -> None:
    plain = archive_files(BUNDLE_ROOT)["docs/README.md"].decode()
    main(["--output_dir", str(tmp_path), "--repository", "https://example.org/ribs.git"])
    with zipfile.ZipFile(next(tmp_path.glob("*.zip"))) as content:
        card = content.read(f"{NAME}/docs/README.md").decode()
    assert "\ngit clone REPOSITORY_ADDRESS\n" in plain and "\ngit clone https://example.org/ribs.git\n" in card
    assert "REPOSITORY_ADDRESS" not in card


def test_a_folder_without_weights_is_no_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--bundle_root", str(tmp_path), "--output_dir", str(tmp_path)])
    assert "metadata.json does not exist" in capsys.readouterr().err


@pytest.mark.slow
def test_the_downloaded_bundle_predicts(downloaded: Path, tmp_path: Path, python: Path) -> None:
    write_scan(tmp_path / "scans", "test", 501, fractures=2)
    settings = {"dataset_dir": tmp_path / "scans", "output_dir": tmp_path / "out", **SMALL}
    run(python, downloaded, "run", "inference", config_file="configs/inference.yaml", **settings)
    assert (tmp_path / "out" / "predictions" / "RibFrac501.nii.gz").is_file()
    assert (tmp_path / "out" / "fractures.csv").is_file()


@pytest.mark.slow
def test_the_downloaded_bundle_trains(downloaded: Path, tmp_path: Path, python: Path) -> None:
    for section, number in (("train", 1), ("val", 421)):
        write_scan(tmp_path / "scans", section, number, fractures=2)
    settings = {
        "dataset_dir": tmp_path / "scans",
        "output_dir": tmp_path / "out",
        "cache_dir": "$None",
        "max_epochs": 1,
    }
    settings |= {
        "rois::max_shift_voxels": 4,
        "rois::per_scan": 2,
        "scans_per_batch": 1,
        "num_workers": 0,
        "rois::roi_size": "[16,16,16]",
    }
    run(python, downloaded, "run", "training", config_file="configs/train.yaml", **settings)
    assert (tmp_path / "out" / "models" / "model.pt").is_file()


@pytest.mark.parametrize("workflow_type", ["train", "inference"])
def test_the_unpacked_bundle_loads_from_any_folder(
    archive: Path, tmp_path: Path, python: Path, workflow_type: str
) -> None:
    shutil.unpack_archive(archive, tmp_path / "bundles")
    (tmp_path / "elsewhere").mkdir()
    lines = [
        "import monai.bundle, torch",
        f"settings = dict(bundle_dir={str(tmp_path / 'bundles')!r}, workflow_type={workflow_type!r}, device='cpu')",
        f"network = monai.bundle.load({NAME!r}, **settings)",
        f"weights = torch.load({str(BUNDLE_ROOT / 'models' / 'model.pt')!r}, weights_only=True)",
        "assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())",
        "print(type(network).__name__)",
    ]
    done = subprocess.run(
        [python, "-c", "\n".join(lines)],
        cwd=tmp_path / "elsewhere",
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "ResUNet"
    assert not list((tmp_path / "elsewhere").iterdir())  # no data set was made for it

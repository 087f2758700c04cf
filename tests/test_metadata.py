"""The bundle's metadata, as MONAI's own checks and its model zoo ask for them."""

from __future__ import annotations

import configparser
import json
import re
import shutil
from pathlib import Path

import monai.bundle
import pytest
from conftest import BUNDLE_ROOT

from scripts.commands.release import archive_files

ROOT = BUNDLE_ROOT.parent
METADATA_FILE = BUNDLE_ROOT / "configs" / "metadata.json"
METADATA = json.loads(METADATA_FILE.read_text())
SCHEMA = ROOT.parent / "shared" / "monai_schema" / Path(METADATA["schema"]).name
MOST_BYTES = 25 * 1000**2  # of a file in MONAI's model zoo


@pytest.fixture
def schema(tmp_path: Path) -> Path:
    """MONAI's schema where ``verify_metadata`` looks for it, so that it needs no network."""
    if not SCHEMA.is_file():
        pytest.skip(f"{SCHEMA} does not exist: MONAI's schema of metadata, from {METADATA['schema']}.")
    return Path(shutil.copy(SCHEMA, tmp_path / "schema.json"))


def test_it_is_what_the_schema_asks_for(schema: Path) -> None:
    monai.bundle.verify_metadata(meta_file=str(METADATA_FILE), filepath=str(schema))


def test_metadata_without_a_version_are_refused(schema: Path, tmp_path: Path) -> None:
    broken = tmp_path / "metadata.json"
    broken.write_text(json.dumps({key: value for key, value in METADATA.items() if key != "version"}))
    with pytest.raises(ValueError, match="'version' is a required property"):
        monai.bundle.verify_metadata(meta_file=str(broken), filepath=str(schema))


def test_the_network_gives_what_the_metadata_say() -> None:
    monai.bundle.verify_net_in_out(
        net_id="network_def",
        meta_file=str(METADATA_FILE),
        config_file=str(BUNDLE_ROOT / "configs" / "inference.yaml"),
        device="cpu",
    )


def test_versions_are_those_that_were_tested() -> None:
    pins = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    stated = METADATA["required_packages_version"] | {
        "monai": METADATA["monai_version"],
        "torch": METADATA["pytorch_version"],
        "numpy": METADATA["numpy_version"],
    }
    assert stated == {name: pins[name] for name in stated}
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    needed = re.findall(r"^([\w-]+)", config["options"]["install_requires"], re.MULTILINE)
    assert sorted(stated) == sorted(needed)


def test_the_changelog_tells_of_every_release() -> None:
    assert list(METADATA["changelog"]) == re.findall(
        r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )


def test_window_and_scale_are_those_of_the_inference() -> None:
    config = monai.bundle.ConfigParser()
    config.read_config(BUNDLE_ROOT / "configs" / "inference.yaml")
    image = METADATA["network_data_format"]["inputs"]["image"]
    assert image["spatial_shape"] == config["windows"]["roi_size"]
    scaling = config["preprocessing"]["transforms"][-1]
    assert image["value_range"] == [scaling["b_min"], scaling["b_max"]]


def test_no_file_of_the_archive_is_too_large_for_the_model_zoo() -> None:
    assert {
        name: len(content) for name, content in archive_files(BUNDLE_ROOT).items() if len(content) > MOST_BYTES
    } == {}

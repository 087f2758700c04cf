"""The config of a run: found, saved as one file, hashed."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from monai.bundle import ConfigParser

from scripts.runs.config import running_parser

CONFIG: dict[str, Any] = {
    "output_dir": "out",
    "weights": "weights.pt",
    "level": 250.0,
    "sizes": "$[@size, @size]",
    "size": 3,
    "unused": 1,
    "part": {"_target_": "torch.nn.Threshold", "threshold": "@level", "value": 0.0, "inplace": "$@sizes == []"},
    "other": {"part": "@part", "folder": "@output_dir"},
    "hash": {
        "_target_": "scripts.runs.config.definition_hash",
        "ids": ["other"],
        "files": ["@weights"],
        "leave_out": ["output_dir"],
    },
    "save": {"_target_": "scripts.runs.config.save_run_config", "filename": "$@output_dir + '/config.yaml'"},
    "run": ["%save"],
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.pt").write_bytes(b"weights")


def hashed(**changes: Any) -> str:
    parser = ConfigParser(deepcopy(CONFIG))
    parser.update({name.replace("__", "::"): value for name, value in changes.items()})
    return parser.get_parsed_content("hash")


@pytest.mark.parametrize(
    "changes, same",
    [
        pytest.param({}, True, id="nothing"),
        pytest.param({"unused": 2}, True, id="a setting that no part names"),
        pytest.param({"output_dir": "elsewhere"}, True, id="a setting that is left out"),
        pytest.param({"level": 300.0}, False, id="a setting"),
        pytest.param({"size": 4}, False, id="a setting of a setting, in an expression"),
        pytest.param({"part__value": -1.0}, False, id="a value of a part"),
    ],
)
def test_a_hash_is_of_what_the_parts_depend_on(changes: dict[str, Any], same: bool) -> None:
    assert (hashed(**changes) == hashed()) == same


def test_a_hash_is_of_the_content_of_files() -> None:
    first = hashed()
    Path("copy.pt").write_bytes(b"weights")
    assert hashed(weights="copy.pt") == first
    Path("weights.pt").write_bytes(b"weightS")
    assert hashed() != first
    with pytest.raises(Exception) as error:
        hashed(weights="none.pt")
    assert isinstance(error.value.__cause__, FileNotFoundError)


def test_the_config_is_saved_as_it_was_run() -> None:
    parser = ConfigParser(deepcopy(CONFIG))
    parser.read_meta({"version": "1"})
    parser.update({"level": 300.0, "device": torch.device("cpu")})  # as a program may
    parser.get_parsed_content("run::0")
    saved = yaml.safe_load(Path("out/config.yaml").read_text())
    assert saved == {**CONFIG, "level": 300.0, "device": "cpu", "run": [CONFIG["save"]]}
    assert list(saved) == [*CONFIG, "device"]  # in its order
    again = ConfigParser()
    again.read_config("out/config.yaml")
    assert again.get_parsed_content("part").threshold == 300.0


def test_there_is_no_parser_outside_of_a_config() -> None:
    with pytest.raises(RuntimeError, match="name this function as a _target_ in a config"):
        running_parser()

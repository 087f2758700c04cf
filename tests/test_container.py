"""The Dockerfile, as far as it can be read without Docker."""

from __future__ import annotations

import configparser
import fnmatch
import re

import pytest
from page_blocks import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COPIED = [word for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE) for word in line.split()[:-1]]


def is_sent(path: str) -> bool:
    """Tell whether .dockerignore lets a path into the build: its last line that fits it or a folder of it counts."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.removeprefix("!").removeprefix("**/")
        parts = path.split("/")
        names = ["/".join(parts[: end + 1]) for end in range(len(parts))] + (parts if "**/" in line else [])
        if line and not line.startswith("#") and any(fits(name, pattern) for name in names):
            sent = line.startswith("!")
    return sent


def fits(name: str, pattern: str) -> bool:
    """As Docker does: a star stands for no slash."""
    return name.count("/") == pattern.count("/") and fnmatch.fnmatch(name, pattern)


@pytest.mark.parametrize("path", COPIED)
def test_what_is_copied_exists_and_is_sent(path: str) -> None:
    assert (ROOT / path).exists() and is_sent(path)


@pytest.mark.parametrize(
    "path, sent",
    [
        ("bundle/models/model.pt", True),
        ("bundle/configs/train.yaml", True),
        ("bundle/models/mine.pt", False),
        ("bundle/data/phantoms/a.nii.gz", False),
        ("bundle/output/prediction/report.html", False),
        ("bundle/scripts/__pycache__/a.pyc", False),
        ("data/ribfrac/a.nii.gz", False),
        (".git/config", False),
    ],
)
def test_the_image_has_neither_data_nor_results(path: str, sent: bool) -> None:
    assert is_sent(path) is sent


def test_the_container_is_not_run_as_root() -> None:
    users = re.findall(r"^USER (\w+)$", DOCKERFILE, re.MULTILINE)
    assert users and users[-1] != "root" and f"useradd --create-home --uid 1000 {users[-1]}" in DOCKERFILE


def test_the_extras_of_the_page_exist() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    page = (ROOT / "docs" / "how-to" / "container.md").read_text(encoding="utf-8")
    for extras in re.findall(r"\[([\w,]+)\]", DOCKERFILE + re.findall(r"EXTRAS=\"(.+?)\"", page)[0]):
        assert set(extras.split(",")) <= set(config["options.extras_require"])

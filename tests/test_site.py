"""The site of all pages and docstrings, built as docs/build-the-site.md says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import BUNDLE_ROOT
from page_blocks import PAGES, ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert done.returncode == 0, done.stdout
    return folder


def test_every_page_is_in_the_site_and_in_its_menu(site: Path) -> None:
    pages = {page.relative_to(ROOT).with_suffix(".html").as_posix() for page in PAGES}
    pages = {re.sub(r"\bREADME\b", "index", page) for page in pages}  # as MkDocs calls them
    assert {page for page in pages if not (site / page).is_file()} == set()
    assert pages - {"index.html"} <= set(
        re.findall(r'href="([^"#:]+\.html)"', (site / "index.html").read_text(encoding="utf-8"))
    )


def test_every_public_name_has_its_docstring_there(site: Path) -> None:
    missing = []
    for path in sorted((BUNDLE_ROOT / "scripts").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        named = re.search(r"^__all__ = \[(.*?)\]", text, re.MULTILINE | re.DOTALL)
        if named is None or path.name == "__init__.py":
            continue
        module = ".".join(path.relative_to(BUNDLE_ROOT).with_suffix("").parts)
        page = (site / "api" / f"{module}.html").read_text(encoding="utf-8")
        defined = set(re.findall(r"^(?:class|def) (\w+)", text, re.MULTILINE)) & set(re.findall(r"\w+", named[1]))
        missing += [f"{module}.{name}" for name in defined if f'id="{module}.{name}"' not in page]
    assert missing == []


def test_the_search_finds_pages_and_code(site: Path) -> None:
    places = {entry["location"] for entry in json.loads((site / "search" / "search_index.json").read_text())["docs"]}
    assert "docs/how-to/tune.html" in places
    assert "api/scripts.transforms.sampling.html#scripts.transforms.sampling.SymmetricROISamplerd" in places

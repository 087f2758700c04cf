"""How files that are no scan are counted."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from scripts.files.ignored_files import ignored_files, log_ignored

PATHS = [
    Path(name)
    for name in (
        *("a/1.zip", "a/2.ZIP", "b.tar.gz", "c.img.gz", "d.seg.nrrd"),
        *("1.2.840.113", "IM0001", "report.PDF", "e.7z"),
        *("info.csv", "X.JSON", "readme.md", "notes.txt", "Thumbs.db", "sub/desktop.ini"),
    )
]


def test_each_suffix_is_counted_with_an_example() -> None:
    assert ignored_files(PATHS, str) == [
        {"suffix": "", "files": 2, "example": "1.2.840.113"},
        {"suffix": ".zip", "files": 2, "example": "a/1.zip"},
        {"suffix": ".7z", "files": 1, "example": "e.7z"},
        {"suffix": ".img.gz", "files": 1, "example": "c.img.gz"},
        {"suffix": ".pdf", "files": 1, "example": "report.PDF"},
        {"suffix": ".seg.nrrd", "files": 1, "example": "d.seg.nrrd"},
        {"suffix": ".tar.gz", "files": 1, "example": "b.tar.gz"},
    ]


def test_examples_are_written_as_asked(caplog: pytest.LogCaptureFixture) -> None:
    ignored = ignored_files([Path("Doe^Jane/x.zip")], lambda path: f"[patient]/{path.name}")
    log_ignored(ignored)
    assert [record.message for record in caplog.records] == [
        "Files in no format that is read here are ignored: 1 .zip (such as [patient]/x.zip)."
    ]


def test_the_log_has_one_line_however_many_there_are(caplog: pytest.LogCaptureFixture) -> None:
    log_ignored(ignored_files([Path(f"x.a{number}") for number in range(20)], str))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and record.message.endswith("and 12 other suffixes.")
    caplog.clear()
    log_ignored([])
    assert not caplog.records

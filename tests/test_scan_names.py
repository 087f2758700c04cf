"""Names of scans that files and tables can hold."""

from __future__ import annotations

import csv
import io
import os
import re
import unicodedata

import pytest

from scripts.files.scan_names import MAX_NAME_BYTES, printable, safe_name, safe_names

HASH = re.compile(r"(.*)-[0-9a-f]{8}", re.DOTALL)
GBK = os.fsdecode(b"a\xd6\xd0\xce\xc4")  # two Chinese characters, as an archive of GBK leaves them


@pytest.mark.parametrize(
    "name",
    ["RibFrac501", "two  words", "Größe 胸部", "a&b <i>", "it's", "a;b,c", "{scan}", "100%s", "$HOME", "back\\slash"]
    + [
        "dots.1.2",
        "x" * MAX_NAME_BYTES,
        "胸" * (MAX_NAME_BYTES // 3),
        "label-1",
        "a=b",
        "1-2",
        "e\N{COMBINING ACUTE ACCENT}",
    ],
)
def test_a_name_that_can_be_written_stays(name: str) -> None:
    assert safe_name(name) == name


@pytest.mark.parametrize(
    "name, kept",
    [
        pytest.param(GBK, "a____", id="bytes that are no UTF-8"),
        pytest.param("line\nbreak", "line_break", id="line break"),
        pytest.param("a\x1b[31mb", "a_[31mb", id="escape"),
        pytest.param("a\N{LINE SEPARATOR}b", "a_b", id="line separator of Unicode"),
        pytest.param("=SUM(1)", "_SUM(1)", id="formula"),
        pytest.param("+1", "_1", id="plus"),
        pytest.param("-dash", "_dash", id="minus"),
        pytest.param("@cmd", "_cmd", id="at"),
        pytest.param("\N{FULLWIDTH EQUALS SIGN}1", "_1", id="wide equals sign"),
        pytest.param("\t=1", "_=1", id="tab"),
        pytest.param(" =1", "_=1", id="space in front"),
        pytest.param(".hidden", "_hidden", id="hidden"),
        pytest.param("ends ", "ends_", id="space behind"),
        pytest.param("ends.", "ends_", id="dot behind"),
        pytest.param("rib-Label", "rib-Label_", id="as a mask of an annotation"),
        pytest.param("", "_", id="nothing"),
        pytest.param("x" * 201, "x" * 191, id="one byte too long"),
        pytest.param("胸" * 67, "胸" * 63, id="one character of three bytes too long"),  # 63 * 3 = 189 of 191 bytes
    ],
)
def test_another_is_changed_and_gets_a_hash(name: str, kept: str) -> None:
    match = HASH.fullmatch(safe_name(name))
    assert match is not None and match[1] == kept
    assert len(safe_name(name).encode()) <= MAX_NAME_BYTES


def test_the_same_name_becomes_the_same_one() -> None:
    """By a hash that anyone can make: sha256 of "=SUM(1)" begins with these digits."""
    assert safe_name("=SUM(1)") == "_SUM(1)-3eb539f9"


def test_a_changed_name_is_safe_and_is_not_changed_again() -> None:
    for name in (GBK, "=1", "a-label", "x" * 300, ".", "..", "\n", " "):
        assert safe_name(safe_name(name)) == safe_name(name)


def test_names_that_are_made_alike_differ() -> None:
    names = safe_names(["a\nb", "a\tb", "a_b", "x" * 201, "x" * 202])
    assert names["a_b"] == "a_b" and len(set(names.values())) == 5


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["A", "a"], id="case"),
        pytest.param(["Straße", "STRASSE"], id="sharp s"),
        pytest.param([unicodedata.normalize(form, "Müller") for form in ("NFC", "NFD")], id="accents"),
    ],
)
def test_twins_of_some_file_systems_get_a_hash_each(names: list[str]) -> None:
    safe = safe_names([*names, "other"])
    assert safe["other"] == "other" and all(HASH.fullmatch(safe[name]) for name in names)
    assert len({unicodedata.normalize("NFC", name).casefold() for name in safe.values()}) == 3


def test_a_name_in_a_table_is_one_cell_and_no_formula() -> None:
    for name in ("=1+1", "@x", "a\rb", "\t=1", '"=1"'):
        text = io.StringIO()
        csv.writer(text).writerow([safe_name(name), 1])
        ((cell, number),) = csv.reader(io.StringIO(text.getvalue()))
        assert (cell, number) == (safe_name(name), "1") and cell[0] not in "=+-@\t\r"


def test_what_is_printed_can_be_encoded_and_read() -> None:
    assert printable(f"/data/{GBK}.nii: é胸 \x1b[0m\nsecond") == "/data/a\\xd6\\xd0\\xce\\xc4.nii: é胸 \\x1b[0m\nsecond"

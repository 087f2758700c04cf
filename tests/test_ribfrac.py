"""Tables as spreadsheets and scripts save them, and those of which it is not clear what is meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.data.ribfrac import is_hidden, read_ribfrac_table
from scripts.metrics.folders import _load_tables

WANTED = ("public_id", "label_id", "confidence")
TEXT = "public_id,label_id,confidence,remark\nRibFrac1,0,0,\nRibFrac1,1,0.9,clear\n"
ROWS = [("RibFrac1", 0, 0.0), ("RibFrac1", 1, 0.9)]


def rows_of(content: bytes, folder: Path) -> list[tuple[str, int, float]]:
    path = folder / "my-pred.csv"
    path.write_bytes(content)
    rows = read_ribfrac_table(path, WANTED).rows
    return [(row.values["public_id"], row.whole_number("label_id"), row.number("confidence")) for row in rows]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(TEXT.encode(), id="UTF-8"),
        pytest.param(TEXT.encode("utf-8-sig"), id="UTF-8 with its mark, as Excel's CSV UTF-8"),
        pytest.param(TEXT.encode("utf-16"), id="UTF-16 with its mark"),
        pytest.param(b"\xfe\xff" + TEXT.encode("utf-16-be"), id="UTF-16, big-endian"),
        pytest.param(TEXT.encode("utf-32"), id="UTF-32 with its mark"),
        pytest.param(TEXT.replace(",", "\t").encode("utf-16"), id="Excel's Unicode text"),
        pytest.param(TEXT.replace("clear", "für").encode("latin-1"), id="a remark in Latin-1"),
        pytest.param(TEXT.replace("clear", "\u201cyes\u201d").encode("cp1252"), id="a remark with Windows' quotes"),
        pytest.param(TEXT.replace(",", ", ").encode(), id="a blank behind commas"),
        pytest.param(TEXT.replace(",", " , ").encode(), id="blanks around commas"),
        pytest.param(TEXT.replace(",", ";").encode(), id="semicolons"),
        pytest.param(TEXT.replace(",", ";").replace("0.9", "0,9").encode(), id="semicolons and a decimal comma"),
        pytest.param(TEXT.replace("\n", "\r\n").encode(), id="line ends of Windows"),
        pytest.param(TEXT.replace("\nRibFrac1,1", "\n\n,,,\nRibFrac1,1").encode(), id="empty lines"),
        pytest.param(TEXT.replace("RibFrac1", '"RibFrac1"').encode(), id="quotes"),
        pytest.param(TEXT.replace("clear", '"a, b\n; c"').encode(), id="a remark of two lines"),
        pytest.param(TEXT.replace(",remark", "").encode(), id="more values than columns"),
        pytest.param(b"remark;confidence;label_id;public_id\n;0;0;RibFrac1\n;0.9;1;RibFrac1\n", id="another order"),
    ],
)
def test_tables_that_are_clear_are_read(content: bytes, tmp_path: Path) -> None:
    assert rows_of(content, tmp_path) == ROWS


@pytest.mark.parametrize(
    "content, message",
    [
        pytest.param(b"", "my-pred.csv: has the columns .*needs public_id,label_id,confidence", id="nothing"),
        pytest.param(
            b"\x00\x05\x16\x07Mac OS X\xff\xfe", "my-pred.csv: is no table, but holds bytes of 0", id="binary"
        ),
        pytest.param(TEXT.encode("utf-16-le"), "my-pred.csv: is no table, but holds bytes of 0", id="UTF-16, no mark"),
        pytest.param(TEXT.encode("utf-16")[:-1], "my-pred.csv: is damaged, no UTF-16", id="UTF-16 cut short"),
        pytest.param(
            TEXT.replace("RibFrac1,1", "Müller,1").encode("latin-1"),
            "my-pred.csv, line 3: its letters are neither ASCII nor UTF-8",
            id="a scan's name in Latin-1",
        ),
        pytest.param(TEXT.replace("_", " ").encode(), "has the columns .'public id'.*needs", id="other columns"),
        pytest.param(TEXT.replace("remark", "label_id").encode(), "has the column label_id twice", id="a column twice"),
        pytest.param(
            TEXT.replace(",1,0.9,clear", ",1").encode(), "line 3: has 2 columns, and no confidence", id="cut short"
        ),
        pytest.param(
            TEXT.replace(",1,", ",1.5,").encode(), "line 3: label_id is '1.5', needs a whole", id="a fraction"
        ),
        pytest.param(TEXT.replace("0.9", "high").encode(), "line 3: confidence is 'high', needs a number", id="a word"),
        pytest.param(TEXT.replace("0.9", "").encode(), "line 3: confidence is '', needs a number", id="no score"),
    ],
)
def test_tables_that_are_not_clear_are_named(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        rows_of(content, tmp_path)


def test_scores_and_fractures_are_read_by_the_same_rules(tmp_path: Path) -> None:
    path = tmp_path / "my-info.csv"
    path.write_bytes("public_id;label_id;label_code\nRibFrac1;0;0\nRibFrac1;1;3\n".encode("utf-16"))
    (row,) = _load_tables([path], has_scores=False)["RibFrac1"].values()
    assert (row.code, row.score) == (3, 0.0)


@pytest.mark.parametrize(
    "name, hidden",
    [
        ("a.csv", False),
        ("b/a.csv", False),
        (".a.csv", True),
        (".ipynb_checkpoints/a.csv", True),
        ("b/.c/d/a.csv", True),
        ("__MACOSX/a.csv", True),
    ],
)
def test_hidden_files(name: str, hidden: bool) -> None:
    assert is_hidden(Path("/data/.cache") / name, Path("/data/.cache")) is hidden

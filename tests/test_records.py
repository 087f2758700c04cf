"""Which scans a prediction deals to a process, which it leaves out, and how the tables are joined."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from conftest import write_scan

from scripts.candidates import Candidate
from scripts.commands.join import main
from scripts.data.datalist import load_datalist
from scripts.runs import records as scan_records
from scripts.runs.records import ScanRecords, join_tables, read_record, record_path, recorded_candidates

SCANS = 5
FOUND = Candidate(1, 0.75, 10.0, "left", (1.0, -2.0, 0.5), (1.5, 2.0, 3.0), (1, 2, 3), (2, 2, 3), 0.7)


@pytest.fixture
def scans(tmp_path: Path) -> list[dict[str, Any]]:
    """Five scans, of the numbers 8 to 12, whose order by text is another."""
    for number in range(8, 8 + SCANS):
        write_scan(tmp_path / "data", "train", number, fractures=0, shape=(8, 7, 6))
    return load_datalist(tmp_path / "data", "training", labels=False)


def records(folder: Path, scans: list[dict[str, Any]], made_by: str = "us", **arguments: Any) -> ScanRecords:
    outputs = [str(folder / "predictions" / "{scan}.nii.gz"), arguments.pop("picture", None)]
    return ScanRecords(folder, folder / "predictions", scans, made_by, outputs, **arguments)


def predict(shard: ScanRecords, items: Any = None) -> list[str]:
    """Do what a run does: a mask and a record for each scan that is left."""
    items = shard.to_do() if items is None else items
    shard.prepare(items)
    for item in items:
        shard.predictions_dir.mkdir(parents=True, exist_ok=True)
        (shard.predictions_dir / f"{item['scan']}.nii.gz").write_bytes(b"mask")
        shard.write(item, [FOUND] if item["scan"] == "RibFrac9" else [])
    shard.join()
    return [item["scan"] for item in items]


def tables(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("fractures.csv", "scans.csv", "predictions/ribfrac-pred.csv")]


def test_shards_share_the_scans_and_their_tables_are_those_of_one_process(
    scans: list[dict[str, Any]], tmp_path: Path
) -> None:
    assert predict(records(tmp_path / "one", scans)) == [f"RibFrac{number}" for number in range(8, 13)]
    dealt = [predict(records(tmp_path / "two", scans, shard=shard, shards=2)) for shard in (1, 0)]
    assert dealt == [["RibFrac9", "RibFrac11"], ["RibFrac8", "RibFrac10", "RibFrac12"]]
    assert tables(tmp_path / "two") == tables(tmp_path / "one")
    assert tables(tmp_path / "one")[0].count(b"\n") == 1 + SCANS


def test_a_process_beyond_the_scans_has_nothing_to_do(scans: list[dict[str, Any]], tmp_path: Path) -> None:
    assert records(tmp_path, scans, shard=6, shards=7).to_do() == []


@pytest.mark.parametrize("shard, shards", [(2, 2), (-1, 2), (0, 0)])
def test_there_is_no_such_shard(shard: int, shards: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"shard is {shard}, but must be one of 0 to {shards - 1}"):
        records(tmp_path, [], shard=shard, shards=shards)


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def age(path: Path) -> None:
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize(
    "change, name, left",
    [
        pytest.param(None, "", [], id="nothing changed"),
        pytest.param(remove, "out/predictions/RibFrac9.nii.gz", ["RibFrac9"], id="no mask"),
        pytest.param(cut, "out/predictions/RibFrac9.nii.gz", ["RibFrac9"], id="part of a mask"),
        pytest.param(remove, "out/records/RibFrac9.json", ["RibFrac9"], id="no row of its candidates"),
        pytest.param(cut, "out/records/RibFrac9.json", [], id="a record without its last line end"),
        pytest.param(remove, "out/fractures.csv", [], id="no table: it is joined again"),
        pytest.param(age, "data/ribfrac-train-images/RibFrac9-image.nii.gz", ["RibFrac9"], id="another image"),
    ],
)
def test_what_is_done(change: Any, name: str, left: list[str], scans: list[dict[str, Any]], tmp_path: Path) -> None:
    predict(records(tmp_path / "out", scans))
    whole = tables(tmp_path / "out")
    if change is not None:
        change(tmp_path / name)
    assert predict(records(tmp_path / "out", scans)) == left
    assert tables(tmp_path / "out") == whole


def test_a_record_holds_numbers_and_gives_the_candidates_back(scans: list[dict[str, Any]], tmp_path: Path) -> None:
    predict(records(tmp_path, scans))
    record = read_record(record_path(tmp_path, "RibFrac9"))
    assert record is not None and recorded_candidates(record) == [FOUND]
    assert record["candidates"][0]["score"] == 0.75 and record["summary"]["many_fractures"] is False


def test_records_of_texts_are_refused(scans: list[dict[str, Any]], tmp_path: Path) -> None:
    predict(records(tmp_path, scans))
    path = record_path(tmp_path, "RibFrac8")
    record = {name: value for name, value in json.loads(path.read_text()).items() if name != "format"}
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match="the record of RibFrac8 is of another version of this bundle: predict it"):
        join_tables(tmp_path)


def test_a_record_that_a_breakdown_left_empty_is_none(scans: list[dict[str, Any]], tmp_path: Path) -> None:
    predict(records(tmp_path, scans))
    (tmp_path / "records" / "RibFrac9.json").write_bytes(b"")
    assert [item["scan"] for item in records(tmp_path, scans).to_do()] == ["RibFrac9"]


def test_other_settings_a_missing_picture_or_no_resume_predict_all(scans: list[dict[str, Any]], tmp_path: Path) -> None:
    predict(records(tmp_path, scans))
    for arguments in ({"made_by": "others"}, {"picture": str(tmp_path / "{scan}.png")}, {"resume": False}):
        assert len(records(tmp_path, scans, **arguments).to_do()) == SCANS, arguments


def test_tables_tell_of_no_scan_that_other_settings_predicted(scans: list[dict[str, Any]], tmp_path: Path) -> None:
    predict(records(tmp_path, scans))
    new = records(tmp_path, scans, "others")
    predict(new, new.to_do()[:2])  # killed behind two scans
    assert [line.split(b",")[0] for line in tables(tmp_path)[0].splitlines()[1:]] == [b"RibFrac8", b"RibFrac9"]


def test_a_run_removes_what_one_that_was_killed_left(scans: list[dict[str, Any]], tmp_path: Path) -> None:
    token = "0123456789abcdef"
    left = [
        tmp_path / f".{token}.fractures.csv",
        tmp_path / "predictions" / f".{token}.RibFrac9.nii.gz",
        tmp_path / "records" / f".{token}.RibFrac9.json",
    ]
    users_own = tmp_path / ".settings.csv"
    for path in [*left, users_own]:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    records(tmp_path, scans, shard=0, shards=2).prepare([scans[0]])
    assert all(path.exists() for path in left)  # another process may be writing them
    records(tmp_path, scans, shard=1, shards=2).prepare([scans[1]])
    assert [path.exists() for path in left] == [True, False, False]
    records(tmp_path, scans).join()
    assert not left[0].exists() and users_own.exists()


def test_the_last_to_write_has_seen_all_records(
    scans: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that another process writes while this one writes its tables is in them all the same."""
    first, second = (records(tmp_path, scans, shard=shard, shards=2) for shard in (0, 1))
    write = scan_records.write_candidate_tables

    def interrupted(rows: Any, *names: Path) -> int:
        found = write(list(rows), *names)
        if found == 3:
            monkeypatch.setattr(scan_records, "write_candidate_tables", write)
            predict(second)
            write([], *names)  # as if its own table, of fewer scans, came last
        return found

    monkeypatch.setattr(scan_records, "write_candidate_tables", interrupted)
    predict(first)
    assert tables(tmp_path)[0].count(b"\n") == 1 + SCANS


def test_masks_of_other_scans_are_refused_also_when_nothing_is_left_to_do(
    scans: list[dict[str, Any]], tmp_path: Path
) -> None:
    predict(records(tmp_path, scans))
    (tmp_path / "predictions" / "RibFrac7.nii.gz").touch()
    with pytest.raises(ValueError, match=r"RibFrac7\.nii\.gz is a prediction of another run"):
        records(tmp_path, scans).join()


def test_a_record_is_small(scans: list[dict[str, Any]], tmp_path: Path) -> None:
    predict(records(tmp_path, scans))
    assert max(path.stat().st_size for path in (tmp_path / "records").iterdir()) < 1000


def test_the_command_joins_what_is_there(
    scans: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predict(records(tmp_path, scans))
    whole = tables(tmp_path)
    (tmp_path / "fractures.csv").unlink()
    main(["--output_dir", str(tmp_path)])
    assert tables(tmp_path) == whole and "lists 5 scans" in capsys.readouterr().out


def test_the_command_says_what_is_wrong(
    scans: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--output_dir", str(tmp_path / "nowhere")])
    assert stop.value.code == 1 and "holds no record of a scan" in capsys.readouterr().err
    predict(records(tmp_path, scans))
    path = tmp_path / "records" / "RibFrac9.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "made_by": "others"}))
    with pytest.raises(ValueError, match="2 different settings, weights or versions"):
        join_tables(tmp_path)


@pytest.mark.parametrize("name", ["a.nii.gz", "A.NII.GZ"])
@pytest.mark.parametrize("kind", ["image", "label"])
def test_a_prediction_is_not_written_over_a_scan_or_its_annotation(kind: str, name: str, tmp_path: Path) -> None:
    """As where predictions_dir is the folder of the scans, here by a link to it."""
    (tmp_path / "scans").mkdir()
    (tmp_path / "link").symlink_to("scans")
    item = {"scan": "a", "image": "b.nii.gz", kind: str(tmp_path / "scans" / name)}
    outputs = [str(tmp_path / "link" / "{scan}.nii.gz")]
    with pytest.raises(ValueError, match=r"link/a\.nii\.gz is a scan or an annotation, .*: give another output_dir"):
        ScanRecords(tmp_path, tmp_path / "link", [item], "us", outputs)
    ScanRecords(tmp_path, tmp_path / "link", [item | {"scan": "c"}], "us", outputs)

"""RibFrac is fetched once, whole and unaltered, from a fake record on this machine, and reads as a data set."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import zipfile
from collections import Counter, namedtuple
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from conftest import write_scan

from scripts.commands import download as ribfrac_download
from scripts.commands.download import RECORDS, download_ribfrac, main
from scripts.data.datalist import load_datalist

GB = 10**9
VAL = "ribfrac-val-images.zip"


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


class FakeZenodo(ThreadingHTTPServer):
    """Serves records as Zenodo's API does, with Range; keeps what it was asked, and misbehaves where told to."""

    daemon_threads = True

    def __init__(self, records: dict[int, dict[str, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), FakeZenodoHandler)
        self.records = records
        self.cut: dict[str, list[int]] = {}  # file: bytes after which each of its next answers is cut off
        self.status: dict[str, list[int]] = {}  # file or record: status of its next answers
        self.altered: dict[str, int] = {}  # file: how many of its next answers are altered
        self.knows_ranges = True
        self.asked: list[tuple[str, str | None]] = []  # (file, Range)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/api"

    def record(self, number: int) -> bytes:
        files = [
            {
                "key": name,
                "size": len(content),
                "checksum": f"md5:{hashlib.md5(content).hexdigest()}",
                "links": {"self": f"{self.url}/records/{number}/files/{name}/content"},
            }
            for name, content in self.records[number].items()
        ]
        return json.dumps({"files": files}).encode()


class FakeZenodoHandler(BaseHTTPRequestHandler):
    server: FakeZenodo

    def do_GET(self) -> None:
        number, name = re.fullmatch(r"/api/records/(\d+)(?:/files/(.+)/content)?", self.path).groups()
        if name:
            self.server.asked.append((name, self.headers["Range"]))
        if statuses := self.server.status.get(name or number):
            return self.send_error(statuses.pop(0))
        content = self.server.records[int(number)][name] if name else self.server.record(int(number))
        if self.server.altered.get(name):
            self.server.altered[name] -= 1
            content = content[:-1] + b"!"
        start = 0
        if self.headers["Range"] and self.server.knows_ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        cuts = self.server.cut.get(name, [])
        self.wfile.write(content[start:][: cuts.pop(0) if cuts else None])

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, bytes]]:
    """RibFrac in small: one scan in each record, in archives that unpack as RibFrac's do."""
    folder = tmp_path_factory.mktemp("source")
    records = {}
    for number, part, section, scan, inside in (
        (3893508, "train-{}-1", "train", 1, "Part1/"),
        (3893498, "train-{}-2", "train", 301, "Part2/"),
        (3893496, "val-{}", "val", 421, "ribfrac-val-{}/"),
        (3993380, "test-{}", "test", 501, ""),
    ):
        write_scan(folder / str(number), section, scan, fractures=2, shape=(12, 10, 8))
        record = {}
        for kind in ("images", "labels"):
            path = next((folder / str(number) / f"ribfrac-{section}-{kind}").iterdir())
            name = f"ribfrac-{part}.zip".format(kind)
            record[name] = zipped({inside.format(kind) + path.name: path.read_bytes()})
        table = next((folder / str(number)).glob("*.csv"))
        record[f"ribfrac-{part}.csv".format("info")] = table.read_bytes()
        records[number] = record
    records[3993380] = {"ribfrac-test-images.zip": records[3993380]["ribfrac-test-images.zip"]}
    return records


@pytest.fixture
def zenodo(records: dict[int, dict[str, bytes]], monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeZenodo]:
    monkeypatch.setattr(ribfrac_download, "_WAIT_S", 0.0)
    server = FakeZenodo({number: dict(record) for number, record in records.items()})
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def fetch(zenodo: FakeZenodo, folder: Path, section: str = "validation", **options: bool) -> Path:
    return download_ribfrac(folder, [section], api_url=zenodo.url, **options)


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def only_images(zenodo: FakeZenodo) -> bytes:
    """Leave one archive in the validation record; returns it."""
    zenodo.records[3893496] = {VAL: zenodo.records[3893496][VAL]}
    return zenodo.records[3893496][VAL]


def test_all_sections_read_as_a_data_set(zenodo, tmp_path):
    folder = download_ribfrac(tmp_path / "a" / ".." / "ribfrac", api_url=f"{zenodo.url}/")
    assert folder == tmp_path / "ribfrac"
    scans = {
        section: [item["scan"] for item in load_datalist(folder, section, labels=section != "test")]
        for section in RECORDS
    }
    assert scans == {"training": ["RibFrac1", "RibFrac301"], "validation": ["RibFrac421"], "test": ["RibFrac501"]}
    # write_scan gives fracture i the code 1 + i % 4
    assert load_datalist(folder, "validation")[0]["label_codes"] == {1: 2, 2: 3}
    assert files_below(folder) == {
        "ribfrac-train-images-1/Part1/RibFrac1-image.nii.gz",
        "ribfrac-train-labels-1/Part1/RibFrac1-label.nii.gz",
        "ribfrac-train-info-1.csv",
        "ribfrac-train-images-2/Part2/RibFrac301-image.nii.gz",
        "ribfrac-train-labels-2/Part2/RibFrac301-label.nii.gz",
        "ribfrac-train-info-2.csv",
        "ribfrac-val-images/RibFrac421-image.nii.gz",
        "ribfrac-val-labels/RibFrac421-label.nii.gz",
        "ribfrac-val-info.csv",
        "ribfrac-test-images/RibFrac501-image.nii.gz",
        "ribfrac-download.json",
    }


def test_second_start_fetches_nothing(zenodo, tmp_path):
    fetch(zenodo, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    zenodo.asked.clear()
    fetch(zenodo, tmp_path)
    assert zenodo.asked == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    "damage, asked",
    [
        pytest.param("ribfrac-val-images/RibFrac421-image.nii.gz", [VAL], id="a scan"),
        pytest.param("ribfrac-val-info.csv", ["ribfrac-val-info.csv"], id="a table"),
    ],
)
def test_second_start_fetches_what_was_damaged(damage, asked, zenodo, tmp_path):
    whole = (fetch(zenodo, tmp_path) / damage).read_bytes()
    (tmp_path / damage).write_bytes(whole[:5])
    zenodo.asked.clear()
    fetch(zenodo, tmp_path)
    assert [name for name, _ in zenodo.asked] == asked
    assert (tmp_path / damage).read_bytes() == whole


def test_an_archive_that_changed_is_fetched_again(zenodo, tmp_path):
    fetch(zenodo, tmp_path)
    zenodo.records[3893496][VAL] = zipped({"ribfrac-val-images/RibFrac421-image.nii.gz": b"a new version"})
    zenodo.asked.clear()
    fetch(zenodo, tmp_path)
    assert [name for name, _ in zenodo.asked] == [VAL]
    assert (tmp_path / "ribfrac-val-images" / "RibFrac421-image.nii.gz").read_bytes() == b"a new version"


@pytest.mark.parametrize(
    "knows_ranges, cuts, ranges",
    [
        pytest.param(True, [100, 50], [None, "bytes=100-", "bytes=150-"], id="goes on where it was cut"),
        pytest.param(True, [1] * 9, [None] + [f"bytes={n}-" for n in range(1, 10)], id="each try gets further"),
        pytest.param(False, [100], [None, "bytes=100-"], id="a server that ignores ranges sends all anew"),
    ],
)
def test_a_cut_connection(knows_ranges, cuts, ranges, zenodo, tmp_path):
    archive = only_images(zenodo)
    zenodo.cut[VAL], zenodo.knows_ranges = list(cuts), knows_ranges
    fetch(zenodo, tmp_path, keep_archives=True)
    assert zenodo.asked == [(VAL, its_range) for its_range in ranges]
    assert (tmp_path / VAL).read_bytes() == archive


@pytest.mark.parametrize(
    "part, ranges",
    [
        pytest.param(lambda whole: whole[:70], ["bytes=70-"], id="the beginning"),
        pytest.param(lambda whole: whole, [], id="all of it, but for its name"),
        pytest.param(lambda whole: whole + b"!", [None], id="more than there is"),
        pytest.param(lambda whole: b"?" + whole[1:70], ["bytes=70-", None], id="the beginning of something else"),
    ],
)
def test_a_partial_file_of_an_earlier_start(part, ranges, zenodo, tmp_path):
    archive = only_images(zenodo)
    (tmp_path / f"{VAL}.part").write_bytes(part(archive))
    fetch(zenodo, tmp_path, keep_archives=True)
    assert [its_range for _, its_range in zenodo.asked] == ranges
    assert files_below(tmp_path) == {VAL, "ribfrac-val-images/RibFrac421-image.nii.gz", "ribfrac-download.json"}
    assert (tmp_path / VAL).read_bytes() == archive


def test_an_archive_that_was_put_there_by_hand_is_used(zenodo, tmp_path):
    (tmp_path / VAL).write_bytes(only_images(zenodo))
    fetch(zenodo, tmp_path)
    assert zenodo.asked == []
    assert files_below(tmp_path) == {"ribfrac-val-images/RibFrac421-image.nii.gz", "ribfrac-download.json"}


def test_a_connection_that_never_works_keeps_what_it_has(zenodo, tmp_path):
    archive = only_images(zenodo)
    zenodo.cut[VAL] = [100] + [0] * 5
    with pytest.raises(FileNotFoundError, match=rf"{VAL}.*5 tries in a row \(closed after 100 of {len(archive)} bytes"):
        fetch(zenodo, tmp_path)
    assert len(zenodo.asked) == 6  # the one that got somewhere is not counted
    assert (tmp_path / f"{VAL}.part").read_bytes() == archive[:100]


@pytest.mark.parametrize("asked_for", ["3893496", VAL], ids=["record", "file"])
def test_a_busy_server_is_asked_again(asked_for, zenodo, tmp_path):
    zenodo.status[asked_for] = [503, 429]
    assert (fetch(zenodo, tmp_path) / "ribfrac-val-images").is_dir()


def test_a_file_that_is_gone_is_not_asked_for_again(zenodo, tmp_path):
    zenodo.status[VAL] = [404]
    with pytest.raises(FileNotFoundError, match=rf"{VAL}/content cannot be downloaded \(HTTP Error 404.*browser"):
        fetch(zenodo, tmp_path)
    assert Counter(name for name, _ in zenodo.asked)[VAL] == 1


def test_a_wrong_checksum_is_fetched_once_more(zenodo, tmp_path):
    archive = only_images(zenodo)
    zenodo.altered[VAL] = 1
    fetch(zenodo, tmp_path, keep_archives=True)
    assert zenodo.asked == [(VAL, None)] * 2
    assert (tmp_path / VAL).read_bytes() == archive


def test_a_checksum_that_stays_wrong_is_an_error(zenodo, tmp_path):
    archive = only_images(zenodo)
    zenodo.altered[VAL] = 2
    found, expected = (hashlib.md5(content).hexdigest() for content in (archive[:-1] + b"!", archive))
    with pytest.raises(ValueError, match=f"{VAL} .*{found}.*{expected}"):
        fetch(zenodo, tmp_path)
    assert len(zenodo.asked) == 2
    assert files_below(tmp_path) == set()


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(
    "keep_archives, needed",
    [
        # 40 zipped and unpacked; 40 unpacked, and 10 zipped and unpacked: 80, then 60
        pytest.param(False, 80, id="one archive at a time"),
        pytest.param(True, 100, id="all archives are kept"),
    ],
)
def test_a_disk_that_is_too_small_is_refused(keep_archives, needed, zenodo, tmp_path, monkeypatch, caplog):
    sizes = {"a.zip": 40 * GB, "b.zip": 10 * GB}
    files = [
        {"key": name, "size": size, "checksum": "md5:0", "links": {"self": "http://127.0.0.1/never"}}
        for name, size in sizes.items()
    ]
    monkeypatch.setattr(zenodo, "record", lambda number: json.dumps({"files": files}).encode())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(200 * GB, 140 * GB, 60 * GB - 1))
    caplog.set_level("INFO")
    with pytest.raises(ValueError, match=rf"needs about {needed}\.0 GB of disk space, 60\.0 GB are free in {tmp_path}"):
        fetch(zenodo, tmp_path, keep_archives=keep_archives)
    assert "2 files, 50.0 GB, of which 0 are here" in caplog.text and "CC BY-NC 4.0" in caplog.text
    assert files_below(tmp_path) == set()


@pytest.mark.parametrize(
    "free, fits",
    [pytest.param(170, True, id="just enough"), pytest.param(169, False, id="one byte too few")],
)
def test_what_is_there_already_needs_no_room(free, fits, zenodo, tmp_path, monkeypatch):
    """Of 100 bytes zipped, 20 are there, and 10 of 100 unpacked: 80 + 90 are needed."""
    file = ribfrac_download._RecordFile("ribfrac-val-images.zip", 100, "0", "")
    (tmp_path / f"{VAL}.part").write_bytes(b"." * 20)
    (tmp_path / "ribfrac-val-images").mkdir()
    (tmp_path / "ribfrac-val-images" / "RibFrac421-image.nii.gz").write_bytes(b"." * 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1000, 1000 - free, free))
    if fits:
        return ribfrac_download._announce([file], [file], tmp_path, keep_archives=False)
    with pytest.raises(ValueError, match="free some"):
        ribfrac_download._announce([file], [file], tmp_path, keep_archives=False)


def test_an_archive_that_unpacks_to_more_than_the_disk_holds(zenodo, tmp_path, monkeypatch):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("RibFrac421-image.nii.gz", bytes(10**6))
    zenodo.records[3893496] = {VAL: buffer.getvalue()}
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**7, 10**7 - 10**5, 10**5))
    with pytest.raises(ValueError, match=rf"{VAL} cannot be unpacked: its files need 0\.0 GB.*start again"):
        fetch(zenodo, tmp_path)
    assert files_below(tmp_path) == {VAL}


def test_unpacking_goes_on_after_a_stop(zenodo, tmp_path):
    zenodo.records[3893496] = {
        VAL: zipped({"A-image.nii.gz": b"whole", "B-image.nii.gz": b"cut off", "empty.txt": b""})
    }
    folder = tmp_path / "ribfrac-val-images"
    folder.mkdir()
    (folder / "A-image.nii.gz").write_bytes(b"WHOLE")  # so that it shows whether it is written again
    (folder / "B-image.nii.gz").write_bytes(b"cut")
    fetch(zenodo, tmp_path)
    contents = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert contents == {"A-image.nii.gz": b"WHOLE", "B-image.nii.gz": b"cut off", "empty.txt": b""}


@pytest.mark.parametrize(
    "archive",
    [
        pytest.param(zipped({"../evil.txt": b"!"}), id="leads out of the folder"),
        pytest.param(zipped({"ribfrac-val-images/../../evil.txt": b"!"}), id="leads out of the folder of its name"),
        pytest.param(zipped({"/evil.txt": b"!"}), id="absolute"),
        pytest.param(b"an error page", id="no archive"),
        pytest.param(zipped({"A-image.nii.gz": b"content"}).replace(b"content", b"contend"), id="damaged inside"),
    ],
)
def test_a_bad_archive_leaves_nothing_unpacked(archive, zenodo, tmp_path):
    zenodo.records[3893496] = {VAL: archive}
    with pytest.raises(ValueError, match=f"{VAL} cannot be unpacked"):
        fetch(zenodo, tmp_path / "data")
    assert files_below(tmp_path) == {f"data/{VAL}"}


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"<html>", id="no JSON"),
        pytest.param(b'{"message": "moved"}', id="no files"),
        pytest.param(b'{"files": [{"key": "a.zip"}]}', id="files without size"),
        pytest.param(b'{"files": []}', id="an empty list"),
    ],
)
def test_an_answer_that_is_no_record(answer, zenodo, tmp_path, monkeypatch):
    monkeypatch.setattr(zenodo, "record", lambda number: answer)
    with pytest.raises(ValueError, match=f"{zenodo.url}/records/3893496 "):
        fetch(zenodo, tmp_path)


def test_a_file_of_a_record_stays_in_the_folder(zenodo, tmp_path):
    zenodo.records[3893496] = {"../evil.csv": b"!"}
    fetch(zenodo, tmp_path / "data")
    assert files_below(tmp_path) == {"data/evil.csv"}


def test_an_unknown_section_is_refused(tmp_path):
    with pytest.raises(ValueError, match="sections has val: use some of training, validation, test"):
        download_ribfrac(tmp_path / "ribfrac", ["val", "test"])
    assert not (tmp_path / "ribfrac").exists()


def test_command_fetches_the_sections_asked_for(zenodo, tmp_path, capsys):
    main(["--output_dir", str(tmp_path / "data"), "--sections", "test", "validation", "--api_url", zenodo.url])
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "data")
    folders = {path.name for path in (tmp_path / "data").iterdir() if path.is_dir()}
    assert folders == {"ribfrac-val-images", "ribfrac-val-labels", "ribfrac-test-images"}


def test_command_ends_with_a_message(zenodo, tmp_path, capsys):
    zenodo.status["3893496"] = [404]
    with pytest.raises(SystemExit) as stopped:
        main(["--output_dir", str(tmp_path), "--sections", "validation", "--api_url", zenodo.url])
    assert stopped.value.code == 1
    assert "3893496 cannot be downloaded" in capsys.readouterr().err

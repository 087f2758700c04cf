"""Buckets: addressed, listed, and copied without content; here a folder by file://, and S3 where moto is installed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.files.hollow_copy import HollowCopy
from scripts.files.object_store import ObjectStore, is_address


@pytest.fixture(scope="module")
def s3() -> Iterator[None]:
    """A server of S3 on this machine; fsspec keeps its connection."""
    pytest.importorskip("s3fs", reason="the package s3fs is not installed")
    server = pytest.importorskip("moto.server", reason="the package moto[server] is not installed")
    running = server.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        yield
    running.stop()


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "file":
        return ObjectStore(f"file://{tmp_path}/bucket/found")
    request.getfixturevalue("s3")
    bucket = re.sub("[^a-z0-9]", "", tmp_path.name)
    store = ObjectStore(f"s3://{bucket}/found")
    store.system.mkdir(bucket)
    return store


def write(folder: Path, **texts: str) -> dict[str, Path]:
    files = {name: folder / name for name in texts}
    for name, path in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(texts[name])
    return files


def test_objects_are_written_listed_read_and_removed(store, tmp_path):
    assert store.objects() == {}
    store.put(write(tmp_path / "here", **{"a.txt": "one", "b/c.txt": "three", "b/empty": ""}))
    listed = store.objects()
    assert {name: one.size for name, one in listed.items()} == {"a.txt": 3, "b/c.txt": 5, "b/empty": 0}
    assert store.heads({"b/c.txt": 2, "b/empty": 0, "a.txt": 3}) == [b"th", b"", b"one"]
    store.fetch({"b/c.txt": tmp_path / "there" / "d" / "e"})
    assert (tmp_path / "there" / "d" / "e").read_text() == "three"
    store.put(write(tmp_path / "here", **{"a.txt": "two"}))
    assert store.objects()["a.txt"] != listed["a.txt"], "of the same size, and another version"
    store.remove(["a.txt", "none"])
    assert set(store.objects()) == {"b/c.txt", "b/empty"}
    with pytest.raises(FileNotFoundError):
        store.fetch({"none": tmp_path / "none"})


@pytest.mark.parametrize(
    "address, error, message",
    [
        pytest.param("gs://bucket/x", ModuleNotFoundError, "gs://bucket/x cannot be opened: .*gcsfs", id="no package"),
        pytest.param("odd://bucket/x", ValueError, "odd://bucket/x cannot be opened: Protocol not known", id="scheme"),
    ],
)
def test_a_scheme_that_nothing_is_installed_for_is_refused(address, error, message):
    assert is_address(address) and not is_address("/data/scans") and not is_address(None)
    with pytest.raises(error, match=message):
        ObjectStore(address)


def test_what_is_no_folder_or_has_names_that_no_file_can_have_is_refused(store, tmp_path):
    store.put(write(tmp_path, **{"a.txt": "one"}))
    with pytest.raises(ValueError, match="a.txt is an object: give the folder"):
        ObjectStore(f"{store.address}/a.txt").objects()
    if store.address.startswith("s3"):
        store.system.pipe_file(f"{store.root}/b//c", b"")
        with pytest.raises(ValueError, match="found/b//c: no file can have that name"):
            store.objects()


def test_a_store_that_does_not_answer_is_named(store):
    if store.address.startswith("s3"):
        with pytest.raises(RuntimeError, match=r"s3://another/x cannot be written to \(.*\): check the address"):
            ObjectStore("s3://another/x").put({"a": Path(__file__)})


def test_a_copy_has_names_and_sizes_and_follows_both_sides(store, tmp_path):
    files = {"records/a.json": "{}", "masks/a.gz": "mask a", "masks/b.gz": "mask b", "table.csv": "old"}
    store.put(write(tmp_path / "here", **files))
    copy = HollowCopy(store, tmp_path / "copy", lambda name: name.endswith(".json"))
    copy.pull()
    here = tmp_path / "copy"
    assert {name: (here / name).stat().st_size for name in files} == {name: len(text) for name, text in files.items()}
    assert (here / "records/a.json").read_text() == "{}" and set((here / "masks/a.gz").read_bytes()) == {0}
    copy.push()
    store.fetch({"masks/a.gz": tmp_path / "mask"})
    assert (tmp_path / "mask").read_text() == "mask a", "nothing is written that has not changed"
    write(here, **{"table.csv": "new", "more.csv": "more"})
    (here / "masks/b.gz").unlink()
    store.put(write(tmp_path / "here", **{"masks/c.gz": "from elsewhere"}))
    copy.push()
    assert set(store.objects()) == {"records/a.json", "masks/a.gz", "masks/c.gz", "table.csv", "more.csv"}
    store.fetch({"table.csv": tmp_path / "table"})
    assert (tmp_path / "table").read_text() == "new"
    before = os.stat(here / "masks/a.gz").st_mtime_ns
    store.put(write(tmp_path / "here", **{"masks/a.gz": "mask d"}))
    (here / "records/a.json").unlink()
    copy.pull(lambda name: "/" in name)
    assert os.stat(here / "masks/a.gz").st_mtime_ns != before, "of the same size, and another version"
    assert (here / "masks/c.gz").stat().st_size == len("from elsewhere")
    assert (here / "records/a.json").read_text() == "{}", "what is gone comes again"

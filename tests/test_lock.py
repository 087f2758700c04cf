"""A folder belongs to one run at a time, and to nobody when that run is gone, however it went."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from test_configs import SMALL_PREDICTION, SMALL_TRAINING, files, workflow

from scripts.commands.download import main
from scripts.files.atomic_write import whole_file
from scripts.runs import lock as folder_lock
from scripts.runs.lock import FolderLock

UNFINISHED = ".0123456789abcdef.curves.csv"


def hold(lock: FolderLock, ready: multiprocessing.Event, forks: bool) -> None:
    lock.acquire()
    if forks and os.fork() == 0:  # a loader of scans
        time.sleep(5)
        os._exit(0)
    ready.set()
    signal.pause()


@contextmanager
def another_process(lock: FolderLock, forks: bool = False) -> Iterator[Callable[[], None]]:
    """Hold a lock in another process; gives what kills that one."""
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=hold, args=(lock, ready, forks))
    process.start()
    while not ready.wait(0.02):
        assert process.is_alive(), "it could not acquire the lock"

    def kill() -> None:
        process.kill()
        process.join()

    try:
        yield kill
    finally:
        kill()


def test_a_second_run_is_refused_until_the_first_is_killed(tmp_path):
    with another_process(FolderLock(tmp_path / "out")) as kill:
        with pytest.raises(BlockingIOError, match=rf"{tmp_path}/out: another run writes there \(process \d+ on .+\)"):
            FolderLock(tmp_path / "out").acquire()
        kill()
        FolderLock(tmp_path / "out").acquire()
    FolderLock(tmp_path / "out").release()
    assert list((tmp_path / "out").iterdir()) == []


def test_what_a_killed_run_had_forked_holds_nothing(tmp_path):
    with another_process(FolderLock(tmp_path), forks=True) as kill:
        kill()
        FolderLock(tmp_path).acquire()
        FolderLock(tmp_path).release()


@pytest.mark.parametrize(
    "other, is_refused",
    [
        pytest.param((1, 3), False, id="another shard"),
        pytest.param((0, 3), True, id="the same shard"),
        pytest.param((0, 1), True, id="one run for all"),
        pytest.param((1, 2), True, id="shards of another number"),
    ],
)
def test_shards_share_a_folder(other, is_refused, tmp_path):
    with another_process(FolderLock(tmp_path, 0, 3)) as kill:
        lock = FolderLock(tmp_path, *other)
        if is_refused:
            with pytest.raises(BlockingIOError):
                lock.acquire()
            kill()
        lock.acquire()
        lock.release()


def test_a_shard_is_refused_where_one_run_does_all(tmp_path):
    with another_process(FolderLock(tmp_path)), pytest.raises(BlockingIOError):
        FolderLock(tmp_path, 0, 3).acquire()
    assert files(tmp_path) == [".lock-0-of-1"]  # of the killed run; the other has left none


def test_of_two_folders_both_or_none_is_held(tmp_path):
    with another_process(FolderLock(tmp_path / "b")):
        with pytest.raises(BlockingIOError, match="/b: "):
            FolderLock([tmp_path / "a", tmp_path / "b"]).acquire()
        assert list((tmp_path / "a").iterdir()) == []


def test_one_process_may_run_twice_behind_each_other(tmp_path):
    FolderLock(tmp_path).acquire()  # and fails, in a notebook
    FolderLock(tmp_path).acquire()
    with pytest.raises(AssertionError, match="could not acquire"), another_process(FolderLock(tmp_path)):
        pass
    FolderLock(tmp_path).release()


@pytest.mark.parametrize("shards, is_left", [(1, False), (2, True)], ids=["one run", "one of two shards"])
def test_a_run_with_the_folder_to_itself_clears_up(shards, is_left, tmp_path):
    (tmp_path / UNFINISHED).touch()
    (tmp_path / ".settings").touch()
    lock = FolderLock(tmp_path, 0, shards)
    lock.acquire()
    lock.release()
    assert (tmp_path / UNFINISHED).exists() == is_left and (tmp_path / ".settings").exists()


def test_a_run_that_is_refused_clears_up_nothing(tmp_path):
    with another_process(FolderLock(tmp_path)), whole_file(tmp_path / "curves.csv") as temporary:
        temporary.write_text("half")
        with pytest.raises(BlockingIOError):
            FolderLock(tmp_path).acquire()


def test_a_system_without_locks_is_told(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(folder_lock, "has_fcntl", False)
    FolderLock(tmp_path).acquire()
    assert "no locks: let no other run write" in caplog.text


@pytest.mark.parametrize("name", ["", "sub/folder"], ids=["itself", "above"])
def test_a_file_in_the_place_of_the_folder(name, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OSError, match=r"out.* cannot be written to \((it is a file|Not a directory)\): choose another"):
        FolderLock(tmp_path / "out" / name).acquire()


@pytest.mark.slow
@pytest.mark.parametrize(
    "configs, kind, run_id, settings",
    [
        pytest.param(["train.yaml"], "train", "training", SMALL_TRAINING, id="training"),
        pytest.param(["inference.yaml"], "infer", "inference", SMALL_PREDICTION, id="prediction"),
        pytest.param(["inference.yaml", "evaluate.yaml"], "infer", "evaluating", SMALL_PREDICTION, id="evaluation"),
    ],
)
def test_two_runs_on_one_folder(configs, kind, run_id, settings, ribfrac_dir, tmp_path, model):
    settings = settings | {"dataset_dir": str(ribfrac_dir), "output_dir": str(tmp_path / "out")}
    settings |= {} if kind == "train" else {"checkpoint": str(model)}
    second = workflow(*configs, kind=kind, run_id=run_id, **settings)
    second.initialize()
    with another_process(FolderLock(tmp_path / "out")) as kill:
        with pytest.raises(RuntimeError) as error:
            second.run()
        assert "another run writes there" in str(error.value.__cause__)
        assert files(tmp_path) == ["out/.lock-0-of-1"]
        kill()
    again = workflow(*configs, kind=kind, run_id=run_id, **settings)
    again.initialize()
    again.run()
    assert not [name for name in files(tmp_path) if "lock" in name] and (tmp_path / "out" / "config.yaml").is_file()


def test_trainings_with_one_folder_of_weights(ribfrac_dir, tmp_path):
    settings = SMALL_TRAINING | {"dataset_dir": str(ribfrac_dir), "output_dir": str(tmp_path / "out")}
    second = workflow("train.yaml", kind="train", run_id="training", ckpt_dir=str(tmp_path / "weights"), **settings)
    second.initialize()
    with another_process(FolderLock(tmp_path / "weights")), pytest.raises(RuntimeError) as error:
        second.run()
    assert f"{tmp_path}/weights: another run" in str(error.value.__cause__)


def test_predictions_with_one_folder_of_masks(ribfrac_dir, tmp_path, model):
    settings = SMALL_PREDICTION | {"dataset_dir": str(ribfrac_dir), "checkpoint": str(model)}
    masks = tmp_path / "masks"
    second = workflow("inference.yaml", output_dir=str(tmp_path / "out"), predictions_dir=str(masks), **settings)
    second.initialize()
    with another_process(FolderLock(masks)), pytest.raises(RuntimeError) as error:
        second.run()
    assert f"{masks}: another run" in str(error.value.__cause__)


def test_two_downloads_into_one_folder(tmp_path, capsys):
    with another_process(FolderLock(tmp_path)), pytest.raises(SystemExit) as stop:
        main(["--output_dir", str(tmp_path), "--api_url", "http://127.0.0.1/never"])
    assert stop.value.code == 1 and "another run writes there" in capsys.readouterr().err

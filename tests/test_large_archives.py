"""Predictions of many scans: side by side, started again, and with memory that does not grow."""

from __future__ import annotations

import gc
import os
import subprocess
from pathlib import Path

import pytest
from conftest import BUNDLE_ROOT, write_scan
from monai.bundle import ConfigWorkflow
from monai.data import MetaTensor
from test_configs import SMALL_PREDICTION, command, files, workflow

from scripts.candidates import Candidate
from scripts.handlers import ScanRecordsHandler

pytestmark = pytest.mark.slow

# a review page tells when it was made
SETTINGS = SMALL_PREDICTION | {"num_workers": 0, "resume": True, "outputs::review_page": False}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    for number in range(501, 506):
        write_scan(folder, "test", number, fractures=1, shape=(20, 18, 16))
    return folder


def predict(folder, archive, model, *configs, **settings):
    """Predict in this process."""
    arguments = {"dataset_dir": str(archive), "output_dir": str(folder), "checkpoint": str(model)}
    ready = workflow(*(configs or ["inference.yaml"]), **SETTINGS | arguments | settings)
    ready.initialize()
    ready.run()
    return ready


@pytest.fixture(scope="module")
def undisturbed(archive, model, tmp_path_factory):
    """The folder of what one process writes in one go."""
    folder = tmp_path_factory.mktemp("undisturbed")
    predict(folder, archive, model)
    return folder


def contents(folder):
    """Every file but the config, which names the folder, and the summaries, which tell what was done before."""
    names = [name for name in files(folder) if name != "config.yaml" and not name.startswith("summary")]
    return {name: (folder / name).read_bytes() for name in names}


def test_two_processes_write_what_one_does(archive, undisturbed, model, tmp_path, python):
    """Each takes its part by what torchrun sets; they do not know of each other."""
    settings = SETTINGS | {"dataset_dir": archive, "output_dir": tmp_path, "checkpoint": model}
    ranks = [
        subprocess.Popen(
            command(python, "inference.yaml", **settings),
            cwd=BUNDLE_ROOT,
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    outputs = [process.communicate()[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], outputs
    assert "5 scans, 3 of them for this process" in outputs[0] and ", 2 of them" in outputs[1]
    assert contents(tmp_path) == contents(undisturbed)


def test_nothing_left_to_do(archive, undisturbed, model, tmp_path):
    before = contents(undisturbed)
    times = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*.nii.gz")}
    predict(undisturbed, archive, model)
    assert contents(undisturbed) == before
    assert {path: path.stat().st_mtime_ns for path in times} == times and len(
        times
    ) == 10  # masks of fractures and of ribs


def test_the_saved_config_runs_again(archive, undisturbed, model, tmp_path):
    repeated = ConfigWorkflow(
        str(undisturbed / "config.yaml"),
        meta_file=str(BUNDLE_ROOT / "configs" / "metadata.json"),
        logging_file=False,
        run_id="run",
        output_dir=str(tmp_path),
    )
    repeated.initialize()
    repeated.run()
    assert contents(tmp_path) == contents(undisturbed)


@pytest.fixture
def only_new_objects():
    """Let the garbage collector list what is made from here on, which is quick, and nothing of other tests."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def test_memory_does_not_grow_with_the_archive(archive, model, tmp_path, only_new_objects):
    """Behind each scan as many voxels are alive as behind the others, and no candidate of another scan."""
    alive = []

    class Count(ScanRecordsHandler):
        def _record(self, engine):
            super()._record(engine)
            gc.collect()
            tracked = gc.get_objects()
            voxels = sum(item.numel() for item in tracked if isinstance(item, MetaTensor))
            own = sum(len(output["candidates"]) for output in engine.state.output)
            candidates = sum(isinstance(item, Candidate) for item in tracked)
            alive.append((voxels, candidates - own))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scripts.handlers.ScanRecordsHandler", Count)
        predict(tmp_path / "out", archive, model)
    assert len(alive) == 5 and alive[1][0] > 0
    assert len(set(alive[1:])) == 1 and alive[1][1] == 0  # behind the first scan there is none before it
    written = files(tmp_path / "out")
    # two masks, a table of ribs and a record each; three tables, the summary and the config
    assert len(written) == 5 * 4 + 5

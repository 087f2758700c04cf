"""Training and evaluation in two processes on the CPU, by the commands in the headers of their configs."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from bright_network import BrightNetwork
from conftest import BUNDLE_ROOT, write_scan
from test_configs import SMALL_PREDICTION, SMALL_TRAINING, files, rows, workflow

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parent


def torchrun(python, config, *overlays, **settings):
    """Run the command in the header of a config, by processes that start at once."""
    text = (BUNDLE_ROOT / "configs" / config).read_text().replace("\\\n#", " ")
    line = re.search(r"^#   torchrun (.*)$", text, re.MULTILINE).group(1)
    for overlay in overlays:
        line = line.replace(f"'configs/{config}'", f"'configs/{config}','{overlay}'")
    overrides = [f"--{name.replace('::', '#')}={value}" for name, value in settings.items()]
    return subprocess.run(
        [python, "-m", "torch.distributed.run", *shlex.split(line), *overrides],
        cwd=BUNDLE_ROOT,
        env={**os.environ, "PYTHONPATH": str(TESTS), "PYTHON_EXEC": str(python), "OMP_NUM_THREADS": "1"},
        check=False,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Odd numbers of validation and test scans, so that two processes have unequal shares."""
    folder = tmp_path_factory.mktemp("data")
    for section, numbers in (("train", range(1, 5)), ("val", range(421, 424)), ("test", range(501, 506))):
        for number in numbers:
            write_scan(folder, section, number, fractures=1 + number % 3, shape=(24, 22, 20))
    return folder


def test_an_evaluation_in_two_processes_scores_as_one_does(data, tmp_path, python):
    model = tmp_path / "model.pt"
    torch.save(BrightNetwork().state_dict(), model)
    settings = SMALL_PREDICTION | {
        "checkpoint": str(model),
        "num_workers": 0,
        "bootstrap": 100,
    }
    settings |= {
        "dataset_dir": str(data),
        "candidates::threshold": 0.5,
        "candidates::low_threshold": 0.0,
        "candidates::peak_share": 0.0,
    }
    settings |= {
        "outputs::review_page": False,
        "network_def::_target_": "bright_network.BrightNetwork",
        "candidates::min_score": 0.0,
    }
    one, two = tmp_path / "one", tmp_path / "two"
    alone = workflow("inference.yaml", "evaluate.yaml", run_id="evaluating", output_dir=str(one), **settings)
    alone.initialize()
    alone.run()
    done = torchrun(python, "multi_gpu_evaluate.yaml", output_dir=two, **settings | {"section": "test"})
    assert done.returncode == 0, done.stdout
    # the bootstrap's interval depends on the order of the scans too
    names = ["metrics.json", "froc.csv", "fractures.csv", "predictions/ribfrac-pred.csv"]
    for name in names:
        assert (two / name).read_bytes() == (one / name).read_bytes(), name
    # 1, 2, 3, 1 and 2 fractures; two of the third scan's touch, and are one candidate
    assert json.loads((one / "metrics.json").read_text())["counts"] == {"scans": 5, "fractures": 9, "candidates": 8}
    per_process = {"summary.json", "summary-0.json", "summary-1.json"}
    assert set(files(two)) ^ set(files(one)) == per_process
    assert done.stdout.count("average recall") == 1  # one process logs


def test_a_process_without_a_good_scan_keeps_nobody_waiting(model, tmp_path, python):
    for number in (501, 502):
        write_scan(tmp_path / "data", "test", number, fractures=1, shape=(24, 22, 20))
    bad = tmp_path / "data" / "ribfrac-test-images" / "RibFrac502-image.nii.gz"
    bad.write_bytes(bad.read_bytes()[:200])
    settings = SMALL_PREDICTION | {
        "checkpoint": str(model),
        "num_workers": 0,
        "bootstrap": 0,
    }
    settings |= {
        "dataset_dir": str(tmp_path / "data"),
        "section": "test",
        "outputs::review_page": False,
        "wait_hours": 0.02,
    }
    done = torchrun(python, "multi_gpu_evaluate.yaml", output_dir=tmp_path / "out", **settings)
    assert done.returncode != 0 and "1 of 2 scans failed, the others are done" in done.stdout, done.stdout
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["counts"]["scans"] == 1
    told = [json.loads((tmp_path / "out" / f"summary-{rank}.json").read_text()) for rank in (0, 1)]
    assert [len(summary["skipped_scans"]) for summary in told] == [0, 1]
    assert told[0]["froc"]["scans"] == 1


def probe(folder, stop):
    """A config that keeps what each process sees and holds."""
    overlay = folder / "probe.yaml"
    overlay.write_text(
        yaml.safe_dump(
            {
                "train::dataset::_target_": "rank_probe.SeenDataset",
                "train::dataset::seen_dir": str(folder),
                "+train::handlers": [
                    {
                        "_target_": "rank_probe.KeepStateHandler",
                        "folder": str(folder),
                        "networks": {"plain": "@plain_network", "averaged": "@averaged_network"},
                        "evaluator": "@validate::evaluator",
                        "stop": stop,
                    }
                ],
            }
        )
    )
    return str(overlay)


def test_a_training_in_two_processes_that_is_stopped_and_resumed(data, tmp_path, python):
    settings = SMALL_TRAINING | {"max_epochs": 2, "num_workers": 0, "cache_dir": tmp_path / "cache"}
    settings |= {"dataset_dir": data, "output_dir": tmp_path / "out", "ema_decay": 0.5}
    stopped = torchrun(python, "multi_gpu_train.yaml", probe(tmp_path, stop=1), **settings)
    assert stopped.returncode != 0 and "stopped, as a killed training" in stopped.stdout, stopped.stdout
    done = torchrun(python, "multi_gpu_train.yaml", probe(tmp_path, stop=0), resume="true", **settings)
    assert done.returncode == 0 and done.stdout.count("Resumed from") == 1, done.stdout

    seen = [(tmp_path / f"seen-{rank}.txt").read_text().split("\n\n") for rank in (0, 1)]
    scans = [f"RibFrac{number}" for number in range(1, 5)]
    for epoch in (0, 1):
        shares = [process[epoch].split() for process in seen]
        assert [len(share) for share in shares] == [2, 2] and sorted(shares[0] + shares[1]) == scans
    assert seen[0][0].split() != seen[0][1].split()  # dealt anew in each epoch

    for epoch in (1, 2):
        first, second = (torch.load(tmp_path / f"state-{epoch}-{rank}.pt") for rank in (0, 1))
        for network in ("plain", "averaged"):
            assert all(torch.equal(first[network][name], second[network][name]) for name in first[network])
        assert first["losses"] == second["losses"] and first["best"] == second["best"]
    assert not torch.equal(first["plain"]["heads.0.weight"], first["averaged"]["module.heads.0.weight"])

    curves = rows(tmp_path / "out" / "curves.csv")
    assert [row["epoch"] for row in curves] == ["1", "2"]
    assert float(curves[1]["validation_loss"]) == pytest.approx(first["losses"]["validation_loss"])
    final = torch.load(tmp_path / "out" / "models" / "final.pt", weights_only=True)
    assert all(torch.equal(final[name], first["averaged"][f"module.{name}"]) for name in final)
    events = [name for name in files(tmp_path / "out") if name.startswith("tensorboard/")]
    assert len(events) == 2 * 2  # of the trainer and of the validation, twice started; none of the second process
    prepared = list((tmp_path / "cache").iterdir())
    assert len(prepared) == 4 + 3  # each scan once

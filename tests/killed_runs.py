"""Runs that tests/test_kills.py kills: each is started, in a process of its own, and started again in the same way."""

from __future__ import annotations

import logging
import multiprocessing
import os
from pathlib import Path
from typing import Any

from forked_python import import_bundle
from test_configs import SMALL_PREDICTION, SMALL_TRAINING, workflow

from scripts.commands import download as ribfrac_download
from scripts.commands.download import download_ribfrac

__all__ = ["build_cache", "download", "predict", "train"]

EPOCHS = 4

import_bundle()  # so that a process that is forked has what the configs name


def _quietly(log: Path | None = None) -> None:
    """Write what the run says to a file beside its folder."""
    number = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(number, 1)
    os.dup2(number, 2)
    multiprocessing.set_start_method("fork", force=True)  # of its loaders, as in a run of its own
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)


def _run(*configs: str, log: Path, **settings: Any) -> None:
    _quietly(log)
    ready = workflow(*configs, **settings)
    ready.initialize()
    ready.run()


def predict(folder: Path, data: Path, model: Path) -> None:
    """Predict, with pictures and the page."""
    settings = SMALL_PREDICTION | {"dataset_dir": str(data), "output_dir": str(folder), "checkpoint": str(model)}
    settings["outputs::pictures"] = True
    _run("inference.yaml", log=folder.with_suffix(".log"), num_workers=1, resume=True, **settings)


def train(folder: Path, data: Path, model: Path) -> None:
    """Train for a few epochs."""
    settings = SMALL_TRAINING | {"dataset_dir": str(data), "output_dir": str(folder), "max_epochs": EPOCHS}
    settings |= {"num_workers": 1, "resume": True, "rois::per_scan": 4}
    _run("train.yaml", kind="train", run_id="training", log=folder.with_suffix(".log"), **settings)


def build_cache(folder: Path, data: Path, model: Path) -> None:
    """Prepare the scans of a training, without the training."""
    settings = {"dataset_dir": str(data), "output_dir": str(folder / "out"), "cache_dir": str(folder / "cache")}
    _quietly(folder.with_suffix(".log"))
    ready = workflow("train.yaml", kind="train", run_id="training", **SMALL_TRAINING | settings, num_workers=1)
    ready.initialize()
    for part in ("train", "validate"):
        ready.parser.get_parsed_content(f"{part}::dataset").prepare()


def download(folder: Path, api_url: str) -> None:
    """Fetch and unpack a small RibFrac."""
    _quietly(folder.with_suffix(".log"))
    ribfrac_download._WAIT_S = 0.0
    download_ribfrac(folder, ["training", "validation"], api_url=api_url)

"""
Run the bundle in MONAI Label's server, as 3D Slicer does, by MONAI Label's own client over HTTP on this machine.

    python tests/integration/monai_label.py --bundle dist/rib_fracture_ct_segmentation \
      --app apps/monaibundle --data data/phantoms

The client asks what the server has, has two scans predicted, saves their labels, and has the server train on these.

Needs an environment of its own: the bundle's own packages, then
``pip install --no-deps -r tests/integration/requirements-monai-label.txt``. The bundle is given as a folder, as
``python -m scripts release`` packs it; the app as ``monailabel apps --name monaibundle --download`` leaves it; the data
in RibFrac's layout, with two annotated training scans or more. All are copied into a temporary folder.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
from monailabel.client import MONAILabelClient

SECONDS_BETWEEN_QUESTIONS = 2


@contextmanager
def running_server(app: Path, studies: Path, model: str) -> Iterator[MONAILabelClient]:
    """Start the server on a free port of this machine, and give its client; the server ends behind the ``with``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["start_server", "--app", str(app), "--studies", str(studies), "--host", "127.0.0.1", "--port", str(port)]
    settings = ["--conf", "models", model, "--conf", "zoo_source", "ngc", "--conf", "sam2", "false"]
    variables = os.environ | {"MONAI_LABEL_DATASTORE_AUTO_RELOAD": "false"}
    server = subprocess.Popen([sys.executable, "-m", "monailabel.main", *words, *settings], env=variables)
    try:
        while True:
            assert server.poll() is None, f"the server ended with status {server.returncode}"
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                time.sleep(SECONDS_BETWEEN_QUESTIONS)
        yield MONAILabelClient(f"http://127.0.0.1:{port}")
    finally:
        server.terminate()
        server.wait()


def predict(client: MONAILabelClient, model: str, image: Path) -> None:
    """Have a scan predicted, compare the mask's grid with the scan's, and save the scan's label."""
    name = image.name.removesuffix(".nii.gz")
    answer, params = client.infer(model, name, {"device": "cpu"})
    mask, scan = nib.load(answer), nib.load(image)
    assert mask.shape == scan.shape and np.allclose(mask.affine, scan.affine)
    assert nib.aff2axcodes(mask.affine) == nib.aff2axcodes(scan.affine)
    print(f"{name}: {int(np.asarray(mask.dataobj).max())} candidates on its own grid; labels {params['label_names']}")
    drawn = str(image).replace("-images", "-labels").replace("-image", "-label")
    client.save_label(name, drawn, "final", {})


def train(client: MONAILabelClient, model: str, weights: Path) -> None:
    """Have the server train for an epoch on the labels that were saved; half of them validate."""
    client.train_start(model, {"device": "cpu", "max_epochs": 1, "val_split": 0.5, "multi_gpu": False})
    while client.train_status(check_if_running=True):
        time.sleep(SECONDS_BETWEEN_QUESTIONS)
    assert weights.is_file(), f"no weights were written: {client.train_status()}"
    print(f"trained: {weights.name}, {weights.stat().st_size} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the bundle in MONAI Label's server, by its client.")
    parser.add_argument("--bundle", type=Path, required=True, help="the bundle's folder")
    parser.add_argument("--app", type=Path, required=True, help="the folder of the app monaibundle")
    parser.add_argument("--data", type=Path, required=True, help="annotated scans, in RibFrac's layout")
    options = parser.parse_args()
    images = sorted(options.data.glob("ribfrac-train-images/**/*-image.nii.gz"))[:2]
    with tempfile.TemporaryDirectory() as folder:
        app, studies = Path(folder) / "app", Path(folder) / "studies"
        shutil.copytree(options.app, app)
        model = app / "model" / options.bundle.name
        shutil.copytree(options.bundle, model)
        studies.mkdir()
        for image in images:
            shutil.copy(image, studies)
        with running_server(app, studies, model.name) as client:
            info = client.info()
            print(f"models: {list(info['models'])}; trainers: {list(info['trainers'])}")
            assert model.name in info["models"] and model.name in info["trainers"]
            for image in images:
                predict(client, model.name, image)
            train(client, model.name, model / "output" / "training" / "models" / "model.pt")


if __name__ == "__main__":
    main()

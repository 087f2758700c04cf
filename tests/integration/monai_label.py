"""
Run the bundle in MONAI Label's app for bundles: predict one scan, save its label, and train on saved labels.

    python tests/integration/monai_label.py --bundle dist/rib_fracture_ct_segmentation \
      --app apps/monaibundle --data data/phantoms

Needs an environment of its own: the bundle's own packages, then
``pip install --no-deps -r tests/integration/requirements-monai-label.txt``. The bundle is given as a folder, as
``python -m scripts release`` packs it; the app as ``monailabel apps --name monaibundle --download`` leaves it; the data
in RibFrac's layout, with two annotated training scans or more. All are copied into a temporary folder.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the bundle in MONAI Label's app for bundles.")
    parser.add_argument("--bundle", type=Path, required=True, help="the bundle's folder")
    parser.add_argument("--app", type=Path, required=True, help="the folder of the app monaibundle")
    parser.add_argument("--data", type=Path, required=True, help="annotated scans, in RibFrac's layout")
    options = parser.parse_args()
    images = sorted(options.data.glob("ribfrac-train-images/**/*-image.nii.gz"))[:2]
    with tempfile.TemporaryDirectory() as folder:
        app_dir, studies = Path(folder) / "app", Path(folder) / "studies"
        shutil.copytree(options.app, app_dir)
        model = app_dir / "model" / options.bundle.name
        shutil.copytree(options.bundle, model)
        studies.mkdir()
        for image in images:
            shutil.copy(image, studies)
        os.environ["MONAI_LABEL_DATASTORE_AUTO_RELOAD"] = "false"
        sys.path.insert(0, str(app_dir))
        from main import MyApp  # of the app

        app = MyApp(str(app_dir), str(studies), {"models": model.name, "zoo_source": "ngc", "sam2": "false"})
        for image in images:
            name = image.name.removesuffix(".nii.gz")
            found = app.infer({"model": model.name, "image": name, "device": "cpu"})
            mask, scan = nib.load(found["label"]), nib.load(image)
            assert mask.shape == scan.shape and np.allclose(mask.affine, scan.affine)
            print(f"{name}: {np.asarray(mask.dataobj).max()} candidates, labels {found['params']['label_names']}")
            drawn = str(image).replace("-images", "-labels").replace("-image", "-label")
            app.datastore().save_label(name, drawn, "final", {})
        request = {"model": model.name, "device": "cpu", "max_epochs": 1, "val_split": 0.5, "multi_gpu": False}
        app.train(request | {"pretrained": True, "local_rank": 0})
        trained = model / "output" / "training" / "models" / "model.pt"
        assert trained.is_file(), "no weights were written"
        print(f"trained: {trained.relative_to(model)}, {trained.stat().st_size} bytes")


if __name__ == "__main__":
    main()

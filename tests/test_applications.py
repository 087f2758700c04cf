"""
The bundle as MONAI Label and MONAI Deploy take it apart: by the ids, keys and the order that their sources have.

Neither is installed for it. ``tests/integration/`` holds programs that run both, in environments of their own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import BUNDLE_ROOT, write_scan
from monai.bundle import ConfigParser
from monai.inferers import Inferer
from monai.transforms import Compose, LoadImaged, SaveImaged

from scripts.networks import ResUNet

OUTPUTS = json.loads((BUNDLE_ROOT / "configs" / "metadata.json").read_text())["network_data_format"]["outputs"]


@pytest.fixture
def config() -> ConfigParser:
    """``inference.yaml`` as both applications read it, with a small network that marks nearly all of a scan."""
    config = ConfigParser()
    config.read_config(BUNDLE_ROOT / "configs" / "inference.yaml")
    config["bundle_root"], config["device"] = str(BUNDLE_ROOT), "cpu"
    config["network_def"]["channels"] = [2, 3, 4]
    config["windows"]["roi_size"], config["bone"]["min_voxels"] = [16, 16, 16], 0
    config["candidates"] |= {"postprocess": False, "threshold": 0.1}
    return config


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    write_scan(tmp_path, "test", 501, fractures=2)
    return tmp_path / "ribfrac-test-images" / "RibFrac501-image.nii.gz"


def infer(config: ConfigParser, image: torch.Tensor) -> torch.Tensor:
    """The inferer on a batch of one image, and the network's weights drawn anew; without the batch's axis."""
    torch.manual_seed(0)
    network, inferer = config.get_parsed_content("network_def"), config.get_parsed_content("inferer")
    assert isinstance(network, ResUNet) and isinstance(inferer, Inferer)
    with torch.no_grad():
        return inferer(inputs=image[None], network=network.eval())[0]


def without(transforms: Any, *kinds: type) -> list[Any]:
    assert isinstance(transforms, Compose)
    return [transform for transform in transforms.transforms if not isinstance(transform, kinds)]


def test_monai_label_infers(config: ConfigParser, scan: Path) -> None:
    """Transforms one by one, among the keys of the request; no SaveImaged; the first channel is written."""
    data: dict[str, Any] = {"image": str(scan), "image_path": str(scan), "device": "cpu", "model": "rib", "params": {}}
    for transform in config.get_parsed_content("preprocessing").transforms:
        data = transform(data)
    data["pred"] = infer(config, data["image"])
    for transform in without(config.get_parsed_content("postprocessing"), SaveImaged):
        data = transform(data)
    mask, stored = np.asarray(data["pred"][0]), nib.load(scan)
    assert mask.shape == stored.shape and mask.any() and np.allclose(data["pred"].affine, stored.affine)
    assert data["image_path"] == str(scan)  # after which MONAI Label names the file


def test_monai_deploy_infers(config: ConfigParser, scan: Path) -> None:
    """The volume comes from memory; the network gets every other tensor of the data, so there must be none."""
    loaded = LoadImaged("image", image_only=True)({"image": str(scan)})["image"]
    loaded.meta.pop("filename_or_obj")
    preprocessing, postprocessing = (config.get_parsed_content(f"{name}processing") for name in ("pre", "post"))
    preprocessing.transforms = tuple(without(preprocessing, LoadImaged))
    postprocessing.transforms = tuple(without(postprocessing, SaveImaged))
    inputs = preprocessing({"image": loaded})
    assert [key for key, value in inputs.items() if isinstance(value, torch.Tensor)] == ["image"]
    outputs = postprocessing({"pred": infer(config, inputs["image"]), **inputs})
    assert outputs["pred"].shape == (1, *nib.load(scan).shape) and outputs["pred"].any()


def test_a_mask_shows_fractures_where_it_is_not_background() -> None:
    assert list(OUTPUTS) == ["pred"] and OUTPUTS["pred"]["channel_def"] == {"0": "background", "1": "rib fracture"}


@pytest.mark.slow
def test_monai_label_trains_beside_an_older_pydicom() -> None:
    """It needs pydicom 2 and highdicom pydicom 3, which only a prediction of DICOM may ask for."""
    program = "import sys, scripts.handlers, scripts.runs, scripts.data; sys.exit('highdicom' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=BUNDLE_ROOT, check=False).returncode == 0


def test_monai_label_trains_from_the_weights() -> None:
    """It puts a CheckpointLoader in front of the handlers, unless one of them is called so, on or off."""
    config = ConfigParser()
    config.read_config(BUNDLE_ROOT / "configs" / "train.yaml")
    handlers = config["train"]["handlers"]
    assert handlers and all(handler["_target_"] != "CheckpointLoader" for handler in handlers)
    for name in ("network", "run", "train::trainer::max_epochs", "train::dataset::data", "validate::dataset::data"):
        assert name in config

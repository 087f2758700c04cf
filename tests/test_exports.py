"""The exported network, in each form, gives what the network gives, at the size of the export and at others."""

from __future__ import annotations

import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel as nib
import numpy as np
import openvino
import pytest
import torch
from conftest import BUNDLE_ROOT, write_scan
from monai.bundle import ConfigParser, ConfigWorkflow

from scripts.networks import ResUNet

pytestmark = pytest.mark.processor

WEIGHTS = BUNDLE_ROOT / "models" / "model.pt"
SOURCE = {
    "net_id": "network_def",
    "ckpt_file": str(WEIGHTS),
    "meta_file": str(BUNDLE_ROOT / "configs" / "metadata.json"),
    "config_file": str(BUNDLE_ROOT / "configs" / "inference.yaml"),
}
ANY_SIZE = {"input_names": ["image"], "output_names": ["logits"], "dynamic_axes": {"image": [0, 2, 3, 4]}}

every_size = pytest.mark.parametrize(
    "shape",
    [
        pytest.param((1, 1, 48, 48, 32), id="one window of the default size, which the export saw"),
        pytest.param((2, 1, 32, 64, 48), id="two windows of another size"),
        pytest.param((1, 1, 40, 45, 29), id="a size that the network pads"),
    ],
)


@pytest.fixture(scope="module")
def network() -> ResUNet:
    config = ConfigParser()
    config.read_config(SOURCE["config_file"])
    network = config.get_parsed_content("network_def")
    network.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    return network.eval()


@pytest.fixture(scope="module")
def torchscript(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("torchscript") / "model.ts"
    monai.bundle.ckpt_export(filepath=str(path), **SOURCE)
    return path


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    monai.bundle.onnx_export(filepath=str(path), converter_kwargs=ANY_SIZE, **SOURCE)
    return path


@pytest.fixture(scope="module")
def openvino_ir(onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Converted from ONNX by the command of OpenVINO's package."""
    path = tmp_path_factory.mktemp("openvino") / "model.xml"
    command = [str(Path(sys.executable).with_name("ovc")), str(onnx), "--output_model", str(path)]
    subprocess.run([*command, "--compress_to_fp16=False"], check=True, capture_output=True)
    return path


def windows(shape: tuple[int, ...]) -> torch.Tensor:
    """Random windows in the scaled range of HU."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def expected(network: ResUNet, inputs: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return network(inputs).numpy()


def computed_by_openvino(path: Path, inputs: torch.Tensor) -> np.ndarray:
    """What OpenVINO, which reads ONNX too, computes in float32."""
    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return model([inputs.numpy()])[0]


@every_size
def test_torchscript(shape: tuple[int, ...], network: ResUNet, torchscript: Path) -> None:
    inputs = windows(shape)
    with torch.no_grad():
        outputs = torch.jit.load(str(torchscript))(inputs).numpy()
    assert np.allclose(outputs, expected(network, inputs), rtol=0, atol=1e-4)


@every_size
@pytest.mark.slow
def test_onnx(shape: tuple[int, ...], network: ResUNet, onnx: Path) -> None:
    inputs = windows(shape)
    assert np.allclose(computed_by_openvino(onnx, inputs), expected(network, inputs), rtol=0, atol=1e-4)


@pytest.mark.slow
@every_size
def test_openvino(shape: tuple[int, ...], network: ResUNet, openvino_ir: Path) -> None:
    inputs = windows(shape)
    assert np.allclose(computed_by_openvino(openvino_ir, inputs), expected(network, inputs), rtol=0, atol=1e-4)


def test_the_overlay_of_tensorrt_predicts_by_its_file(
    torchscript: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT needs a GPU; in its place the file holds TorchScript, and nothing the package that loads the engine."""
    monkeypatch.setitem(sys.modules, "torch_tensorrt", types.ModuleType("torch_tensorrt"))
    bundle = tmp_path / "bundle"
    for folder in ("configs", "scripts"):
        shutil.copytree(BUNDLE_ROOT / folder, bundle / folder)
    (bundle / "models").mkdir()
    write_scan(tmp_path / "scans", "test", 501, fractures=2)

    def predict(output_dir: Path, *overlays: str, **settings: Any) -> np.ndarray:
        files = [str(bundle / "configs" / name) for name in ("inference.yaml", *overlays)]
        settings |= {"bundle_root": str(bundle), "dataset_dir": str(tmp_path / "scans"), "output_dir": str(output_dir)}
        settings |= {"device": "cpu", "num_workers": 0, "outputs::pictures": False, "outputs::probabilities": True}
        prediction = ConfigWorkflow(files, workflow_type="inference", logging_file=False, **settings)
        prediction.initialize()
        prediction.run()
        return np.asarray(nib.load(output_dir / "probabilities" / "RibFrac501.nii.gz").dataobj)

    shutil.copy(torchscript, bundle / "models" / "model_trt.ts")
    found = predict(tmp_path / "tensorrt", "inference_trt.yaml")
    shutil.copy(WEIGHTS, bundle / "models")
    by_torch = predict(tmp_path / "torch", engine="torch", amp=False, **{"large_windows::roi_size": None})
    assert found.any() and np.allclose(found, by_torch, rtol=1e-3, atol=0)

"""The mean of the weights of several trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import BUNDLE_ROOT, CHANNELS

from scripts.commands.average import average_weights, main
from scripts.networks import ResUNet


def test_the_mean_is_that_of_each_weight_and_counts_are_those_of_the_first() -> None:
    first = {"weight": torch.tensor([1.0, 2.0]), "batches": torch.tensor(7)}
    second = {"weight": torch.tensor([3.0, -2.0], dtype=torch.float16), "batches": torch.tensor(9)}
    mean = average_weights([first, second, second])
    torch.testing.assert_close(mean["weight"], torch.tensor([7 / 3, -2 / 3]))
    assert mean["batches"] == 7
    mean["batches"] += 1
    assert first["batches"] == 7


@pytest.mark.parametrize(
    "other", [{"weight": torch.zeros(3)}, {"weight": torch.zeros(2), "more": torch.zeros(1)}, {"bias": torch.zeros(2)}]
)
def test_weights_of_other_networks_are_refused(other: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="weights of different networks have no mean"):
        average_weights([{"weight": torch.zeros(2)}, other])


@pytest.fixture
def trainings(tmp_path: Path) -> dict[str, Any]:
    """Two files of weights of a small network, and the overlay that makes it that of the config."""
    files = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        network = ResUNet(
            channels=CHANNELS, stem_stride=2, act="LEAKYRELU", upsample_mode="nontrainable", straight_ribs=True
        )
        for module in network.straight_ribs.modules():
            if isinstance(module, torch.nn.BatchNorm3d):
                module.running_mean.fill_(float(seed))
        torch.save(network.state_dict(), tmp_path / f"{seed}.pt")
        files.append(str(tmp_path / f"{seed}.pt"))
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(yaml.safe_dump({"network_def::channels": CHANNELS, "device": "cpu"}))
    return {"files": files, "configs": [str(BUNDLE_ROOT / "configs" / "train.yaml"), str(overlay)]}


def test_command_writes_weights_of_the_same_network(
    trainings: dict[str, Any], ribfrac_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "mean.pt"
    command = ["--weights", *trainings["files"], "--dataset_dir", str(ribfrac_dir), "--output", str(output)]
    command += ["--config_file", *trainings["configs"], "--cache_dir", str(tmp_path / "cache"), "--passes", "1"]
    main([*command, "--workers", "0"])
    assert f"{output}: the mean of 2 trainings" in capsys.readouterr().out
    first, second, mean = (torch.load(path, weights_only=True) for path in [*trainings["files"], output])
    assert list(mean) == list(first)
    learned = [name for name, value in mean.items() if "running" not in name and value.is_floating_point()]
    for name in learned:
        torch.testing.assert_close(mean[name], (first[name] + second[name]) / 2)
    statistics = [name for name in mean if "running_mean" in name]
    assert statistics and all(mean[name].abs().max() > 0 for name in statistics)  # untrained ones are 0
    along_ribs = [mean[name] for name in statistics if name.startswith("straight_ribs.")]
    assert along_ribs and all((values == 1.5).all() for values in along_ribs)  # no ROI changes them


def test_trainings_along_the_ribs_leave_the_statistics_of_the_windows(
    trainings: dict[str, Any], ribfrac_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (torch.load(path, weights_only=True) for path in trainings["files"])
    kept = {name: value for name, value in first.items() if not name.startswith("straight_ribs.")}
    torch.save(second | kept, trainings["files"][1])
    output = tmp_path / "mean.pt"
    command = ["--weights", *trainings["files"], "--dataset_dir", str(ribfrac_dir), "--output", str(output)]
    main([*command, "--config_file", *trainings["configs"], "--cache_dir", str(tmp_path / "cache")])
    assert "of the network along the ribs" in capsys.readouterr().out and not (tmp_path / "cache").exists()
    mean = torch.load(output, weights_only=True)
    assert all(torch.equal(mean[name], value) for name, value in kept.items())
    differing = [name for name in mean if name not in kept and mean[name].is_floating_point()]
    for name in differing:
        torch.testing.assert_close(mean[name], (first[name] + second[name]) / 2)
    assert any(not torch.equal(mean[name], first[name]) for name in differing)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([0], "give two or more"),
        ([0, "none.pt"], "does not exist"),
        ([0, "text.pt"], "is no file of weights"),
        (["other.pt", "other.pt"], "not of the network in the config"),
    ],
)
def test_command_refuses_in_one_sentence(
    files: list[Any],
    message: str,
    trainings: dict[str, Any],
    ribfrac_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "text.pt").write_text("text")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    paths = [trainings["files"][file] if isinstance(file, int) else str(tmp_path / file) for file in files]
    output = tmp_path / "mean.pt"
    command = ["--weights", *paths, "--dataset_dir", str(ribfrac_dir), "--output", str(output)]
    with pytest.raises(SystemExit):
        main([*command, "--config_file", *trainings["configs"], "--cache_dir", str(tmp_path / "cache")])
    assert message in capsys.readouterr().err and not output.exists()

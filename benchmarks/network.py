"""
Time a training step and a prediction of the report's network and of ours, on windows of one size, on the CPU.

    python benchmarks/network.py --threads 2

A row for each, as it is and compiled (``torch.compile``, some minutes, and a C++ compiler): parameters, milliseconds a
window in training (forward, loss, backward, update) and in prediction, in bfloat16, the least of three runs; and how
many times as fast as the first row it is.
"""

import argparse
import sys
from itertools import product
from pathlib import Path

import torch
from monai.bundle import ConfigParser
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
BUNDLE_DIR = ROOT / "bundle"
sys.path[:0] = [str(ROOT), str(BUNDLE_DIR)]

from benchmarks.timing import least_seconds  # noqa: E402

__all__ = ["main", "step_times"]

NETWORKS = {"report": ["train.yaml", "report.yaml"], "ours": ["train.yaml"]}


def step_times(configs: list[str], size: int, windows: int, compiled: bool) -> tuple[int, float, float]:
    """
    Time the network of a training's configs.

    Args:
        configs: names of the configs, in their order.
        size: edge of a window in voxels.
        windows: windows that go through at once.
        compiled: whether the network is compiled.

    Returns:
        its parameters, and seconds a window in training and in prediction.
    """
    parser = ConfigParser()
    parser.read_config([str(BUNDLE_DIR / "configs" / name) for name in configs])
    parser["bundle_root"], parser["device"] = str(BUNDLE_DIR), "cpu"
    network, loss, optimizer = (parser.get_parsed_content(name) for name in ("network", "loss", "optimizer"))
    if compiled:
        network.compile()
    image = torch.randn(windows, 1, size, size, size)
    label = (torch.rand_like(image) > 0.97).float()

    def train() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = network.train()(image)
        optimizer.zero_grad()
        loss(outputs, label).backward()
        optimizer.step()

    @torch.no_grad()
    def predict() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            network.eval()(image)

    return _parameters(network), least_seconds(train) / windows, least_seconds(predict) / windows


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="threads to compute with")
    parser.add_argument("--size", type=int, default=64, help="edge of a window, voxels")
    parser.add_argument("--windows", type=int, default=4, help="windows at once")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{'network':<18}{'parameters':>12}{'training ms':>13}{'times':>7}{'prediction ms':>15}{'times':>7}")
    first: tuple[float, float] | None = None
    for (name, configs), compiled in product(NETWORKS.items(), (False, True)):
        parameters, training, prediction = step_times(configs, options.size, options.windows, compiled)
        first = first or (training, prediction)
        print(
            f"{name + ', compiled' * compiled:<18}{parameters:>12,}{training * 1e3:>13.0f}{first[0] / training:>7.1f}"
            f"{prediction * 1e3:>15.1f}{first[1] / prediction:>7.1f}"
        )


if __name__ == "__main__":
    main()

"""Sliding windows against a plain triple loop."""

from __future__ import annotations

import itertools

import pytest
import torch
from monai.inferers import SimpleInferer
from torch import nn

from scripts.inferers import AutocastInferer, FlipAveragingInferer, SlidingWindowProbabilityInferer


class PlaceNet(nn.Module):
    """Logits that depend on the voxel's place in the window as well as on its value."""

    def forward(self, x):
        h, w, d = (torch.linspace(-1, 1, size) for size in x.shape[2:])
        return 3 * x + h[:, None, None] - 2 * w[:, None] + d


def starts(size, window, stride):
    """Starts of the windows along an axis: every stride voxels, the last one moved back to end with the scan."""
    return sorted({min(start, size - window) for start in range(0, max(size - window, 0) + stride, stride)})


def mean_over_windows(image, window, stride):
    total, count = torch.zeros_like(image), torch.zeros_like(image)
    for h, w, d in itertools.product(*(starts(size, window, stride) for size in image.shape[2:])):
        place = (..., slice(h, h + window), slice(w, w + window), slice(d, d + window))
        total[place] += PlaceNet()(image[place]).sigmoid()
        count[place] += 1
    return total / count


@pytest.mark.parametrize(
    "size",
    [
        pytest.param((32, 32, 32), id="sizes that the stride divides"),
        pytest.param((21, 37, 16), id="sizes that it does not divide"),
    ],
)
def test_equals_the_mean_of_probabilities_over_windows(size):
    image = torch.randn(1, 1, *size, generator=torch.Generator().manual_seed(0))
    inferer = SlidingWindowProbabilityInferer(roi_size=16, sw_batch_size=3, overlap=0.5, mode="constant")
    assert torch.allclose(inferer(image, PlaceNet()), mean_over_windows(image, 16, 8), atol=1e-5)


def test_windows_of_the_report():
    """64³ at stride 32: along 100 voxels the windows start at 0, 32 and 36."""
    assert starts(100, 64, 32) == [0, 32, 36]
    image = torch.randn(1, 1, 100, 64, 70, generator=torch.Generator().manual_seed(0))
    inferer = SlidingWindowProbabilityInferer(roi_size=(64, 64, 64), overlap=0.5)
    assert torch.allclose(inferer(image, PlaceNet()), mean_over_windows(image, 64, 32), atol=1e-5)


def test_a_scan_smaller_than_the_window_is_padded_with_air():
    windows = []

    def network(window):
        windows.append(window)
        return window

    image = torch.full((1, 1, 10, 16, 20), 0.25)
    inferer = SlidingWindowProbabilityInferer(roi_size=16, overlap=0.5, cval=-1.0)
    probability = inferer(image, network)
    assert probability.shape == image.shape
    assert torch.allclose(probability, torch.tensor(0.25).sigmoid())
    # 6 of 16 rows are air: 3 before and 3 behind
    assert all((window == -1).sum() == 6 * 16 * 16 for window in windows)


def test_probabilities_are_averaged_not_logits():
    class FirstWindowCertain(nn.Module):
        calls = 0

        def forward(self, x):
            FirstWindowCertain.calls += 1
            return torch.full_like(x, 100.0 if FirstWindowCertain.calls == 1 else -1.0)

    inferer = SlidingWindowProbabilityInferer(roi_size=(4, 4, 4), sw_batch_size=1, overlap=0.5)
    probability = inferer(torch.zeros(1, 1, 6, 4, 4), FirstWindowCertain())
    # voxels 2 and 3 lie in both windows: (1 + sigmoid(-1)) / 2, where averaged logits give sigmoid(49.5) = 1
    expected = (1 + torch.tensor(-1.0).sigmoid()) / 2
    assert torch.allclose(probability[0, 0, 2:4], expected)


def test_windows_with_too_little_bone_are_skipped_and_count_as_nothing():
    seen = []

    def network(windows):
        seen.append(len(windows))
        return torch.full_like(windows, 100.0)

    image = torch.zeros(1, 1, 16, 4, 4)  # windows start at 0, 2, 4 ... 12
    image[..., 3, 0, :3] = 0.5
    inferer = SlidingWindowProbabilityInferer(
        roi_size=(4, 4, 4), sw_batch_size=2, overlap=0.5, bone_level=0.4, min_bone_voxels=3
    )
    probability = inferer(image, network)[0, 0, :, 0, 0]
    assert sum(seen) == 2  # those at 0 and 2 hold the three voxels
    # rows 4 and 5 also lie in the window at 4, which is skipped
    assert probability[:6].tolist() == [1, 1, 1, 1, 0.5, 0.5] and not probability[6:].any()
    inferer.min_bone_voxels = 4
    assert not inferer(image, network).any() and sum(seen) == 2


@pytest.mark.parametrize("enabled, dtype", [(True, torch.bfloat16), (False, torch.float32)], ids=["on", "off"])
def test_autocast_on_a_cpu(enabled, dtype):
    convolution = nn.Conv3d(1, 1, 3)
    inferer = AutocastInferer(SimpleInferer(), enabled=enabled)
    assert inferer(torch.zeros(1, 1, 4, 4, 4), convolution).dtype == dtype


def test_probabilities_are_float32_under_autocast():
    inferer = AutocastInferer(SlidingWindowProbabilityInferer(roi_size=(4, 4, 4)), enabled=True)
    probability = inferer(torch.zeros(1, 1, 6, 6, 6), nn.Conv3d(1, 1, 3, padding=1))
    assert probability.dtype == torch.float32


def test_flips_are_averaged_back_in_place():
    image = torch.rand(1, 1, 4, 6, 5)
    found = FlipAveragingInferer(SimpleInferer(), [[0], [0, 2]])(image, PlaceNet())
    h, w, d = (torch.linspace(-1, 1, size) for size in image.shape[2:])
    # of the three predictions height counts as h, -h and -h, depth as d, d and -d
    assert torch.allclose(found, 3 * image - h[:, None, None] / 3 - 2 * w[:, None] + d / 3, atol=1e-6)


def test_without_flips_the_inferer_runs_once():
    image = torch.rand(1, 1, 4, 6, 5)
    assert torch.equal(FlipAveragingInferer(SimpleInferer())(image, PlaceNet()), PlaceNet()(image))

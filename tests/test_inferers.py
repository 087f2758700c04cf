"""Sliding windows against a plain triple loop."""

from __future__ import annotations

import copy
import itertools
import os

import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SimpleInferer, SlidingWindowInferer
from torch import nn

from scripts import engines
from scripts.inferers import (
    AutocastInferer,
    EngineInferer,
    FlipAveragingInferer,
    SlidingWindowProbabilityInferer,
    TwoPassInferer,
    box_sums,
    warm_up,
)
from scripts.networks import ResUNet

pytestmark = pytest.mark.processor


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


def test_only_bone_that_is_near_counts():
    seen = []

    def network(windows):
        seen.append(len(windows))
        return torch.full_like(windows, 100.0)

    image = torch.full((1, 1, 16, 4, 4), 0.5)  # bone everywhere, windows at 0, 2, 4 ... 12
    near = torch.zeros(1, 1, 16, 4, 4, dtype=torch.bool)
    near[:, :, 3] = True
    inferer = SlidingWindowProbabilityInferer(
        roi_size=(4, 4, 4), sw_batch_size=2, overlap=0.5, bone_level=0.4, min_bone_voxels=16
    )
    probability = inferer(image, network, near=near)[0, 0, :, 0, 0]
    assert sum(seen) == 2  # those at 0 and 2 hold row 3
    assert probability[:4].tolist() == [1, 1, 1, 1] and not probability[6:].any()
    assert not inferer(image, network, near=torch.zeros_like(near)).any() and sum(seen) == 2
    small = inferer(
        image[:, :, :3], network, near=near[:, :, 1:4]
    )  # smaller than a window: padded with what is not near
    assert small.shape == (1, 1, 3, 4, 4) and small.all()


def test_what_is_near_is_flipped_with_the_scan():
    def inferer(inputs, network, near):
        return inputs * near

    image, near = torch.arange(8.0).reshape(1, 1, 8, 1, 1), torch.zeros(1, 1, 8, 1, 1, dtype=torch.bool)
    near[:, :, 2] = True
    found = FlipAveragingInferer(inferer, [[0]])(image, None, near=near)
    assert found.flatten().tolist() == [0, 0, 2, 0, 0, 0, 0, 0]


def test_all_batches_but_the_last_are_full():
    seen = []

    def network(windows):
        seen.append(len(windows))
        return windows

    image = torch.zeros(1, 1, 34, 4, 4)  # windows start at 0, 2 ... 30
    image[..., ::8, 0, :1] = 1.0  # two of four windows hold none
    SlidingWindowProbabilityInferer((4, 4, 4), 3, 0.5, bone_level=0.5, min_bone_voxels=1)(image, network)
    assert seen == [3, 3, 2]


def network_of_a_small_device(most: int, seen: list[int]):
    """A network that has memory for so many windows at a time."""

    def network(windows):
        seen.append(len(windows))
        if len(windows) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return windows

    return network


def test_where_memory_is_short_fewer_windows_are_taken_at_a_time(caplog):
    image = torch.randn(1, 1, 80, 16, 16)  # nine windows
    seen: list[int] = []
    inferer = SlidingWindowProbabilityInferer((16, 16, 16), sw_batch_size=8, overlap=0.5)
    result = inferer(image, network_of_a_small_device(3, seen))
    assert seen == [8, 4, 2, 2, 2, 2, 1]
    torch.testing.assert_close(result, SlidingWindowProbabilityInferer((16, 16, 16), 1, 0.5)(image, lambda x: x))
    assert [record.getMessage()[-27:] for record in caplog.records] == [
        "now on 4 windows at a time.",
        "now on 2 windows at a time.",
    ]
    inferer(image, network_of_a_small_device(3, seen))
    assert max(seen[7:]) == 2


def test_no_memory_for_one_window_is_an_error():
    with pytest.raises(torch.OutOfMemoryError, match="a single window: .* --device cpu"):
        SlidingWindowProbabilityInferer((16, 16, 16), 2)(
            torch.zeros(1, 1, 20, 16, 16), network_of_a_small_device(0, [])
        )


class OnGPU(torch.Tensor):
    """Says that it lies on a GPU, which no test has, and notes when it leaves it."""

    moves: list[str] = []

    @property
    def device(self):
        return torch.device("cuda:0")

    def to(self, device):
        self.moves.append(f"scan to {device}")
        return self.as_subclass(OnCPU)


class OnCPU(torch.Tensor):
    def to(self, device):
        OnGPU.moves.append(f"result to {device}")
        return self


class MovableNet(nn.Identity):
    def to(self, device):
        OnGPU.moves.append(f"network to {device}")
        return self


def short_of_memory(inputs, network):
    """An inferer for which the GPU has no memory."""
    if isinstance(inputs, OnGPU):
        raise torch.OutOfMemoryError("CUDA out of memory")
    return network(inputs) + 1


def test_a_scan_that_no_gpu_memory_holds_is_predicted_on_the_cpu(caplog):
    OnGPU.moves.clear()
    scan = torch.arange(8.0).reshape(1, 1, 2, 2, 2)
    found = EngineInferer(short_of_memory, "torch", False)(scan.as_subclass(OnGPU), MovableNet())
    assert torch.equal(found.as_subclass(torch.Tensor), scan + 1)
    assert OnGPU.moves == ["scan to cpu", "network to cpu", "network to cuda:0", "result to cuda:0"]
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("cuda:0 has no memory for this scan, which the CPU predicts instead")


@pytest.mark.parametrize(
    "device, network",
    [
        pytest.param(torch.Tensor, MovableNet(), id="a CPU without memory"),
        pytest.param(OnGPU, torch.jit.script(nn.Identity()), id="a network that was compiled for the GPU"),
    ],
)
def test_where_there_is_no_way_out_the_error_is_told(device, network):
    def inferer(inputs, network):
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        EngineInferer(inferer, "torch", False)(torch.zeros(1, 1, 2, 2, 2).as_subclass(device), network)


def test_the_network_returns_to_the_gpu_when_the_cpu_fails_too():
    OnGPU.moves.clear()

    def inferer(inputs, network):
        raise torch.OutOfMemoryError("out of memory") if isinstance(inputs, OnGPU) else ValueError("other")

    with pytest.raises(ValueError, match="other"):
        EngineInferer(inferer, "torch", False)(torch.zeros(1, 1, 2, 2, 2).as_subclass(OnGPU), MovableNet())
    assert OnGPU.moves[-1] == "network to cuda:0"


@pytest.mark.parametrize(
    "device, gpus, message",
    [
        pytest.param("cpu", 0, None, id="a CPU"),
        pytest.param("cuda:1", 2, None, id="the second of two GPUs"),
        pytest.param("cuda", 1, None, id="any GPU"),
        pytest.param("cuda:0", 0, "device is cuda:0, but torch sees no GPU.*--device cpu", id="no GPU"),
        pytest.param("cuda:1", 1, "torch sees cuda:0 alone", id="the second of one"),
        pytest.param("cuda:2", 2, "torch sees cuda:0 to cuda:1", id="the third of two"),
        pytest.param("gpu", 1, "device is 'gpu', which torch does not know: give cpu or cuda:0", id="no device"),
    ],
)
def test_a_device_that_is_not_there_is_refused(monkeypatch, device, gpus, message):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    if message is None:
        return engines.check_device(device)
    with pytest.raises(ValueError, match=message):
        engines.check_device(device)


@pytest.mark.parametrize(
    "amp, engine, instructions, warned",
    [
        pytest.param(True, "torch", {"avx2": True}, True, id="emulated"),
        pytest.param("true", "torch", {"avx2": True}, True, id="as text"),
        pytest.param(True, "openvino", {"avx2": True}, False, id="OpenVINO takes float32"),
        pytest.param(True, "torch", {"avx512_bf16": True}, False, id="fast"),
        pytest.param("auto", "torch", {"avx2": True}, False, id="auto"),
        pytest.param(False, "torch", {"avx2": True}, False, id="float32"),
    ],
)
def test_a_precision_that_the_cpu_emulates_is_warned_of(amp, engine, instructions, warned, monkeypatch, caplog):
    processor_of(monkeypatch, instructions)
    engines.check_device("cpu", amp, engine)
    assert [message.startswith("amp is true, but this CPU only emulates") for message in caplog.messages] == (
        [True] if warned else []
    )


def test_there_is_no_such_precision():
    with pytest.raises(ValueError, match="amp is 'half': give auto, true or false"):
        engines.check_device("cpu", "half")


def test_equals_monais_sliding_window_with_gaussian_weights():
    """Places and weights are MONAI's, with the sigmoid inside."""
    image = torch.randn(2, 1, 21, 37, 12, generator=torch.Generator().manual_seed(0))
    settings = {"roi_size": (16, 12, 16), "sw_batch_size": 4, "overlap": (0.5, 0.25, 0.6), "mode": "gaussian"}
    expected = SlidingWindowInferer(**settings, cval=-1.0)(image, lambda windows: PlaceNet()(windows).sigmoid())
    found = SlidingWindowProbabilityInferer(**settings, cval=-1.0)(image, PlaceNet())
    assert torch.allclose(found, expected, atol=1e-6)


def test_the_scans_place_is_kept():
    image = MetaTensor(torch.zeros(1, 1, 8, 8, 8), affine=torch.diag(torch.tensor([0.7, 0.7, 1.2, 1.0])))
    found = SlidingWindowProbabilityInferer(8)(image, nn.Identity())
    assert isinstance(found, MetaTensor) and torch.equal(found.affine, image.affine)


@pytest.mark.parametrize(
    "arguments, shape, message",
    [
        pytest.param({"overlap": 1.0}, None, "overlap must be in", id="an overlap that never ends"),
        pytest.param({"bone_margin": 1.5}, None, "bone_margin must be in", id="a margin beyond the neighbors' middle"),
        pytest.param({}, (1, 2, 8, 8, 8), "must have shape", id="two channels"),
        pytest.param({}, (1, 8, 8, 8), "must have shape", id="no batch"),
    ],
)
def test_what_cannot_be_predicted_is_told(arguments, shape, message):
    with pytest.raises(ValueError, match=message):
        SlidingWindowProbabilityInferer(8, **arguments)(torch.zeros(shape), nn.Identity())


def test_box_sums_count_each_box():
    mask = torch.rand(9, 7, 8, generator=torch.Generator().manual_seed(0)) > 0.5
    ranges = [[(0, 4), (3, 7), (5, 9)], [(0, 5), (1, 7)], [(0, 8)]]
    sums = box_sums(mask, ranges)
    for (i, h), (j, w), (k, d) in itertools.product(*map(enumerate, ranges)):
        assert sums[i, j, k] == mask[slice(*h), slice(*w), slice(*d)].sum()


@pytest.mark.parametrize(
    "bone, starts",
    [
        pytest.param(0, [0], id="at the scan's end"),
        pytest.param(1, [0], id="in the margin of no other window"),
        pytest.param(6, [4], id="in the middle of one window, in the margin of two"),
        pytest.param(8, [6], id="at the inner edge"),
        pytest.param(14, [11], id="of the window that is moved back to end with the scan"),
    ],
)
def test_bone_counts_in_the_middle_of_windows_and_at_the_scans_ends(bone, starts):
    seen = []

    def network(windows):
        seen.extend(windows.amax((1, 3, 4)).argmax(1).tolist())
        return windows

    image = torch.zeros(1, 1, 15, 4, 4)  # windows of 4 start at 0, 2 ... 10, 11
    image[0, 0, bone, 0, 0] = 1
    inferer = SlidingWindowProbabilityInferer((4, 4, 4), 2, 0.5, bone_level=0.5, min_bone_voxels=1, bone_margin=1.0)
    inferer(image, network)
    assert [bone - place for place in seen] == starts


def test_beyond_its_margin_a_window_fades_where_its_neighbors_do_not_count():
    image = torch.zeros(1, 1, 40, 16, 16)  # windows of 16 start at 0, 8, 16, 24
    image[..., 18, 8, 8] = 1  # within the margin of the window at 8, from 12 to 19, and in that of the one at 16
    settings = {"roi_size": 16, "overlap": 0.5, "mode": "gaussian", "bone_level": 0.5, "min_bone_voxels": 1}
    inferer = SlidingWindowProbabilityInferer(**settings, bone_margin=1.0)
    seen = []

    def sure(windows):
        seen.append(len(windows))
        return torch.full_like(windows, 100.0)

    probability = inferer(image, sure)[0, 0, :, 8, 8]
    assert sum(seen) == 1
    assert (probability[14:20] > 0.9).all()  # the window at 16 does not count
    falling = probability[19:24]
    assert (falling.diff() <= 0).all() and falling[-1] < 0.1
    assert not probability[:8].any() and not probability[24:].any()


def test_every_voxel_counts_in_some_window():
    for shape, overlap in itertools.product([(15, 9, 12), (31, 8, 23)], [0.5, 0.25]):
        inferer = SlidingWindowProbabilityInferer(8, 1, overlap, bone_margin=1.0)
        for axis, size in enumerate(shape):
            inner = inferer._inner(axis, inferer._starts(axis, size), size)
            assert set().union(*(range(*ends) for ends in inner)) == set(range(size))


# ---- engines ----


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = ResUNet(channels=(4, 8), stem_stride=2, upsample_mode="nontrainable", act="LEAKYRELU")
    network(torch.randn(2, 1, 16, 16, 16))  # the normalization has seen something
    return network.eval()


@pytest.fixture
def image():
    return torch.randn(1, 1, 20, 16, 18, generator=torch.Generator().manual_seed(0))


def processor_of(monkeypatch, instructions):
    """What torch tells of the CPU; nothing is switched off."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions, raising=False)
    for variable in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(variable, raising=False)


def windows_of_16():
    return SlidingWindowProbabilityInferer(16, sw_batch_size=3, overlap=0.5)


@pytest.mark.parametrize("amp, tolerance", [(False, 1e-5), (True, 0.02)], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_engines_agree(network, image, engine, amp, tolerance):
    if amp and engine == "openvino" and not engines.has_fast_bfloat16(torch.device("cpu")):
        pytest.skip("this processor has no bfloat16 (AVX-512 BF16 or AMX), and OpenVINO does not emulate it")
    with torch.no_grad():
        expected = windows_of_16()(image, network)
        found = EngineInferer(windows_of_16(), engine, amp)(image, network)
    assert found.dtype == torch.float32
    assert torch.allclose(found, expected, atol=tolerance)
    assert amp != torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("amp", ["auto", True])
def test_openvino_computes_in_float32_where_bfloat16_is_not_fast(network, image, monkeypatch, caplog, amp):
    processor_of(monkeypatch, {"avx2": True, "avx512_bf16": False})
    with torch.no_grad(), caplog.at_level("INFO", logger="scripts.inferers"):
        found = EngineInferer(windows_of_16(), "openvino", amp)(image, network)
        assert torch.allclose(found, windows_of_16()(image, network), atol=1e-5)
    assert caplog.messages == ["The network is computed by openvino on cpu in float32."]


@pytest.mark.slow
def test_openvino_compiles_once_and_anew_for_other_weights(network, image, monkeypatch):
    compiled = []
    compile_ = engines.OpenVINONetwork._compile
    monkeypatch.setattr(
        engines.OpenVINONetwork, "_compile", lambda self, shape: compiled.append(shape) or compile_(self, shape)
    )
    network = copy.deepcopy(network).train()
    inferer = EngineInferer(windows_of_16(), "openvino", False)
    with torch.no_grad():
        first = [inferer(image, network) for _ in range(2)]
        assert torch.equal(*first) and compiled == [(1, 16, 16, 16)]
        assert network.training  # as it was
        network.heads[-1].bias += 1.0
        assert (inferer(image, network) > first[0]).all() and len(compiled) == 2
        network.load_state_dict({key: value * 0 for key, value in network.state_dict().items()})
        assert torch.allclose(inferer(image, network), torch.tensor(0.5)) and len(compiled) == 3


@pytest.mark.slow
def test_openvino_compiles_before_the_first_scan(network, image, monkeypatch):
    compiled = []
    compile_ = engines.OpenVINONetwork._compile
    monkeypatch.setattr(
        engines.OpenVINONetwork, "_compile", lambda self, shape: compiled.append(shape) or compile_(self, shape)
    )
    inferer = EngineInferer(windows_of_16(), "openvino", False)
    with torch.no_grad():
        warm_up(inferer, network, "cpu", [16, 16, 16])
        assert compiled == [(1, 16, 16, 16)]
        inferer(image, network)
    assert len(compiled) == 1


@pytest.mark.parametrize("engine", ["auto", "torch"])
def test_torch_is_not_called_before_the_first_scan(monkeypatch, engine):
    processor_of(monkeypatch, {"avx512_bf16": True})
    warm_up(EngineInferer(windows_of_16(), engine), FailingNet(), "cpu", [16, 16, 16])
    warm_up(windows_of_16(), FailingNet(), "cpu", [16, 16, 16])


class FailingNet(nn.Module):
    """Must not be called."""

    def forward(self, windows):
        raise AssertionError("it was called")


class OwnOperationNet(nn.Module):
    """Computes by an operation that OpenVINO does not know."""

    def forward(self, windows):
        return torch.special.bessel_j0(windows)


class ForgetfulNet(nn.Module):
    """Computes by NumPy, where tracing sees a constant."""

    def forward(self, windows):
        return torch.from_numpy(windows.numpy() / 2)


@pytest.mark.parametrize(
    "net, reason", [(OwnOperationNet, "cannot convert it"), (ForgetfulNet, "finds something else than torch")]
)
def test_a_network_that_openvino_does_not_compute(image, monkeypatch, caplog, net, reason):
    processor_of(monkeypatch, {"avx2": True})
    with torch.no_grad():
        with pytest.raises(engines.UnconvertedNetworkError, match=f"{net.__name__}, since it {reason}: give --engine"):
            EngineInferer(windows_of_16(), "openvino")(image, net())
        inferer = EngineInferer(windows_of_16(), "auto")
        warm_up(inferer, net(), "cpu", [16, 16, 16])
        for _ in range(2):
            assert torch.equal(inferer(image, net()), windows_of_16()(image, net()))
    told = [message for message in caplog.messages if reason in message]
    assert len(told) == 1 and told[0].endswith("Torch computes it instead.")


@pytest.mark.slow
def test_openvino_predicts_500_scans_in_one_process(network):
    """Early versions crashed in long runs: weights and shapes change, processes fork, and torch computes between."""
    network = copy.deepcopy(network).eval()
    inferer = EngineInferer(windows_of_16(), "openvino", False)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for place in range(500):
            if place % 50 == 0:
                network.heads[-1].bias += 0.01
                inferer.inferer.roi_size = (16, 16, 16 + place // 50 % 2 * 8)
            scan = torch.rand(1, 1, *torch.randint(12, 40, (3,), generator=rng).tolist(), generator=rng)
            found = inferer(scan, network)
            if place % 10 == 0:
                assert torch.allclose(found, inferer.inferer(scan, lambda windows: network(windows)), atol=1e-5)
                child = os.fork()
                if child == 0:
                    os._exit(0)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(
    "device, instructions, installed, expected",
    [
        pytest.param("cpu", {"avx2": True}, True, "openvino", id="a CPU without bfloat16"),
        pytest.param("cpu", {"avx2": True}, False, "torch", id="without the package"),
        pytest.param("cpu", {"avx512_bf16": True}, True, "torch", id="a CPU with bfloat16"),
        pytest.param("cuda", {"avx2": True}, True, "torch", id="a GPU"),
    ],
)
def test_the_automatic_engine(monkeypatch, device, instructions, installed, expected):
    processor_of(monkeypatch, instructions)
    monkeypatch.setattr(engines, "has_openvino", installed)
    assert engines.choose_engine("auto", torch.device(device)) == expected


@pytest.mark.parametrize(
    "device, instructions, expected",
    [
        pytest.param("cpu", {"avx512_bf16": True}, True, id="AVX-512 BF16"),
        pytest.param("cpu", {"bf16": True}, True, id="ARM"),
        pytest.param("cpu", {"avx512_f": True}, False, id="a CPU without it"),
        pytest.param("mps", {"bf16": True}, False, id="another device"),
    ],
)
def test_fast_bfloat16(monkeypatch, device, instructions, expected):
    processor_of(monkeypatch, instructions)
    assert engines.has_fast_bfloat16(torch.device(device)) == expected


@pytest.mark.parametrize(
    "variable, most, bfloat16",
    [
        pytest.param("ONEDNN_MAX_CPU_ISA", "AVX2", False, id="an AVX2 processor's"),
        pytest.param("ONEDNN_MAX_CPU_ISA", "avx2", False, id="in lower case"),
        pytest.param("DNNL_MAX_CPU_ISA", "AVX2", False, id="by the older name"),
        pytest.param("ONEDNN_MAX_CPU_ISA", "AVX2_VNNI_2", False, id="AVX2 that converts bfloat16"),
        pytest.param("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI", False, id="AVX-512 without bfloat16"),
        pytest.param("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16", True, id="AVX-512 BF16 without AMX"),
        pytest.param("ONEDNN_MAX_CPU_ISA", "AVX10_1_512", True, id="AVX10.1 without AMX"),
        pytest.param("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_AMX", True, id="AMX"),
        pytest.param("ONEDNN_MAX_CPU_ISA", "DEFAULT", True, id="no limit"),
        pytest.param("ONEDNN_MAX_CPU_ISA", "AVX3", True, id="a value that oneDNN skips"),
        pytest.param("ONEDNN_MAX_CPU_ISA", "", True, id="empty"),
    ],
)
def test_instructions_that_onednn_may_not_use_do_not_count(monkeypatch, variable, most, bfloat16):
    processor_of(monkeypatch, {"avx512_bf16": True})
    monkeypatch.setattr(engines, "has_openvino", True)
    monkeypatch.setenv(variable, most)
    cpu = torch.device("cpu")
    assert engines.has_fast_bfloat16(cpu) == bfloat16
    assert engines.choose_engine("auto", cpu) == ("torch" if bfloat16 else "openvino")


def test_onednns_own_name_counts_before_the_older_one(monkeypatch):
    processor_of(monkeypatch, {"avx512_bf16": True})
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "DEFAULT")
    monkeypatch.setenv("DNNL_MAX_CPU_ISA", "AVX2")
    assert engines.has_fast_bfloat16(torch.device("cpu"))


def test_an_older_torch_tells_no_instructions(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not engines.has_fast_bfloat16(torch.device("cpu"))


def test_an_engine_that_cannot_compute_there_is_told(monkeypatch):
    with pytest.raises(ValueError, match="computes on a CPU"):
        engines.choose_engine("openvino", torch.device("cuda"))
    with pytest.raises(ValueError, match="fastest"):
        EngineInferer(windows_of_16(), "fastest")
    monkeypatch.setattr(engines, "has_openvino", False)
    with pytest.raises(ImportError, match="is not installed"):
        engines.choose_engine("openvino", torch.device("cpu"))


def test_the_choice_is_logged_once(network, image, caplog):
    inferer = EngineInferer(windows_of_16(), "torch", "false")
    with torch.no_grad(), caplog.at_level("INFO", logger="scripts.inferers"):
        for _ in range(2):
            inferer(image, network)
    assert caplog.messages == ["The network is computed by torch on cpu in float32."]


@pytest.mark.parametrize(
    "amp, instructions, dtype",
    [
        pytest.param(True, {"avx2": True}, torch.bfloat16, id="on"),
        pytest.param("false", {"avx512_bf16": True}, torch.float32, id="off"),
        pytest.param("auto", {"avx512_bf16": True}, torch.bfloat16, id="auto where it is fast"),
        pytest.param("auto", {"avx2": True}, torch.float32, id="auto elsewhere"),
    ],
)
def test_autocast_on_a_cpu(amp, instructions, dtype, monkeypatch):
    processor_of(monkeypatch, instructions)
    convolution = nn.Conv3d(1, 1, 3)
    inferer = AutocastInferer(SimpleInferer(), amp)
    assert inferer(torch.zeros(1, 1, 4, 4, 4), convolution).dtype == dtype


def test_probabilities_are_float32_under_autocast():
    inferer = AutocastInferer(SlidingWindowProbabilityInferer(roi_size=(4, 4, 4)), True)
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


def two_looks(refine_above, seen):
    """Windows of 12, and then of 6, through a network that takes the values for logits; and the sizes it has seen."""

    def network(windows):
        seen.extend(windows.shape[2:3] * len(windows))
        return windows

    first, closer = (SlidingWindowProbabilityInferer(size, sw_batch_size=2, overlap=0.5, cval=-9.0) for size in (12, 6))
    return TwoPassInferer(closer, first, refine_above), network


def test_both_looks_are_averaged():
    image = torch.rand(1, 1, 16, 12, 10)
    first, closer = (SlidingWindowProbabilityInferer(size, sw_batch_size=2, overlap=0.5) for size in (12, 6))
    found = TwoPassInferer(closer, first, 0)(image, PlaceNet())
    torch.testing.assert_close(found, (first(image, PlaceNet()) + closer(image, PlaceNet())) / 2)
    assert not torch.allclose(found, closer(image, PlaceNet()), atol=1e-3), "the sizes differ in what they see"


def test_without_a_first_all_windows_are_shown():
    image = torch.rand(1, 1, 16, 12, 10)
    closer = SlidingWindowProbabilityInferer(6, sw_batch_size=2, overlap=0.5)
    assert torch.equal(TwoPassInferer(closer)(image, PlaceNet()), closer(image, PlaceNet()))


@pytest.mark.parametrize(
    "place, again",
    [
        pytest.param((0, 0, 0), 1, id="in a corner"),
        pytest.param((4, 4, 4), 8, id="where windows overlap"),
        pytest.param(None, 0, id="nowhere"),
    ],
)
def test_the_second_look_is_where_the_first_saw_something(place, again):
    """Windows of 6 start at 0, 3, 6 and so on: the voxel 4 lies in those at 0 and 3, along each axis."""
    image = torch.full((1, 1, 24, 24, 24), -9.0)
    if place is not None:
        image[(0, 0, *place)] = 9.0
    seen = []
    inferer, network = two_looks(0.1, seen)
    found = inferer(image, network)
    assert (seen.count(12), seen.count(6)) == (27, again)
    everywhere, network = two_looks(0, [])
    torch.testing.assert_close(found, everywhere(image, network), atol=1e-3, rtol=0)


def test_what_is_surely_seen_is_as_if_it_looked_everywhere():
    """Above 0.6, the mean of 1 and of the level of 0.2, nothing changes; below it fewer windows count."""
    coarse = torch.randn(1, 1, 5, 5, 4, generator=torch.Generator().manual_seed(0))
    image = 8 * nn.functional.interpolate(coarse, (30, 26, 22), mode="trilinear") - 6

    class SizeNet(nn.Module):
        """Sees something else in windows of either size."""

        def forward(self, x):
            return x + 2 * x.roll(1, dims=2) * (x.shape[2] == 6)

    first, closer = (SlidingWindowProbabilityInferer(size, sw_batch_size=2, overlap=0.5) for size in (12, 6))
    found, full = (TwoPassInferer(closer, first, level)(image, SizeNet()) for level in (0.2, 0))
    surely = full > 0.6
    assert surely.any()
    assert torch.equal(found > 0.6, surely)
    assert torch.equal(found[surely], full[surely])
    assert not torch.equal(found, full)


def test_it_looks_again_at_each_scan_of_a_batch_and_at_padded_ones():
    """A scan of 4 voxels is padded to windows of 6 and of 12; of two scans each is looked at where it has something."""
    image = torch.full((2, 1, 4, 24, 24), -9.0)
    image[0, 0, 0, 0, 0] = image[1, 0, 3, 23, 23] = 9.0
    seen = []
    inferer, network = two_looks(0.1, seen)
    found = inferer(image, network)
    assert seen.count(6) == 2
    assert found.shape == image.shape
    torch.testing.assert_close(found, image.sigmoid(), atol=1e-3, rtol=0)

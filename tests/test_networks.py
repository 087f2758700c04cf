"""The network: shapes, gradients, export."""

from __future__ import annotations

import pytest
import torch

from scripts.networks import ResUNet

pytestmark = pytest.mark.processor

SMALL = (2, 3, 4, 5, 6)


@pytest.mark.parametrize(
    "size",
    [
        pytest.param((16, 16, 16), id="one voxel at the lowest level"),
        pytest.param((32, 48, 16), id="unequal sizes that divide by 16"),
        pytest.param((17, 30, 5), id="sizes that do not divide, one below 16"),
    ],
)
def test_output_has_the_input_size(size):
    network = ResUNet(channels=SMALL).eval()
    assert network(torch.zeros(2, 1, *size)).shape == (2, 1, *size)


def test_training_returns_one_output_per_decoder_level_of_full_size():
    outputs = ResUNet(channels=SMALL, out_channels=2)(torch.randn(2, 1, 20, 16, 33))
    assert [tuple(output.shape) for output in outputs] == [(2, 2, 20, 16, 33)] * 4


def test_full_resolution_comes_first():
    torch.manual_seed(0)
    network = ResUNet(channels=SMALL, norm=("INSTANCE", {"affine": True}))
    x = torch.randn(1, 1, 32, 32, 32)
    supervised = network.train()(x)
    assert torch.allclose(supervised[0], network.eval()(x))
    # a head at 1/8 of the resolution, upsampled trilinearly, changes less from voxel to voxel than one at 1/2
    roughness = [output.diff(dim=2).abs().mean() / output.std() for output in supervised]
    assert roughness[0] > roughness[1] > roughness[2] > roughness[3]


def test_default_size_is_as_documented():
    parameters = sum(parameter.numel() for parameter in ResUNet().parameters())
    assert f"{parameters:,} parameters" in ResUNet.__doc__


def test_an_encoder_of_five_levels_halves_four_times():
    seen = []
    network = ResUNet().eval()
    for block in network.encoder:
        block.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape[1:])))
    network(torch.zeros(1, 1, 32, 32, 32))
    assert seen == [(16, 32, 32, 32), (32, 16, 16, 16), (64, 8, 8, 8), (128, 4, 4, 4), (256, 2, 2, 2)]


def test_gradients_are_right_in_double_precision():
    torch.manual_seed(0)
    network = ResUNet(channels=(2, 3, 4), norm="INSTANCE", act="ELU").double()
    x = torch.randn(1, 1, 8, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda volume: sum(output.mean() for output in network(volume)), x, atol=1e-6)


def test_every_parameter_is_trained():
    network = ResUNet(channels=SMALL)
    sum(output.pow(2).mean() for output in network(torch.randn(2, 1, 32, 32, 32))).backward()
    idle = [name for name, parameter in network.named_parameters() if not parameter.grad.abs().sum() > 0]
    # a bias before batch normalization has no effect
    assert all(name.endswith("conv.bias") for name in idle), idle


@pytest.mark.parametrize("size", [(32, 32, 32), (20, 17, 33)], ids=["of divisible size", "of any size"])
def test_torchscript_agrees(size):
    network = ResUNet(channels=SMALL).eval()
    x = torch.randn(1, 1, *size)
    assert torch.allclose(torch.jit.script(network)(x), network(x), atol=1e-6)


def test_dropout_and_normalization_are_settable():
    network = ResUNet(channels=SMALL, dropout=0.25, norm="INSTANCE")
    kinds = {type(module).__name__ for module in network.modules()}
    assert {"Dropout", "InstanceNorm3d", "PReLU"} <= kinds
    assert not {"BatchNorm3d"} & kinds


def test_one_level_is_refused():
    with pytest.raises(ValueError, match="two levels"):
        ResUNet(channels=(16,))


@pytest.mark.parametrize("size", [pytest.param((32, 48, 16), id="divides"), pytest.param((17, 30, 5), id="does not")])
def test_a_stem_keeps_the_size_of_input_and_outputs(size):
    network = ResUNet(channels=SMALL, stem_stride=(2, 2, 1))
    x = torch.randn(2, 1, *size)
    assert [tuple(output.shape) for output in network(x)] == [(2, 1, *size)] * 4
    assert network.eval()(x).shape == (2, 1, *size)


def test_a_stem_reads_every_voxel():
    network = ResUNet(channels=SMALL, stem_stride=2).eval()
    x = torch.randn(1, 1, 8, 8, 8, requires_grad=True)
    network(x).sum().backward()
    assert (x.grad != 0).all()


def test_the_levels_begin_behind_the_stem():
    network = ResUNet(channels=SMALL, stem_stride=(2, 2, 1)).eval()
    seen = []
    for block in network.encoder:
        block.register_forward_hook(lambda module, inputs, output: seen.append(tuple(inputs[0].shape[1:])))
    network(torch.zeros(1, 1, 64, 32, 16))
    assert seen == [(2, 32, 16, 16), (2, 16, 8, 8), (3, 8, 4, 4), (4, 4, 2, 2), (5, 2, 1, 1)]

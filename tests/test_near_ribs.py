"""Where the windows of a prediction are worth their time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, decollate_batch, list_data_collate
from rib_cages import thorax

from scripts.networks import ResUNet, StraightRibNet
from scripts.runs import PrepareBatchNearRibs
from scripts.transforms import StraightenRibsd

SHAPE = (40, 20, 100)


class Suspecting(StraightRibNet):
    """It suspects a fracture of a probability of 0.1 along the ribs of one number, and none elsewhere."""

    def __init__(self, number: int) -> None:
        super().__init__(channels=(1, 1, 1))
        self.number, self.looks = 2 * (number - 1) / 11 - 1, 0
        torch.nn.init.ones_(self.head.weight)

    def forward(self, ribs: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        self.looks += 1
        number = self.pool_positions(positions)[:, 2]
        return torch.where(abs(number - self.number) < 0.05, np.log(0.1 / 0.9), -9.0)[:, None]


@pytest.fixture
def batch():
    cage = thorax()
    image = MetaTensor(torch.as_tensor((cage.mask > 0) * 800.0)[None].float(), affine=torch.as_tensor(cage.affine))
    return list_data_collate([StraightenRibsd("image")({"image": image, "rib_cage": cage})])


def near_of(prepare: PrepareBatchNearRibs, batch) -> np.ndarray:
    image, label, args, kwargs = prepare(batch, torch.device("cpu"))
    assert label is None and args == () and kwargs.keys() == {"near"}
    assert torch.equal(image, batch["image"]) and kwargs["near"].shape == image.shape
    return kwargs["near"][0, 0].numpy()


def test_without_a_network_all_ribs_count(batch):
    cage = thorax()
    for network in (None, ResUNet(channels=(2, 3)), ResUNet(channels=(2, 3), straight_ribs=True)):
        near = near_of(PrepareBatchNearRibs(9.0, 0.03, network), batch)
        assert np.array_equal(near, cage.surroundings(cage.affine, SHAPE, 9.0))


@pytest.mark.parametrize("within", [False, True], ids=["the network", "within another one"])
def test_only_what_is_suspected_along_the_ribs_counts(batch, within):
    network = Suspecting(5)
    whole = ResUNet(channels=(2, 3), straight_ribs=True)
    whole.straight_ribs = network
    near = near_of(PrepareBatchNearRibs(5.0, 0.03, whole if within else network), batch)
    place = np.rint(np.array([[40, 30, 190], [80, 30, 190], [40, 30, 190 - 22], [40, 30, 190 + 22]]) / 3).astype(int)
    assert near[tuple(place.T)].tolist() == [True, True, False, False]  # the fifth ribs, and their neighbors


@pytest.mark.parametrize("probability", [0.0, 0.2], ids=["none is asked for", "nothing is as probable"])
def test_the_probability_that_counts(batch, probability):
    near = near_of(PrepareBatchNearRibs(9.0, probability, Suspecting(5)), batch)
    assert near.any() == (probability == 0)


def test_the_look_is_kept_in_the_batch(batch):
    network = Suspecting(5)
    near_of(PrepareBatchNearRibs(9.0, 0.03, network), batch)
    assert network.looks == 3 and network.training  # 24 ribs, eight at a time
    logits = decollate_batch(batch)[0]["rib_blocks"].logits
    assert (logits[:, 3] > -3).sum() == 2  # in the middle of the fifth rib of each side


@pytest.mark.parametrize("distance_mm, ribs", [(None, True), (15.0, False)], ids=["no distance", "no ribs"])
def test_without_a_distance_or_ribs_a_fracture_can_be_anywhere(batch, distance_mm, ribs):
    data = batch if ribs else {"image": batch["image"]}
    assert near_of(PrepareBatchNearRibs(distance_mm, 0.03, Suspecting(5)), data).all()


@pytest.mark.parametrize("values, message", [((-1.0, 0.0), "0 or above"), ((1.0, 2.0), "0 to 1")])
def test_values_that_cannot_be_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        PrepareBatchNearRibs(*values)

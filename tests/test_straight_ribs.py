"""The look along straightened ribs: blocks, pieces, the network, and its training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BUNDLE_ROOT
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from rib_cages import RIB_HU, WATER_HU, WAY_MM, ball, image_of, made_cage, on_rib

from scripts.anatomy.straight_ribs import BLOCK_STEP_MM, rib_blocks
from scripts.losses import MaskedBCELoss
from scripts.networks import ResUNet, StraightRibNet
from scripts.transforms import RandCropStraightRibsd, StraightenRibsd

LENGTH_MM = 70 * np.pi / 2 + 60


@pytest.fixture(scope="module")
def cage():
    return made_cage([("left", 5), ("left", 6), ("right", None)])


@pytest.fixture(scope="module")
def annotated(cage):
    """The cage with fracture 1 on the left 6 (25 mm high), and the blocks of its ribs."""
    image = MetaTensor(torch.as_tensor(image_of(cage))[None], affine=torch.as_tensor(cage.affine))
    label = MetaTensor(torch.as_tensor(ball(cage, on_rib(25.0)).astype(np.int16))[None], affine=image.affine)
    return StraightenRibsd("image", "label")({"image": image, "label": label, "rib_cage": cage, "scan": "a"})


# ---- blocks ----


def test_a_block_holds_the_straight_rib_and_what_is_around_it(cage):
    blocks = rib_blocks(image_of(cage), cage.affine, cage, 32, -1000.0)
    assert blocks.values.shape[0] == 3 and blocks.values.shape[1] % 8 == 0 and blocks.values.shape[2:] == (32, 32)
    at = int(np.argmin(abs(blocks.ways_mm - WAY_MM)))
    for block in blocks.values:
        assert block[at, 15:17, 15:17].min() > 0.9 * RIB_HU
        assert abs(block[at, :, [0, -1]]).max() < 1 and abs(block[at, [0, -1]]).max() < 1  # 12 mm off is water
    longest = blocks.lengths.max()
    assert (blocks.values[:, longest:] == -1000).all() and longest == pytest.approx((LENGTH_MM + 20) / 0.8, abs=2)


def test_positions_tell_way_share_and_number(cage):
    blocks = rib_blocks(image_of(cage), cage.affine, cage, 8, 0.0)
    at = int(np.argmin(abs(blocks.ways_mm - WAY_MM)))
    way, share = 2 * WAY_MM / 300 - 1, 2 * WAY_MM / LENGTH_MM - 1
    assert blocks.positions[0, :, at] == pytest.approx([way, share, 2 * 4 / 11 - 1], abs=0.02)
    assert blocks.positions[1, 2, at] == pytest.approx(2 * 5 / 11 - 1, abs=1e-6)
    assert blocks.positions[2, 2, at] == 0  # of unknown number


def test_positions_of_a_rib_whose_ends_are_not_in_the_scan_are_not_known():
    cage = made_cage([("left", 5)], whole=False)
    positions = rib_blocks(image_of(cage), cage.affine, cage, 8, 0.0).positions
    assert not positions[:, :2].any() and positions[:, 2].any()


def test_a_cage_without_ribs_has_no_block(cage):
    empty = type(cage)(cage.mask, cage.affine)
    blocks = rib_blocks(image_of(cage), cage.affine, empty, 32, 0.0)
    assert blocks.values.shape == (0, 0, 32, 32)


def test_the_fracture_lies_on_its_own_rib_where_it_is(cage, annotated):
    fractures = annotated["rib_fractures"]
    assert annotated["rib_blocks"].dtype == np.int16 and annotated["rib_blocks"].shape[2:] == (36, 36)
    where = np.argwhere(fractures > 0)
    assert {cage.ribs[row].name for row in where[:, 0]} == {"left 6"}
    ways = where[:, 1] * BLOCK_STEP_MM - 10
    assert ways.mean() == pytest.approx(WAY_MM, abs=2)
    assert 8 < ways.max() - ways.min() < 14  # of a ball of 12 mm


# ---- pieces ----


def test_pieces_are_cut_with_their_label_and_place(annotated):
    crops = RandCropStraightRibsd("rib_blocks", num_samples=40, length=96, broken_share=1.0, unknown_share=0.0)
    crops.set_random_state(0)
    pieces = crops(annotated)
    assert len(pieces) == 40
    for piece in pieces:
        assert piece["image"].shape == (1, 96, 32, 32) and piece["position"].shape == (3, 96)
        assert piece["label"].shape == (1, 12) and (piece["label"] == 1).any()
        # the label is where the place says that the fracture is
        middle = piece["position"][0].reshape(12, 8).mean(1)[piece["label"][0] == 1]
        assert (abs((middle + 1) / 2 * 300 - WAY_MM) < 10).all()
        assert set(piece["label"].unique().tolist()) <= {-1.0, 0.0, 1.0}


def test_pieces_without_a_fracture_and_beyond_the_end(annotated):
    crops = RandCropStraightRibsd("rib_blocks", num_samples=60, length=96, broken_share=0.0, unknown_share=1.0)
    crops.set_random_state(1)
    pieces = crops(annotated)
    assert not any(piece["position"].any() for piece in pieces)
    beyond = [piece for piece in pieces if (piece["image"] == -1024).all(dim=(0, 2, 3)).any()]
    assert beyond
    for piece in beyond:
        outside = (piece["image"] == -1024).all(dim=3).all(dim=2)[0].reshape(12, 8).any(1)
        assert (piece["label"][0][outside] == -1).all()


def test_a_scan_without_ribs_gives_pieces_that_teach_nothing(cage, annotated):
    empty = {
        key: value[:0] if key.startswith("rib_") else value for key, value in annotated.items() if key != "rib_cage"
    }
    pieces = RandCropStraightRibsd("rib_blocks", num_samples=2)(empty)
    assert all((piece["label"] == -1).all() and (piece["image"] == -1024).all() for piece in pieces)


def test_a_seed_gives_a_scan_the_same_pieces(annotated):
    first, second = (RandCropStraightRibsd("rib_blocks", num_samples=3, seed=4)(annotated) for _ in range(2))
    other = RandCropStraightRibsd("rib_blocks", num_samples=3, seed=5)(annotated)
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(first, second))
    assert not all(torch.equal(a["image"], b["image"]) for a, b in zip(first, other))


@pytest.mark.parametrize(
    "arguments, message",
    [({"broken_share": 1.5}, "broken_share"), ({"unknown_share": -1}, "unknown_share"), ({"length": 100}, "of 8")],
)
def test_pieces_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RandCropStraightRibsd("rib_blocks", **arguments)


# ---- network and loss ----


@pytest.mark.processor
def test_an_untrained_network_says_nothing_and_learns_a_bright_place():
    torch.manual_seed(0)
    network = StraightRibNet(channels=(4, 4, 4), dropout=0.0)
    ribs, positions = torch.randn(6, 1, 64, 32, 32) * 0.1, torch.zeros(6, 3, 64)
    label = torch.zeros(6, 1, 8)
    for row in range(6):
        ribs[row, :, 8 * row : 8 * row + 8, 12:20, 12:20] += 2
        label[row, 0, row] = 1
    assert not network(ribs, positions).any() and not network.is_trained
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        loss = MaskedBCELoss()(network(ribs, positions), label)
        loss.backward()
        optimizer.step()
    assert network.is_trained and loss.item() < 0.2
    assert (network.eval()(ribs, positions).argmax(dim=2)[:, 0] == torch.arange(6)).all()


@pytest.mark.processor
def test_weights_with_and_without_the_network_along_the_ribs():
    small = {"channels": (2, 3, 4)}
    without, both = ResUNet(**small), ResUNet(**small, straight_ribs=True)
    assert not any(parameter.requires_grad for parameter in both.straight_ribs.parameters())
    with torch.no_grad():
        both.straight_ribs.head.weight.fill_(1)
    weights = without.state_dict()
    names = set(weights)
    both.load_state_dict(weights)
    assert set(weights) == names and not both.straight_ribs.is_trained
    x = torch.randn(1, 1, 8, 8, 8)
    assert torch.equal(without.eval()(x), both.eval()(x))
    with torch.no_grad():
        both.straight_ribs.head.weight.fill_(1)
    again = ResUNet(**small, straight_ribs=True)
    again.load_state_dict(both.state_dict())
    assert again.straight_ribs.is_trained
    with pytest.raises(RuntimeError, match="straight_ribs"):
        without.load_state_dict(both.state_dict())
    assert torch.allclose(torch.jit.script(both)(x), both(x), atol=1e-6)


@pytest.mark.processor
def test_unknown_labels_teach_nothing():
    logits = torch.tensor([[[0.0, 3.0, -50.0]]], requires_grad=True)
    loss = MaskedBCELoss()(logits, torch.tensor([[[1.0, -1.0, 0.0]]]))
    assert loss.item() == pytest.approx(np.log(2) / 2)
    loss.backward()
    assert logits.grad[0, 0, 1] == 0
    assert MaskedBCELoss()(logits, torch.full((1, 1, 3), -1.0)).item() == 0
    with pytest.raises(ValueError, match="shape"):
        MaskedBCELoss()(logits, torch.zeros(1, 3))


# ---- config ----


def test_the_overlay_trains_the_network_along_the_ribs_alone(tmp_path: Path):
    parser = ConfigParser()
    parser.read_config([str(BUNDLE_ROOT / "configs" / name) for name in ("train.yaml", "train_ribs.yaml")])
    parser["device"] = torch.device("cpu")
    parser["network_def::channels"] = [2, 3, 4, 5]
    network = parser.get_parsed_content("network")
    assert isinstance(network, StraightRibNet) and all(p.requires_grad for p in network.parameters())
    trained = {id(p) for group in parser.get_parsed_content("optimizer").param_groups for p in group["params"]}
    assert trained == {id(p) for p in network.parameters()}
    loss = parser.get_parsed_content("loss")
    logits, label = torch.zeros(1, 1, 4), torch.tensor([[[1.0, 0.0, -1.0, -1.0]]])
    assert loss(logits, label).item() == pytest.approx(np.log(2))
    assert WATER_HU == 0.0

"""The transform that describes fractures, and the command that fits the model of types."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from broken_ribs import LENGTH_MM, broken_rib
from monai.data import MetaTensor

import scripts.transforms.description as description
from scripts.anatomy.rib_cage import RibCage
from scripts.anatomy.straight_ribs import rib_blocks
from scripts.candidates import describe_candidates
from scripts.commands import fit_types
from scripts.description.measure import NOT_MEASURABLE
from scripts.transforms import DescribeFracturesd


def scan(monkeypatch, scores=(0.9,), points=((0.0, 0.0, 0.0),), slice_mm=1.1, **broken):
    """A scan with a broken rib and a candidate, a box of 16 x 8 x 12 mm, about each point."""
    spacing = (0.8, 0.7, slice_mm)
    hu, affine, straight = broken_rib(spacing_mm=spacing, **broken)
    grid = np.moveaxis(np.indices(hu.shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    ids = np.zeros(hu.shape, dtype=np.int32)
    for number, point in enumerate(points, start=1):
        ids[(np.abs(grid - point) <= (8.0, 4.0, 6.0)).all(axis=-1)] = number
    near_rib = (np.abs(grid[..., 0]) <= LENGTH_MM / 2) & (np.hypot(grid[..., 1], grid[..., 2]) < 6)
    cage = RibCage(near_rib.astype(np.uint8) * straight.rib.id, affine, (straight.rib,))
    monkeypatch.setattr(description, "straight_ribs", lambda cage: [straight] if cage.ribs else [])
    scaled = np.clip((hu + 200.0) / 600.0 - 1.0, -1.0, 1.0).astype(np.float32)
    pred = MetaTensor(torch.from_numpy(ids)[None], affine=torch.as_tensor(affine))
    candidates = describe_candidates(pred, list(scores), rib_cage=cage)
    image = MetaTensor(torch.from_numpy(scaled)[None], affine=torch.as_tensor(affine))
    return {"pred": pred, "image": image, "candidates": candidates, "rib_cage": cage}


def test_a_candidate_is_described(monkeypatch):
    data = scan(monkeypatch, offset_mm=(0.0, 4.0), gap_mm=1.5)
    output = DescribeFracturesd("pred")(data)
    (one,) = output["candidates"]
    assert one.displacement == "offset" and one.not_measurable == ""
    assert one.offset_mm == pytest.approx(4.0, abs=0.4) and one.along_mm == pytest.approx(1.5, abs=0.7)
    assert one.type == "displaced" and sum(one.type_probabilities) == pytest.approx(1.0, abs=0.01)
    assert output["pred_codes"] == [one.type_code] == [1]
    assert data["candidates"][0].type == "", "what is given stays as it is"


def test_ribs_that_the_second_look_straightened_are_taken(monkeypatch):
    data = scan(monkeypatch, offset_mm=(0.0, 4.0), gap_mm=1.5)
    image, ribs = data["image"], tuple(description.straight_ribs(data["rib_cage"]))
    wanted = DescribeFracturesd("pred")(data)["candidates"]
    monkeypatch.setattr(description, "straight_ribs", lambda cage: pytest.fail("straightened once more"))
    blocks = rib_blocks(image[0].numpy(), image.affine.numpy(), data["rib_cage"], 8, -1.0)
    assert DescribeFracturesd("pred")(data | {"rib_blocks": replace(blocks, ribs=ribs)})["candidates"] == wanted


def test_switched_off_nothing_is_added(monkeypatch):
    data = scan(monkeypatch, gap_mm=1.5)
    output = DescribeFracturesd("pred", enabled="false")(data)
    assert output["candidates"] == data["candidates"] and "pred_codes" not in output


@pytest.mark.parametrize(
    "made, change, reason",
    [
        pytest.param({}, {"rib_cage": None}, "ribs", id="ribs were not looked for"),
        pytest.param({"points": ((0.0, 0.0, 18.0),)}, {}, "off", id="off the rib"),
        pytest.param({"slice_mm": 5.0}, {}, "thick", id="slices of 5 mm"),
        pytest.param({}, {"metal": (10.0, 0.0, 0.0)}, "metal", id="metal"),
    ],
)
def test_what_is_not_measurable_says_why(monkeypatch, made, change, reason):
    data = scan(monkeypatch, gap_mm=1.5, **made)
    if "rib_cage" in change:
        del data["rib_cage"]
    if "metal" in change:
        data["rib_cage"] = replace(data["rib_cage"], metal_mm=np.array([change["metal"]]))
    output = DescribeFracturesd("pred")(data)
    (one,) = output["candidates"]
    assert one.not_measurable == NOT_MEASURABLE[reason]
    assert (one.displacement, one.offset_mm, one.type, one.type_probabilities) == ("", None, "", ())
    assert output["pred_codes"] == [-1]


def test_candidates_of_a_low_score_stay_as_they_are(monkeypatch):
    data = scan(monkeypatch, scores=(0.9, 0.4), points=((0.0, 0.0, 0.0), (30.0, 0.0, 0.0)), gap_mm=1.5)
    first, second = DescribeFracturesd("pred", min_score=0.5)(data)["candidates"]
    assert first.displacement and second == data["candidates"][1]


def test_two_breaks_with_a_free_piece_are_one_segmental_fracture(monkeypatch):
    both = {"breaks_mm": (-15.0, 15.0), "offset_mm": (0.0, 3.0), "gap_mm": 1.5}
    data = scan(monkeypatch, scores=(0.9, 0.8), points=((-15.0, 0.0, 0.0), (15.0, 0.0, 0.0)), **both)
    output = DescribeFracturesd("pred")(data)
    assert [one.segmental_with for one in output["candidates"]] == [2, 1]
    assert output["pred_codes"] == [4, 4]


def test_no_candidates(monkeypatch):
    data = scan(monkeypatch, scores=(), points=())
    output = DescribeFracturesd("pred")(data)
    assert (output["candidates"], output["pred_codes"]) == ([], [])


def test_a_model_that_does_not_exist():
    with pytest.raises(FileNotFoundError):
        DescribeFracturesd("pred", model="/nowhere/model.json")


def annotated(monkeypatch, codes, with_moved=False, **broken):
    data = scan(monkeypatch, gap_mm=1.5, **broken)
    monkeypatch.setattr(fit_types, "straight_ribs", description.straight_ribs)
    image = data["image"].clone()
    image.set_(image.as_tensor() * 600.0 + 400.0)
    return fit_types.annotated_fractures(image, data["pred"], codes, data["rib_cage"], with_moved)


def test_annotated_fractures_are_measured_where_they_are(monkeypatch):
    (one,) = annotated(monkeypatch, {1: 1}, offset_mm=(0.0, 4.0))
    assert (one.label_id, one.code, one.halves, one.moved) == (1, 1, (), ())
    assert one.measured.displacement.offset_mm == pytest.approx(4.0, abs=0.4)


def test_a_fracture_is_measured_with_moved_ends_too(monkeypatch):
    (one,) = annotated(monkeypatch, {1: 1}, with_moved=True, offset_mm=(0.0, 4.0))
    lengths = [moved.features["extent_mm"] - one.measured.features["extent_mm"] for moved in one.moved]
    assert lengths == pytest.approx([10.0, 2.0, 1.0, -4.0])
    assert [moved.displacement.offset_mm for moved in one.moved] == pytest.approx([4.0] * 4, abs=0.5)


def test_of_a_segmental_fracture_each_break_is_measured_too(monkeypatch):
    (one,) = annotated(monkeypatch, {1: 4})
    assert one.code == 4 and len(one.halves) == 2


def test_a_fracture_without_a_code_is_of_unknown_type(monkeypatch):
    (one,) = annotated(monkeypatch, {})
    assert one.code == -1 and one.measured.features is not None


def test_the_command_tells_what_is_wrong(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        fit_types.main(["--dataset_dir", str(tmp_path / "nowhere")])
    assert stop.value.code == 1 and "nowhere" in capsys.readouterr().err

"""The files of a scan's ribs: the mask on the scan's own grid, the table and the picture."""

from __future__ import annotations

import csv

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import prediction_run
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.transforms import Orientation
from rib_cages import ball, image_of, made_cage

from scripts.candidates import describe_candidates, ribs_of
from scripts.handlers import RibCageHandler

CAGE = made_cage([("left", 5), ("right", None)])


def run(folder, cage=CAGE, ribs=True, pictures=True, label=None, axcodes="LPS"):
    """A scan in which one candidate lies on the left rib, as an engine would hand it on."""
    affine = torch.as_tensor(CAGE.affine)
    image = MetaTensor(torch.as_tensor(image_of(CAGE))[None] / 600 - 2 / 3, affine=affine)  # -200 to 1000 HU
    pred = MetaTensor(torch.as_tensor(ball(CAGE, (-70, 0, 25)).astype(np.int32))[None], affine=affine)
    pred = Orientation(axcodes=axcodes, labels=None)(pred)  # on the scan's own grid
    pred.meta["scan"] = "chest 1"
    candidates = describe_candidates(pred, [0.75], rib_cage=cage)
    output = {"image": image, "pred": pred, "label_scores": torch.tensor([0.75]), "candidates": candidates}
    output |= {} if label is None else {"label": MetaTensor(torch.as_tensor(label)[None], affine=affine)}

    def step(engine, number):
        engine.state.batch = [{"rib_cage": cage} if ribs else {}]
        return [output]

    engine = Engine(step)
    outputs = {"pictures": pictures}
    RibCageHandler(prediction_run(folder, [], outputs=outputs, ribs=ribs), (-200.0, 1000.0)).attach(engine)
    engine.run([0])


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "SLA"])
def test_the_mask_lies_on_the_scans_own_grid(axcodes, tmp_path):
    run(tmp_path, axcodes=axcodes)
    mask = nib.load(tmp_path / "ribs" / "chest 1.nii.gz")
    assert mask.get_data_dtype() == np.uint8
    assert "".join(nib.aff2axcodes(mask.affine)) == axcodes
    turned = nib.as_closest_canonical(mask)
    assert np.array_equal(np.asarray(turned.dataobj), CAGE.mask)
    np.testing.assert_allclose(turned.affine, CAGE.affine, atol=1e-5)


def test_the_table_lists_the_ribs(tmp_path):
    run(tmp_path)
    with (tmp_path / "ribs" / "chest 1.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    # 70 · π / 2 + 60 = 169.956, of which chords of 1.5 degrees leave out 0.003
    whole = {"confidence": "0.90", "length_mm": "170.0", "starts_in_scan": "yes", "ends_in_scan": "yes"}
    assert rows == [
        {"id": "5", "side": "left", "number": "5", "order": "1"} | whole,
        {"id": "201", "side": "right", "number": "", "order": "1"} | whole,
    ]


@pytest.mark.parametrize(
    "settings, expected",
    [
        pytest.param({}, ["pictures/chest 1_ribs.png", "ribs/chest 1.csv", "ribs/chest 1.nii.gz"], id="all"),
        pytest.param({"pictures": False}, ["ribs/chest 1.csv", "ribs/chest 1.nii.gz"], id="no pictures"),
        pytest.param({"cage": made_cage([])}, ["ribs/chest 1.csv", "ribs/chest 1.nii.gz"], id="no ribs found"),
        pytest.param({"ribs": False}, [], id="not asked for"),
    ],
)
def test_which_files_there_are(settings, expected, tmp_path):
    run(tmp_path, **settings)
    assert files(tmp_path) == expected


def test_a_picture_of_before_is_removed_where_there_are_no_ribs(tmp_path):
    run(tmp_path)
    run(tmp_path, cage=made_cage([]))
    assert files(tmp_path) == ["ribs/chest 1.csv", "ribs/chest 1.nii.gz"]
    assert not np.asarray(nib.load(tmp_path / "ribs" / "chest 1.nii.gz").dataobj).any()


def test_fractures_are_drawn_on_their_ribs(tmp_path):
    run(tmp_path / "without")
    run(tmp_path / "with", label=ball(CAGE, (70, 0, 25)).astype(np.int32) * 4)
    without, drawn = ((tmp_path / name / "pictures" / "chest 1_ribs.png").read_bytes() for name in ("without", "with"))
    assert without != drawn


def test_the_ribs_of_fractures():
    ids = ball(CAGE, (-70, 0, 25)) * 7 + ball(CAGE, (70, 0, 25)) * 2 + ball(CAGE, (0, 30, 60)) * 3
    label = MetaTensor(torch.as_tensor(ids.astype(np.uint8))[None], affine=torch.as_tensor(CAGE.affine))
    assert ribs_of(label, CAGE) == {2: 201, 7: 5} and ribs_of(label, made_cage([])) == {}


def test_a_scan_without_its_mask_of_ribs_is_not_done(tmp_path):
    outputs = prediction_run(tmp_path, [], ribs="true").records.outputs
    assert f"{tmp_path}/ribs/{{scan}}.nii.gz" in outputs
    assert not any("/ribs/" in name for name in prediction_run(tmp_path, [], ribs=False).records.outputs)

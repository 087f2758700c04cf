"""The name under which a prediction is saved."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor

from scripts.transforms import NameScand, scan_name_formatter


@pytest.mark.parametrize(
    "scan, filename, expected",
    [
        pytest.param("A/series-2", "/data/A/series-2", "A/series-2", id="the data list's name"),
        pytest.param(None, "/data/RibFrac501-image.nii.gz", "RibFrac501", id="RibFrac's file"),
        pytest.param(None, "/data/chest.v2.nii", "chest.v2", id="another file with a dot in its name"),
        pytest.param(None, "/data/CT.1.3", "CT.1.3", id="a folder"),
        pytest.param(None, "/data/B-IMAGE.NII.GZ", "B", id="a file in capitals"),
        pytest.param(None, "/data/chest.nrrd", "chest", id="a file of another format"),
        pytest.param(None, "/data/=SUM(1).nii", "_SUM(1)-3eb539f9", id="a name that is made safe"),
    ],
)
def test_name(scan, filename, expected):
    data = {"image": MetaTensor(torch.zeros(1, 2, 2, 2), meta={"filename_or_obj": filename})}
    if scan is not None:
        data["scan"] = scan
    image = NameScand("image")(data)["image"]
    assert image.meta["scan"] == expected
    assert scan_name_formatter(image.meta, None)["subject"] == f"{expected}.nii.gz"

"""The pictures of the documentation: each has a command, which tests/test_examples.py reads as its program does."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from page_blocks import BLOCKS, ROOT
from PIL import Image

from benchmarks.detection.pictures import froc_curves_picture
from benchmarks.small_picture import main


def test_each_picture_has_a_command() -> None:
    text = "".join(block.text for block in BLOCKS if (block.page, block.language) == ("docs/pictures.md", "bash"))
    made = re.findall(r"docs/images/([\w-]+\.png)", text)
    assert sorted(made) == sorted(path.name for path in (ROOT / "docs" / "images").iterdir())


@pytest.mark.parametrize(
    "width, size", [pytest.param(20, (20, 10), id="narrower"), pytest.param(90, (60, 30), id="narrow already")]
)
def test_a_picture_is_made_smaller(width: int, size: tuple[int, int], tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 60, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    main(["--picture", str(tmp_path / "large.png"), "--width", str(width), "--output", str(tmp_path / "small.png")])
    made = Image.open(tmp_path / "small.png")
    assert (made.size, made.mode) == (size, "P")  # a byte for a pixel


def test_more_curves_than_can_be_told_apart_are_refused(tmp_path: Path) -> None:
    summary = {"curve": {"fp": [0.0, 1.0], "recall": [0.0, 1.0]}, "average_recall": 0.5}
    froc_curves_picture({"set": {f"recipe {number}": summary for number in range(5)}}, tmp_path / "five.png")
    with pytest.raises(ValueError, match="6 recipes are too many to draw: name 5 or fewer by --curves"):
        froc_curves_picture({"set": {f"recipe {number}": summary for number in range(6)}}, tmp_path / "six.png")
    assert [path.name for path in tmp_path.iterdir()] == ["five.png"]

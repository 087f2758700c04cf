"""
Make a picture small enough for the documentation: narrower, and with 256 colors.

    python benchmarks/small_picture.py --picture output/demo/synthetic/pictures/RibFrac501.png --width 1300 \
      --output docs/images/demo.png
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bundle"))

from scripts.files.atomic_write import whole_file  # noqa: E402

__all__ = ["save_small"]

_COLORS = 256  # enough for gray pictures with a few colored lines, at a third of the size


def save_small(picture: Image.Image, path: Path) -> None:
    """Write a picture as a PNG of few colors."""
    with whole_file(path) as temporary:
        picture.convert("RGB").quantize(_COLORS, Image.Quantize.FASTOCTREE).save(temporary, format="PNG", optimize=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--picture", type=Path, required=True, help="picture to read")
    parser.add_argument("--width", type=int, required=True, help="pixels; a narrower picture keeps its size")
    parser.add_argument("--output", type=Path, required=True, help="PNG to write")
    options = parser.parse_args(arguments)
    picture = Image.open(options.picture).convert("RGB")
    picture.thumbnail((options.width, picture.height), Image.Resampling.LANCZOS)
    save_small(picture, options.output)


if __name__ == "__main__":
    main()

"""Small pictures for a page: gray values as WebP inside the page, outlines as paths over them."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage.measure import approximate_polygon, find_contours

__all__ = ["cut_square", "encode", "gray_values", "outline", "shrink"]

_QUALITY = 75  # of WebP: bone stays sharp, and a square of 160 pixels takes about 4 kB
_TOLERANCE_MM = 0.15  # of outlines, far below a voxel


def gray_values(values: NDArray, window: tuple[float, float]) -> NDArray[np.uint8]:
    """
    Show the values of a window as 0 (black) to 255 (white).

    Args:
        values: of any numeric type and shape.
        window: lowest and highest value shown; others are clipped.
    """
    low, high = window
    scaled = (values.astype(np.float32) - low) * (255 / (high - low))
    return np.rint(scaled.clip(0, 255)).astype(np.uint8)


def encode(gray: NDArray[np.uint8]) -> str:
    """
    Encode a picture as WebP in a ``data:`` address, which needs no file beside the page.

    Args:
        gray: gray values, shape ``(height, width)``.
    """
    buffer = io.BytesIO()
    Image.fromarray(gray).save(buffer, "WEBP", quality=_QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def cut_square(
    gray: NDArray[np.uint8],
    spacing_mm: NDArray[np.float64],
    corner_mm: NDArray[np.float64],
    size_mm: float,
    pixels: int,
) -> NDArray[np.uint8]:
    """
    Cut a square out of a slice, at equal resolution along both axes; what lies outside the slice is black.

    Args:
        gray: gray values, shape ``(width, height)``: the first axis runs to the right of the picture.
        spacing_mm: size of a voxel along both axes.
        corner_mm: upper left corner of the square, from the corner of the first voxel; may be negative.
        size_mm: edge of the square.
        pixels: edge of the picture.

    Returns:
        The picture, shape ``(pixels, pixels)``, rows first.
    """
    step = size_mm / pixels
    across, down = step / spacing_mm[0], step / spacing_mm[1]
    x, y = corner_mm[0] / spacing_mm[0], corner_mm[1] / spacing_mm[1]
    source = Image.fromarray(np.ascontiguousarray(gray.T))
    placed = source.transform(
        (pixels, pixels), Image.Transform.AFFINE, (across, 0, x, 0, down, y), resample=Image.Resampling.BICUBIC
    )
    return np.asarray(placed)


def shrink(gray: NDArray[np.uint8], spacing_mm: NDArray[np.float64], pixel_mm: float) -> NDArray[np.uint8]:
    """
    Resample a whole plane to square pixels.

    Args:
        gray: gray values, shape ``(width, height)``: the first axis runs to the right of the picture.
        spacing_mm: size of a voxel along both axes.
        pixel_mm: size of a pixel.

    Returns:
        The picture, rows first.
    """
    width, height = (max(1, round(n * s / pixel_mm)) for n, s in zip(gray.shape, spacing_mm))
    return np.asarray(Image.fromarray(np.ascontiguousarray(gray.T)).resize((width, height), Image.Resampling.BICUBIC))


def outline(mask: NDArray[np.bool_], spacing_mm: NDArray[np.float64], first_mm: NDArray[np.float64]) -> str:
    """
    Trace a mask as the path data of SVG, in mm.

    Args:
        mask: shape ``(width, height)``: the first axis runs to the right of the picture.
        spacing_mm: size of a voxel along both axes.
        first_mm: where the corner of the mask's first voxel lies in the picture.

    Returns:
        Closed lines as ``M x y x y ... Z``; empty where the mask is.
    """
    parts = []
    for line in find_contours(np.pad(mask.astype(np.uint8), 1), 0.5):
        # Voxel 0 is number 1 behind the padding, and its middle half a voxel from its corner.
        points = approximate_polygon((line - 0.5) * spacing_mm + first_mm, _TOLERANCE_MM)[:-1]
        parts.append("M" + " ".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z")
    return "".join(parts)

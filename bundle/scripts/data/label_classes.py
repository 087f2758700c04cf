"""Fracture ids from a label whose values are classes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from scripts.anatomy.components import connected_components

__all__ = ["instances_of_classes"]


def instances_of_classes(label: np.ndarray, classes: Mapping[int, int], name: str) -> tuple[np.ndarray, dict[int, int]]:
    """
    Make a fracture of each connected piece of each value, as nnU-Net's labels do not tell fractures apart.

    Voxels touch by 26 neighbors. Two fractures that touch become one.

    Args:
        label: whole numbers, 0 is background, shape ``(H, W, D)``.
        classes: class code of the fractures that a value marks, 1 to 4 or -1 for unknown.
        name: what an error calls the volume, such as its file.

    Returns:
        Ids 1 to n, likewise, and the class code of each.

    Raises:
        ValueError: when the label holds another value.

    Example:
        >>> instances_of_classes(np.array([[[1, 0, 1, 2]]]), {1: 3, 2: -1}, "x.nii.gz")
        (array([[[1, 0, 2, 3]]], dtype=int32), {1: 3, 2: 3, 3: -1})
    """
    if others := sorted(set(np.unique(label).tolist()) - {0, *classes}):
        raise ValueError(
            f"{name}: holds the values {others}, which dataset.json does not name: name them there, or clear them."
        )
    ids = np.zeros(label.shape, dtype=np.int32)
    codes: dict[int, int] = {}
    for value, code in classes.items():
        pieces = connected_components(label == value)
        ids[pieces > 0] = pieces[pieces > 0] + len(codes)
        codes |= dict.fromkeys(range(len(codes) + 1, len(codes) + int(pieces.max()) + 1), code)
    return ids, codes

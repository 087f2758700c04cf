"""Tests of scripts/anatomy/components.py: against a plain search, above all on masks of one slice; boxes; packing."""

from __future__ import annotations

from itertools import product
from typing import Literal

import numpy as np
import pytest
from scipy import ndimage

from scripts.anatomy.components import connected_components, foreground_box, instance_boxes, packed_components


def components_by_search(mask: np.ndarray) -> np.ndarray:
    """Number the components once more, plainly: from each voxel in C order, walk over all neighbors."""
    numbers = np.zeros(mask.shape, int)
    count = 0
    for seed in map(tuple, np.argwhere(mask)):
        if numbers[seed]:
            continue
        count += 1
        numbers[seed] = count
        waiting = [seed]
        while waiting:
            voxel = waiting.pop()
            for step in product((-1, 0, 1), repeat=3):
                place = tuple(a + b for a, b in zip(voxel, step))
                if all(0 <= a < n for a, n in zip(place, mask.shape)) and mask[place] and not numbers[place]:
                    numbers[place] = count
                    waiting.append(place)
    return numbers


@pytest.mark.parametrize(
    "shape, count",
    [
        pytest.param((40, 7, 1), 20 * 4, id="one slice"),
        pytest.param((1, 40, 7), 20 * 4, id="one sagittal slice"),
        pytest.param((1, 9, 1), 5, id="one column"),
        pytest.param((9, 7, 5), 5 * 4 * 3, id="odd axes"),
        pytest.param((1, 1, 1), 1, id="one voxel"),
    ],
)
def test_as_many_pieces_as_fit(shape: tuple[int, int, int], count: int) -> None:
    # Every other voxel along each axis: none touches another, and no more fit in.
    mask = np.zeros(shape, bool)
    mask[::2, ::2, ::2] = True
    components = connected_components(mask)
    assert components[mask].tolist() == list(range(1, count + 1))
    assert not components[~mask].any()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(40, 7, 1), (1, 33, 9), (8, 1, 21), (1, 1, 60), (9, 8, 7)])
@pytest.mark.parametrize("share", [0.02, 0.15, 0.3, 0.6])
def test_random_masks_equal_a_plain_search(shape: tuple[int, int, int], share: float, order: Literal["C", "F"]) -> None:
    rng = np.random.default_rng(7)
    for _ in range(5):
        mask = np.asarray(rng.random(shape) < share, order=order)
        np.testing.assert_array_equal(connected_components(mask), components_by_search(mask))


@pytest.mark.parametrize(
    "other, count",
    [
        pytest.param((3, 4, 4), 1, id="a face"),
        pytest.param((3, 3, 4), 1, id="an edge"),
        pytest.param((3, 3, 3), 1, id="a corner"),
        pytest.param((4, 4, 4), 1, id="the same voxel"),
        pytest.param((2, 4, 4), 2, id="two voxels apart"),
        pytest.param((7, 8, 9), 2, id="the far end of the volume"),
    ],
)
def test_pieces_that_touch_are_one(other: tuple[int, int, int], count: int) -> None:
    mask = np.zeros((8, 9, 10), bool)
    mask[4, 4, 4] = mask[other] = True
    assert connected_components(mask).max() == count


def test_an_empty_mask_has_no_component() -> None:
    components = connected_components(np.zeros((6, 1, 4), bool))
    assert components.shape == (6, 1, 4) and not components.any()


def test_packed_components_are_as_they_were_and_apart() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((40, 30, 20)) > 0.96
    mask[5:15, 3:20, 2:4] = True
    components = connected_components(mask)
    values = rng.random(mask.shape) * mask
    numbers, packed = packed_components(components, components, values)
    assert numbers.shape == packed.shape and sorted(packed[packed > 0]) == sorted(values[mask])
    for number in range(1, components.max() + 1):
        # the same values in the same order, and in the same places to each other
        assert packed[numbers == number].tolist() == values[components == number].tolist()
        there, here = np.argwhere(numbers == number), np.argwhere(components == number)
        assert (there - there[0] == here - here[0]).all()
    assert connected_components(numbers > 0).max() == components.max()


def test_packed_components_leave_little_between_them() -> None:
    mask = np.zeros((50, 50, 50), bool)
    mask[:2, :2, :2] = mask[30:32, 40:42, 7:9] = mask[47:, 0, 0] = True
    (packed,) = packed_components(connected_components(mask), mask)
    # boxes of 2 * 2 * 2, twice, and 3 * 1 * 1, each with an empty voxel behind it
    assert packed.sum() == 8 + 8 + 3 and packed.size <= 4 * 5 * 5 * 3


def test_no_component_is_packed_into_one_voxel() -> None:
    (packed,) = packed_components(np.zeros((4, 3, 2), int), np.ones((4, 3, 2)))
    assert packed.tolist() == [[[0.0]]]


def test_the_box_of_the_foreground() -> None:
    volume = np.zeros((5, 6, 7), dtype=np.int32)
    volume[1, 4, 2], volume[3, 2, 2] = 7, -1
    assert foreground_box(volume) == (slice(1, 4), slice(2, 5), slice(2, 3))
    assert foreground_box(volume == 7) == (slice(1, 2), slice(4, 5), slice(2, 3))
    assert volume[foreground_box(volume == 9)].size == 0
    assert foreground_box(volume[::-1, :, ::-1]) == (slice(1, 4), slice(2, 5), slice(4, 5))


@pytest.mark.parametrize("count", [0, 2, 5])
def test_boxes_of_instances_are_those_of_scipy(count: int) -> None:
    ids = np.zeros((9, 8, 7), dtype=np.int32)
    ids[2:4, 3, 1:5], ids[6, 1:4, 2] = 1, 3  # there is no 2
    assert instance_boxes(ids, count) == ndimage.find_objects(ids, count)
    assert instance_boxes(ids)[:2] == [(slice(2, 4), slice(3, 4), slice(1, 5)), None]


def test_nothing_has_no_boxes() -> None:
    nothing = np.zeros((3, 3, 3), dtype=np.int32)
    assert instance_boxes(nothing) == [] and instance_boxes(nothing, 2) == [None, None]

"""Tests of finding and numbering ribs: in phantoms, whose ribs are known, and in what is no chest."""

from __future__ import annotations

import re
import warnings
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest
from monai.data import MetaTensor
from scipy.spatial import cKDTree

from scripts.anatomy.rib_cage import Rib, RibCage
from scripts.anatomy.rib_finding import find_rib_cage
from scripts.anatomy.rib_frame import _lung_hull
from scripts.synthetic.phantom import Phantom, make_phantom
from scripts.transforms.anatomy import LabelRibsd

SPACING_MM = (2.5, 2.5, 3.0)
SEED = 1
RIGHT = 12  # ids of right ribs are those of left ones and 12 more
WATER_HU, AIR_HU = 20, -1000


class Scan(NamedTuple):
    """A phantom turned to RAS axes."""

    phantom: Phantom
    image: np.ndarray
    affine: np.ndarray
    ribs: np.ndarray


def scan_of(*traits: str) -> Scan:
    phantom = make_phantom(SEED, spacing=SPACING_MM, traits=traits)
    turn = nib.orientations.io_orientation(phantom.affine)
    affine = phantom.affine @ nib.orientations.inv_ornt_aff(turn, phantom.image.shape)
    image, ribs = (nib.orientations.apply_orientation(volume, turn) for volume in (phantom.image, phantom.ribs))
    return Scan(phantom, np.ascontiguousarray(image), affine, np.ascontiguousarray(ribs))


def found_in(image: np.ndarray, affine: np.ndarray) -> RibCage:
    """Find ribs; a warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return find_rib_cage(image, np.linalg.norm(affine[:3, :3], axis=0), affine)


@pytest.fixture(scope="module")
def plain() -> Scan:
    return scan_of()


@pytest.fixture(scope="module")
def cage(plain: Scan) -> RibCage:
    return found_in(plain.image, plain.affine)


def away_mm(rib: Rib, line: np.ndarray) -> np.ndarray:
    """How far each point of a found centerline lies from a true one, 2 mm apart."""
    return np.asarray(cKDTree(line).query(rib.centerline_mm)[0])


def true_id(rib: Rib, phantom: Phantom) -> int:
    """The id of the rib on which most of a found centerline lies."""
    return min(phantom.centerlines_mm, key=lambda i: float(np.median(away_mm(rib, phantom.centerlines_mm[i]))))


# ---- a whole chest ----


def test_all_ribs_have_their_number_and_side(plain: Scan, cage: RibCage) -> None:
    assert [rib.id for rib in cage.ribs] == list(range(1, 25))
    assert [true_id(rib, plain.phantom) for rib in cage.ribs] == list(range(1, 25))
    assert cage.notes == ()


def test_centerlines_run_along_the_ribs(plain: Scan, cage: RibCage) -> None:
    for rib in cage.ribs:
        away = away_mm(rib, plain.phantom.centerlines_mm[rib.id])
        assert np.median(away) < 1.5, rib.name
        steps = np.linalg.norm(np.diff(rib.centerline_mm, axis=0), axis=1)
        assert np.median(steps) == pytest.approx(2.0, abs=0.3) and steps.max() < 4.0


def test_centerlines_begin_at_the_spine(plain: Scan, cage: RibCage) -> None:
    assert all(rib.starts_in_scan for rib in cage.ribs)
    for rib in cage.ribs:
        line = plain.phantom.centerlines_mm[rib.id]
        assert np.linalg.norm(rib.centerline_mm[0] - line[0]) < np.linalg.norm(rib.centerline_mm[0] - line[-1])
        assert np.linalg.norm(rib.centerline_mm[0] - line[0]) < 20


def test_most_of_each_rib_is_followed(plain: Scan, cage: RibCage) -> None:
    shares = [
        np.mean(cKDTree(rib.centerline_mm).query(plain.phantom.centerlines_mm[rib.id])[0] < 5.0) for rib in cage.ribs
    ]
    assert np.median(shares) > 0.9 and min(shares) > 0.6


def test_the_mask_has_the_grid_of_the_scan_and_the_ids_of_the_ribs(plain: Scan, cage: RibCage) -> None:
    assert cage.mask.shape == plain.image.shape and cage.mask.dtype == np.uint8
    np.testing.assert_allclose(cage.affine, plain.affine)
    assert set(np.unique(cage.mask)) == {0, *range(1, 25)}


def test_the_mask_lies_on_the_true_ribs(plain: Scan, cage: RibCage) -> None:
    """Ribs of phantoms reach up to 8.3 mm from their axis, and voxels that they touch 2.5 mm farther."""
    for rib in cage.ribs:
        own = nib.affines.apply_affine(plain.affine, np.argwhere(cage.mask == rib.id))
        away = cKDTree(plain.phantom.centerlines_mm[rib.id]).query(own)[0]
        assert np.mean(away < 11.0) > 0.95, rib.name
    assert np.mean(cage.mask[plain.ribs > 0] == plain.ribs[plain.ribs > 0]) > 0.75


def test_confidence_is_high_where_everything_is_in_view(cage: RibCage) -> None:
    assert all(0.8 < rib.confidence <= 1.0 for rib in cage.ribs)


# ---- other axes, other views ----


@pytest.mark.slow
def test_ribs_do_not_depend_on_the_axes_of_the_array(plain: Scan, cage: RibCage) -> None:
    scan = nib.Nifti1Image(plain.image, plain.affine)
    scan = scan.as_reoriented(nib.orientations.axcodes2ornt(("S", "L", "P")))
    turned = MetaTensor(np.ascontiguousarray(scan.dataobj)[None].astype(np.float32), affine=scan.affine)
    found = LabelRibsd("image")({"image": turned})["rib_cage"]
    assert [rib.id for rib in found.ribs] == [rib.id for rib in cage.ribs]
    for rib, same in zip(found.ribs, cage.ribs):
        np.testing.assert_allclose(rib.centerline_mm, same.centerline_mm, atol=1e-3)
    np.testing.assert_array_equal(found.on_grid(plain.affine, plain.image.shape), cage.mask)


@pytest.mark.slow
def test_a_view_without_the_apex_has_no_wrong_numbers() -> None:
    cut = scan_of("cut_top")
    found = found_in(cut.image, cut.affine)
    assert len(found.ribs) >= 8
    for rib in found.ribs:
        assert rib.id == true_id(rib, cut.phantom) or rib.number is None, rib.name
        assert (rib.side == "right") == (true_id(rib, cut.phantom) > RIGHT)


def test_a_slab_has_ribs_without_numbers(plain: Scan) -> None:
    """20 slices at half the height of the chest show neither a tip of a lung nor the end of the cage."""
    start = plain.image.shape[2] // 2 - 10
    affine = plain.affine @ nib.affines.from_matvec(np.eye(3), (0, 0, start))
    found = found_in(plain.image[:, :, start : start + 20], affine)
    assert {rib.number for rib in found.ribs} <= {None}
    assert len(found.notes) == 1 and re.match("ribs (without a number|were not found): ", found.notes[0])
    for rib in found.ribs:
        assert (rib.side == "right") == (true_id(rib, plain.phantom) > RIGHT)
        assert rib.id == rib.order + (200 if rib.side == "right" else 100)


# ---- no chest ----


def ellipse(shape: tuple[int, int, int], inside_hu: float) -> np.ndarray:
    """A body without lungs, of 70 x 50 % of each slice, in air, with a ring of bone behind its middle."""
    x, y = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape[:2]), indexing="ij")
    plane = np.where((x / 0.7) ** 2 + (y / 0.5) ** 2 < 1, inside_hu, AIR_HU)
    from_canal = np.hypot(x, y + 0.25)
    plane[(from_canal > 0.06) & (from_canal < 0.14)] = 500
    return np.repeat(plane[:, :, None], shape[2], axis=2).astype(np.int16)


NOISE = np.random.default_rng(0).normal(0, 400, (50, 45, 40))


@pytest.mark.parametrize(
    "image, why",
    [
        pytest.param(np.full((50, 45, 40), AIR_HU, dtype=np.int16), "no body was found", id="air"),
        pytest.param(ellipse((100, 90, 60), WATER_HU), "no lungs were found", id="an abdomen"),
        pytest.param(np.full((60, 60, 60), WATER_HU, dtype=np.int16), "", id="water up to the borders"),
        pytest.param(NOISE, "", id="noise"),
        pytest.param(ellipse((100, 90, 1), WATER_HU), "", id="one slice"),
        pytest.param(np.full((3, 2, 4), WATER_HU, dtype=np.float32), "", id="a few voxels"),
        pytest.param(np.full((1, 1, 1), 600.0), "", id="one voxel"),
    ],
)
def test_what_is_no_chest_has_no_ribs_and_tells_why(image: np.ndarray, why: str) -> None:
    found = found_in(image, np.diag([3.0, 3.0, 3.0, 1.0]))
    assert found.ribs == () and not found.mask.any()
    (note,) = found.notes
    assert note.startswith("ribs were not found: ") and why in note and not note.endswith(".")


def test_a_slice_of_a_chest_has_no_ribs(plain: Scan) -> None:
    found = found_in(plain.image[:, :, 50:51], plain.affine)
    assert {rib.number for rib in found.ribs} <= {None} and found.notes


@pytest.mark.parametrize(
    "shape, spacing_mm, message",
    [
        pytest.param((4, 4), (1, 1, 1), r"three axes .* got shape \(4, 4\)", id="two axes"),
        pytest.param((1, 4, 4, 4), (1, 1, 1), r"three axes .* got shape \(1, 4, 4, 4\)", id="a channel"),
        pytest.param((4, 0, 4), (1, 1, 1), "at least one voxel", id="no voxel"),
        pytest.param((4, 4, 4), (1, 1), "three positive numbers", id="two spacings"),
        pytest.param((4, 4, 4), (1, 0, 1), "three positive numbers", id="no spacing"),
        pytest.param((4, 4, 4), (1, np.nan, 1), "three positive numbers", id="NaN"),
    ],
)
def test_a_wrong_shape_or_spacing_is_one_error(shape: tuple, spacing_mm: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_rib_cage(np.zeros(shape), spacing_mm, np.eye(4))


def test_a_slice_whose_lung_is_a_line_has_no_hull_and_no_warning() -> None:
    """Where a lung ends, a slice may hold some voxels in a row, of which Qhull makes no hull."""
    coarse = np.full((60, 60, 40), 40.0, dtype=np.float32)
    coarse[10:50, 10:50, 5:30] = -800  # 270 mL
    line = np.arange(20, 30)
    coarse[line, line, 30] = -800
    path = np.full((40, 3), 30)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hull, *_ = _lung_hull(coarse, np.ones(coarse.shape, dtype=bool), path, np.full(3, 1.5))
    assert np.array_equal(np.argwhere(hull[:, :, 30]), np.stack([line, line], axis=1))
    assert hull[10:50, 10:50, 5:30].all()

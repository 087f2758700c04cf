"""The vertebral column and the mid-sagittal plane are found on synthetic bodies, and on the sample CT."""

from collections.abc import Callable
from typing import NamedTuple

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import Dataset, MetaTensor, decollate_batch, list_data_collate
from rib_cages import made_cage
from scipy import ndimage

from scripts.anatomy.body import cut_shares, filled_in_planes
from scripts.anatomy.midline import known_plane, midsagittal_plane
from scripts.anatomy.spine import spine_mask
from scripts.commands.sample_ct import SampleCT
from scripts.data import SkippingDataLoader
from scripts.transforms.anatomy import LabelRibsd, MidsagittalPlaned, RemoveSpined

SPACING_MM = (2.0, 2.5, 3.0)
SHAPE = (180, 120, 40)
# voxel (0, 0, 0) in the body's own frame, mm: x to the right of its midline, y anterior, z superior
CORNER_MM = (-170.0, -140.0, -60.0)


class Body(NamedTuple):
    """A synthetic chest and where its parts are; arrays of shape ``(H, W, D)``, RAS axes."""

    image_hu: np.ndarray
    spine: np.ndarray
    ribs: np.ndarray


def make_body(
    extras: str = "", spacing_mm: tuple = SPACING_MM, shape: tuple = SHAPE, turn: np.ndarray | None = None
) -> Body:
    """
    Make a chest from ellipses: body, lungs, ribs from 40 mm beside the midline, and a column with canal and processes.

    Args:
        extras: words for what is added to it (``aorta``, ``table``, ``arm``, ``wire``) or left out (``no-spine``).
        spacing_mm: voxel size.
        shape: number of voxels.
        turn: rotation of the body about its frame's origin, shape ``(3, 3)``.
    """
    corner = np.array(CORNER_MM)[:, None, None, None]
    points = np.indices(shape) * np.array(spacing_mm)[:, None, None, None] + corner
    if turn is not None:
        points = np.einsum("ji,jabc->iabc", turn, points)
    x, y, z = points
    side = np.abs(x)

    def ellipse(center: tuple[float, float], radii: tuple[float, float], at: np.ndarray = x) -> np.ndarray:
        return ((at - center[0]) / radii[0]) ** 2 + ((y - center[1]) / radii[1]) ** 2 <= 1

    image = np.full(shape, -1000.0)
    image[ellipse((0, 0), (150, 100))] = 20
    image[ellipse((65, 5), (50, 70), side)] = -850
    wall = ellipse((0, 0), (134, 88)) & ~ellipse((0, 0), (126, 80)) & (side > 40)
    # ribs of 10 mm, their sternal ends lower by 40 mm; uneven gaps, or a leaning plane could join each to the next
    above = z + 0.25 * y
    ribs = wall & np.any([(above >= low) & (above < low + 10) for low in (-74, -45, -28, -1, 19, 50)], axis=0)
    image[ribs] = 450
    canal = ellipse((0, -60), (8, 8))
    spine = ellipse((0, -38), (18, 15)) | ellipse((0, -60), (14, 14))
    spine |= (side < 32) & (np.abs(y + 68) < 5) | (side < 5) & (np.abs(y + 78) < 12)
    if "no-spine" not in extras:
        image[spine] = 180
        image[spine & ~ndimage.binary_erosion(spine)] = 450
        image[canal] = 30
    if "aorta" in extras:
        image[ellipse((-30, -15), (13, 13))] = 380
        image[ellipse((-30, 40), (45, 40))] = 380
    if "table" in extras:
        image[(np.abs(y + 118) < 6) & (side < 160)] = 500
    if "arm" in extras:
        image[ellipse((165, -10), (24, 30))] = 20
        image[ellipse((168, -10), (11, 11)) & ~ellipse((168, -10), (6, 6))] = 900
    if "wire" in extras:
        image[ellipse((0, 88), (6, 6))] = 3000
    return Body(image, spine, ribs)


def rotation(axis: int, degrees: float) -> np.ndarray:
    """Rotation about one axis of the body's frame."""
    i, j = [k for k in range(3) if k != axis]
    turn = np.eye(3)
    turn[i, i] = turn[j, j] = np.cos(np.radians(degrees))
    turn[i, j], turn[j, i] = -np.sin(np.radians(degrees)), np.sin(np.radians(degrees))
    return turn


def far_from(part: np.ndarray, spacing_mm: tuple | np.ndarray, distance_mm: float = 30.0) -> np.ndarray:
    """True farther than the distance from the part."""
    return ndimage.distance_transform_edt(~part, sampling=spacing_mm) > distance_mm


@pytest.mark.parametrize(
    "extras, spacing_mm, shape",
    [
        pytest.param("", SPACING_MM, SHAPE, id="plain chest"),
        pytest.param("aorta", SPACING_MM, SHAPE, id="contrast medium in aorta and heart"),
        pytest.param("table", SPACING_MM, SHAPE, id="table brighter than the spine"),
        pytest.param("arm", SPACING_MM, SHAPE, id="an arm at one side"),
        pytest.param("wire", SPACING_MM, SHAPE, id="sternal wire"),
        pytest.param("aorta table arm wire", SPACING_MM, (180, 120, 20), id="all of them in a slab of 20 slices"),
        pytest.param("", (0.9, 1.1, 5.0), (390, 260, 24), id="fine in plane, thick slices"),
        pytest.param("", (4.0, 5.0, 3.0), (90, 60, 40), id="voxels coarser than the method's own"),
    ],
)
def test_spine_is_covered_and_no_far_rib(extras: str, spacing_mm: tuple, shape: tuple) -> None:
    body = make_body(extras, spacing_mm, shape)
    mask = spine_mask(body.image_hu, spacing_mm)
    far_ribs = body.ribs & far_from(body.spine, spacing_mm)
    assert mask.shape == shape and mask.dtype == bool
    assert far_ribs.sum() > 1000
    assert mask[body.spine].mean() >= 0.8
    assert not mask[far_ribs].any()


def test_spine_follows_a_lean_of_20_degrees() -> None:
    body = make_body(turn=rotation(1, 20.0))
    mask = spine_mask(body.image_hu, SPACING_MM)
    assert mask[body.spine].mean() >= 0.8
    assert not mask[body.ribs & far_from(body.spine, SPACING_MM)].any()


def test_spine_is_the_same_in_a_clipped_scan() -> None:
    body = make_body("aorta table")
    clipped = np.clip(body.image_hu, -200, 1000)
    overlap = spine_mask(body.image_hu, SPACING_MM) & spine_mask(clipped, SPACING_MM)
    assert overlap.sum() >= 0.99 * spine_mask(body.image_hu, SPACING_MM).sum()


def test_spine_ends_where_the_bones_end() -> None:
    body = make_body()
    image = np.where(np.arange(SHAPE[2]) < 20, body.image_hu, -1000)
    mask = spine_mask(image, SPACING_MM)
    assert mask[:, :, :20].any() and not mask[:, :, 20:].any()


@pytest.mark.parametrize(
    "image_hu",
    [
        pytest.param(np.full((40, 40, 20), -1000), id="air"),
        pytest.param(np.zeros((40, 40, 20)), id="water everywhere"),
        pytest.param(np.full((80, 60, 20), 500), id="bone everywhere"),
        pytest.param(make_body("no-spine table").image_hu, id="ribs and table without a spine"),
        pytest.param(np.full((1, 1, 1), 500), id="one voxel"),
        pytest.param(np.full((3, 90, 2), 20), id="a sliver"),
    ],
)
def test_scan_without_spine_passes(image_hu: np.ndarray) -> None:
    mask = spine_mask(image_hu, (3.0, 3.0, 3.0))
    assert mask.shape == image_hu.shape
    assert not mask.any()


def test_holes_are_filled_plane_by_plane() -> None:
    masks = np.random.default_rng(0).random((20, 13, 11, 4)) < 0.55
    for mask in masks:
        by_scipy = [ndimage.binary_fill_holes(plane) for plane in np.moveaxis(mask, 2, 0)]
        np.testing.assert_array_equal(filled_in_planes(mask), np.stack(by_scipy, axis=2))


@pytest.mark.parametrize("function", [spine_mask, midsagittal_plane])
@pytest.mark.parametrize(
    "shape, spacing_mm, message",
    [
        pytest.param((1, 8, 8, 8), (1, 1, 1), "three axes", id="a channel axis"),
        pytest.param((8, 0, 8), (1, 1, 1), "one voxel", id="no voxel"),
        pytest.param((8, 8, 8), (1, 0, 1), "three positive", id="spacing of 0"),
        pytest.param((8, 8, 8), (1, 1), "three positive", id="two spacings"),
        pytest.param((8, 8, 8), (1, 1, np.nan), "three positive", id="spacing not a number"),
    ],
)
def test_wrong_input_is_named(function: Callable[..., object], shape: tuple, spacing_mm: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        function(np.zeros(shape), spacing_mm)


@pytest.mark.parametrize(
    "turn, normal",
    [
        pytest.param(np.eye(3), (1, 0, 0), id="straight"),
        pytest.param(rotation(2, 7.0), (np.cos(np.radians(7)), np.sin(np.radians(7)), 0), id="turned by 7 degrees"),
        pytest.param(rotation(2, -15.0), (np.cos(np.radians(15)), -np.sin(np.radians(15)), 0), id="turned by -15"),
        pytest.param(rotation(1, 7.0), (np.cos(np.radians(7)), 0, np.sin(np.radians(7))), id="leaning by 7 degrees"),
    ],
)
def test_plane_follows_the_body(turn: np.ndarray, normal: tuple) -> None:
    # the body turns about its frame's origin, 170 mm right of, 140 in front of and 60 above voxel (0, 0, 0)
    plane = midsagittal_plane(make_body("aorta arm table", turn=turn).image_hu, SPACING_MM)
    assert plane is not None
    assert np.linalg.norm(plane.normal) == pytest.approx(1.0)
    assert np.degrees(np.arccos(min(1.0, plane.normal @ np.array(normal)))) < 1.5
    assert plane.normal @ (170.0, 140.0, 60.0) == pytest.approx(plane.offset_mm, abs=0.8)


def test_plane_is_the_bodys_not_the_arrays_middle() -> None:
    image = make_body().image_hu
    padded = np.pad(image, [(31, 0), (5, 0), (0, 7)], constant_values=-1000)
    plane = midsagittal_plane(padded, SPACING_MM)
    assert plane is not None
    # 31 voxels of 2 mm before the 170 mm; the padded array's middle is at 210 mm
    assert plane.normal @ (170.0 + 62.0, 140.0 + 12.5, 60.0) == pytest.approx(plane.offset_mm, abs=0.6)


@pytest.mark.parametrize(
    "shape, value",
    [
        pytest.param((41, 30, 20), -1000, id="air"),
        pytest.param((41, 30, 20), 20, id="a piece of 82 mm"),
        pytest.param((1, 1, 1), 20, id="one voxel"),
    ],
)
def test_there_is_no_plane_without_a_body(shape: tuple, value: int) -> None:
    assert midsagittal_plane(np.full(shape, value), SPACING_MM) is None


def as_scan(image: np.ndarray, axcodes: str = "RAS", origin_mm: tuple = CORNER_MM) -> MetaTensor:
    """Give an RAS array other axes, channel first, with the affine that keeps every voxel in place."""
    affine = np.diag([*SPACING_MM, 1.0])
    affine[:3, 3] = origin_mm
    scan = nib.Nifti1Image(image.astype(np.float32), affine)
    scan = scan.as_reoriented(nib.orientations.axcodes2ornt(tuple(axcodes)))
    return MetaTensor(np.ascontiguousarray(scan.dataobj)[None], affine=scan.affine)


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "SLA"])
def test_world_plane_does_not_depend_on_the_arrays_axes(axcodes: str) -> None:
    image = make_body("aorta arm", turn=rotation(2, 7.0)).image_hu
    data = MidsagittalPlaned("image")({"image": as_scan(image, axcodes)})
    plane = data["midsagittal_plane"]
    assert isinstance(plane, np.ndarray) and plane.dtype == np.float64 and plane.shape == (4,)
    # the body's frame is the world: its midline passes the origin, turned by 7 degrees
    normal = np.array([np.cos(np.radians(7)), np.sin(np.radians(7)), 0.0])
    assert plane[:3] @ normal > np.cos(np.radians(1.5))
    assert plane[3] == pytest.approx(0.0, abs=0.8)
    reference = MidsagittalPlaned("image")({"image": as_scan(image)})["midsagittal_plane"]
    np.testing.assert_allclose(plane, reference, rtol=1e-7, atol=1e-7)


def test_world_plane_of_an_oblique_affine() -> None:
    scan = as_scan(make_body().image_hu)
    tilt = np.eye(4)
    tilt[:3, :3] = rotation(2, 10.0)
    oblique = MetaTensor(scan.as_tensor(), affine=tilt @ scan.affine.numpy())
    straight = MidsagittalPlaned("image", plane_key="p")({"image": scan})["p"]
    turned = MidsagittalPlaned("image", plane_key="p")({"image": oblique})["p"]
    np.testing.assert_allclose(turned[:3], tilt[:3, :3] @ straight[:3], atol=1e-6)
    # a rotation about the world's origin leaves the distance from it
    assert turned[3] == pytest.approx(straight[3], abs=1e-6)


def test_plane_transform_takes_one_volume_with_an_affine() -> None:
    with pytest.raises(ValueError, match="one key"):
        MidsagittalPlaned(["image", "label"])
    with pytest.raises(ValueError, match=r"image must be a MetaTensor of shape \(1, H, W, D\)"):
        MidsagittalPlaned("image")({"image": torch.zeros(1, 4, 4, 4)})
    with pytest.raises(ValueError, match=r"\(2, 4, 4, 4\)"):
        MidsagittalPlaned("image")({"image": MetaTensor(torch.zeros(2, 4, 4, 4))})
    assert MidsagittalPlaned("image", allow_missing_keys=True)({"label": 1}) == {"label": 1}


@pytest.mark.parametrize(
    "hu_range", [pytest.param((-200.0, 1000.0), id="the default range"), pytest.param((-400.0, 2000.0), id="another")]
)
def test_predictions_go_on_the_spine_alone(hu_range: tuple[float, float]) -> None:
    body = make_body("table aorta")
    low, high = hu_range
    scaled = (np.clip(body.image_hu, low, high) - low) / (high - low) * 2 - 1
    pred = MetaTensor(torch.full((1, *SHAPE), 0.75))
    transform = ConfigParser(
        {"t": {"_target_": "scripts.transforms.anatomy.RemoveSpined", "keys": "pred", "hu_range": list(hu_range)}}
    ).get_parsed_content("t")
    result = transform({"image": as_scan(scaled), "pred": pred})["pred"]
    assert isinstance(result, MetaTensor)
    assert (pred == 0.75).all(), "the prediction given was changed"
    result = result.numpy()[0]
    assert (result[body.spine] == 0).mean() >= 0.8
    assert (result[body.ribs & far_from(body.spine, SPACING_MM)] == 0.75).all()


@pytest.fixture(scope="module")
def chest() -> Body:
    return make_body()


@pytest.mark.parametrize(
    "margin_mm, axes",
    [
        pytest.param(0.0, [], id="none"),
        pytest.param(1.9, [], id="no neighbor is as near"),
        pytest.param(2.0, [0], id="neighbors to the sides, at 2 mm"),
        pytest.param(2.5, [0, 1], id="and before and behind, at 2.5 mm"),
        pytest.param(3.0, [0, 1, 2], id="and above and below, at 3 mm"),
    ],
)
def test_the_margin_removes_the_rim_of_the_spine(chest: Body, margin_mm: float, axes: list[int]) -> None:
    cross = np.zeros((3, 3, 3), dtype=bool)
    cross[1, 1, 1] = True
    for axis in axes:
        cross[tuple(slice(None) if i == axis else 1 for i in range(3))] = True
    rim = ndimage.binary_dilation(spine_mask(chest.image_hu, SPACING_MM), cross)
    data = {"image": as_scan(np.clip(chest.image_hu, -200, 1000) / 600 - 2 / 3), "pred": torch.ones(1, *SHAPE)}
    left = RemoveSpined("pred", margin_mm=margin_mm)(data)["pred"].numpy()[0]
    assert rim.any() and np.array_equal(left == 0, rim)


def test_a_negative_margin_is_refused() -> None:
    with pytest.raises(ValueError, match="margin_mm is -1"):
        RemoveSpined("pred", margin_mm=-1.0)


def test_predictions_stay_where_there_is_no_spine() -> None:
    pred = torch.rand(1, 12, 10, 8)
    image = as_scan(np.full((12, 10, 8), -1.0))
    assert torch.equal(RemoveSpined("pred", margin_mm=3.0)({"image": image, "pred": pred})["pred"], pred)


@pytest.mark.parametrize(
    "image, message",
    [
        pytest.param(as_scan(np.zeros((8, 6, 4)), "LPS"), "axes LPS.*Orientationd", id="other axes"),
        pytest.param(as_scan(np.zeros((8, 6, 5))), "pred has shape", id="another grid"),
        pytest.param(torch.zeros(1, 8, 6, 4), "MetaTensor", id="no affine"),
    ],
)
def test_spine_removal_names_wrong_input(image: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RemoveSpined("pred")({"image": image, "pred": torch.zeros(1, 8, 6, 4)})


@pytest.mark.real_ct
@pytest.mark.parametrize(
    "step", [pytest.param(1, id="2.5 mm slices", marks=pytest.mark.slow), pytest.param(2, id="5 mm slices")]
)
def test_real_spine_is_covered_and_no_far_rib(real_ct: SampleCT, step: int) -> None:
    organs = real_ct.structures[:, :, ::step]
    spacing_mm = real_ct.spacing_mm * (1, 1, step)
    vertebrae = (organs >= 29) & (organs <= 46)
    far_ribs = (organs >= 92) & (organs <= 115) & far_from(vertebrae, spacing_mm)
    mask = spine_mask(real_ct.image_hu[:, :, ::step], spacing_mm)
    assert mask[vertebrae].mean() >= 0.9
    assert not mask[far_ribs].any()


@pytest.mark.real_ct
@pytest.mark.parametrize(
    "degrees, padding",
    [
        pytest.param(0.0, (0, 0), id="as scanned"),
        pytest.param(0.0, (20, 0), id="56 mm of air on the left"),
        pytest.param(7.0, (0, 0), id="turned by 7 degrees"),
        pytest.param(-7.0, (0, 15), id="turned by -7 degrees, air on the right"),
    ],
)
def test_real_left_ribs_mirror_to_the_right_ones(real_ct: SampleCT, degrees: float, padding: tuple[int, int]) -> None:
    image_hu, organs = real_ct.image_hu[::2, ::2], real_ct.structures[::2, ::2]
    spacing_mm = real_ct.spacing_mm * (2, 2, 1)
    middle = (np.array(organs.shape) - 1) / 2
    turn = rotation(2, degrees)
    matrix = turn.T * spacing_mm / spacing_mm[:, None]
    image_hu = ndimage.affine_transform(image_hu, matrix, middle - matrix @ middle, order=1, cval=-1000)
    image_hu = np.pad(image_hu, [padding, (0, 0), (0, 0)], constant_values=-1000)
    centers = np.array(ndimage.center_of_mass(organs > 0, organs, range(92, 116)))
    # the ribs' centers turn and move with the scan
    centers = ((centers - middle) * spacing_mm) @ turn.T + (middle + [padding[0], 0, 0]) * spacing_mm
    left, right = centers[:12], centers[12:]
    plane = midsagittal_plane(image_hu, spacing_mm)
    mirrored = left - 2 * np.outer(left @ plane.normal - plane.offset_mm, plane.normal)
    assert np.median(np.linalg.norm(mirrored - right, axis=1)) <= 10.0


# of the voxels along the first axis the midline is number 85, and the body reaches from 10 to 160
HALVES = [
    pytest.param(slice(105, 180), True, id="a right lung"),
    pytest.param(slice(100, 180), True, id="a right lung and a little more"),
    pytest.param(slice(0, 65), False, id="a left lung"),
    pytest.param(slice(0, 72), False, id="a left lung and a little more"),
]


@pytest.mark.parametrize(
    "part, middle_mm",
    [
        pytest.param(slice(45, 125), 80.0, id="the middle, 160 mm wide"),
        pytest.param(slice(60, 180), 50.0, id="more of the right"),
        pytest.param(slice(0, 110), 170.0, id="more of the left"),
    ],
)
def test_a_narrow_window_with_the_canal_has_its_plane_there(chest: Body, part: slice, middle_mm: float) -> None:
    plane = midsagittal_plane(chest.image_hu[part], SPACING_MM)
    assert plane is not None
    # at the canal, 80 mm in front of voxel 0 and 60 mm above it
    assert plane.normal @ (middle_mm, 80.0, 60.0) == pytest.approx(plane.offset_mm, abs=5.0)
    assert spine_mask(chest.image_hu[part], SPACING_MM)[chest.spine[part]].mean() >= 0.8


@pytest.mark.parametrize("part, is_right", HALVES)
def test_one_half_of_a_body_lies_on_one_side_of_its_plane(chest: Body, part: slice, is_right: bool) -> None:
    image = chest.image_hu[part]
    plane = midsagittal_plane(image, SPACING_MM)
    assert plane is not None
    corners_mm = np.argwhere(np.ones((2, 2, 2))) * (np.array(image.shape) - 1) * SPACING_MM
    assert ((corners_mm @ plane.normal > plane.offset_mm) == is_right).all()


@pytest.mark.parametrize(
    "part",
    [
        pytest.param(np.s_[105:155], id="cut on both sides, no canal"),
        pytest.param(np.s_[100:180, 50:], id="one flank, no back"),
        pytest.param(np.s_[45:125, 50:], id="the middle, no back"),
    ],
)
def test_a_window_that_does_not_show_the_midline_has_no_plane(chest: Body, part: tuple) -> None:
    assert midsagittal_plane(chest.image_hu[part], SPACING_MM) is None


@pytest.mark.parametrize("part", [*(p.values[0] for p in HALVES), slice(105, 155)])
def test_no_rib_beside_the_spine_is_taken_for_it(chest: Body, part: slice) -> None:
    assert chest.ribs[part].any()
    assert not spine_mask(chest.image_hu[part], SPACING_MM).any()


def test_a_round_field_of_view_in_one_lung_has_no_plane(chest: Body) -> None:
    x, y, _ = (np.arange(n) * s + c for n, s, c in zip(SHAPE, SPACING_MM, CORNER_MM))
    inside = (x[:, None] - 75.0) ** 2 + y**2 <= 75.0**2
    image = np.where(inside[:, :, None], chest.image_hu, -1000)
    assert midsagittal_plane(image[80:165], SPACING_MM) is None
    assert not spine_mask(image[80:165], SPACING_MM).any()


def test_a_doubtful_plane_is_nan_in_the_data(chest: Body) -> None:
    data = MidsagittalPlaned("image")({"image": as_scan(chest.image_hu[105:155])})
    assert data["midsagittal_plane"].shape == (4,) and np.isnan(data["midsagittal_plane"]).all()


@pytest.mark.parametrize(
    "plane, known",
    [
        pytest.param(None, None, id="none"),
        pytest.param(np.full(4, np.nan), None, id="NaN"),
        pytest.param(torch.full((4,), torch.nan), None, id="a tensor of NaN"),
        pytest.param(torch.tensor([1.0, 0.0, 0.0, 5.0]), [1.0, 0.0, 0.0, 5.0], id="a plane"),
    ],
)
def test_a_plane_is_known_or_not(plane: np.ndarray | torch.Tensor | None, known: list[float] | None) -> None:
    found = known_plane(plane)
    assert (None if found is None else found.tolist()) == known


def test_cut_shares_are_counted() -> None:
    mask = np.zeros((3, 4, 2), dtype=bool)
    mask[0, 1:3, 0] = True  # 2 of 4 across, in one of two slices
    mask[1, [0, 3]] = True  # 4 of 4 with the gap between them, in both
    # the first and last row hold 1 voxel each in both slices, those between 1 in one slice
    np.testing.assert_allclose(cut_shares(mask), [[2 / 8, 0], [1, 1]])
    assert not cut_shares(np.zeros((3, 4, 2), dtype=bool)).any()


def test_a_ring_of_bone_near_a_flank_is_no_canal(chest: Body) -> None:
    # the axilla of a slab: from x = 40 mm on, the skin is at 150 mm, the ring at 100 mm
    image = chest.image_hu[105:].copy()
    x, y, _ = (np.arange(n) * s + c for n, s, c in zip(SHAPE, SPACING_MM, CORNER_MM))
    distance_mm = np.hypot(x[105:, None] - 100.0, y + 30.0)
    image[distance_mm <= 22] = 450
    image[distance_mm <= 8] = 30
    assert not spine_mask(image, SPACING_MM).any()
    plane = midsagittal_plane(image, SPACING_MM)
    assert plane is not None and plane.normal.tolist() == [1.0, 0.0, 0.0] and plane.offset_mm == -1.0


# ---- the ribs beside the scan ----


class Given(NamedTuple):
    image_hu: np.ndarray
    spacing_mm: np.ndarray
    affine: np.ndarray


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Given]:
    """What the finder of ribs was given; it finds three."""
    given: list[Given] = []

    def find(image_hu, spacing_mm, affine):
        given.append(Given(image_hu, spacing_mm, affine))
        return made_cage([("left", 5), ("left", 6), ("right", None)])

    monkeypatch.setattr("scripts.transforms.anatomy.find_rib_cage", find)
    return given


@pytest.mark.parametrize("axcodes", ["RAS", "LPS", "SLA"])
def test_ribs_are_looked_for_in_a_scan_turned_to_ras(axcodes: str, asked: list[Given]) -> None:
    image = np.random.default_rng(0).normal(0, 100, (6, 5, 4)).astype(np.float32)
    data = LabelRibsd("image")({"image": as_scan(image, axcodes, origin_mm=(3.0, -4.0, 5.0))})
    (given,) = asked
    assert np.array_equal(given.image_hu, image)
    wanted = np.diag([*SPACING_MM, 1.0])
    wanted[:3, 3] = (3.0, -4.0, 5.0)
    np.testing.assert_allclose(given.affine, wanted, atol=1e-6)
    np.testing.assert_allclose(given.spacing_mm, SPACING_MM, atol=1e-6)
    assert [rib.name for rib in data["rib_cage"].ribs] == ["left 5", "left 6", "right unknown (1 from above)"]


@pytest.mark.parametrize("enabled", [False, "false"])
def test_ribs_that_are_not_asked_for_are_not_looked_for(enabled, asked: list[Given]) -> None:
    data = {"image": as_scan(np.zeros((4, 4, 4)))}
    assert LabelRibsd("image", enabled=enabled)(data).keys() == {"image"} and asked == []


@pytest.mark.parametrize("processes", [0, 1])
def test_ribs_go_through_a_batch_and_back(processes: int, asked: list[Given]) -> None:
    scans = [{"scan": name, "image": as_scan(np.zeros((4, 4, 4)))} for name in ("a", "b")]
    for batch in SkippingDataLoader(Dataset(scans, LabelRibsd("image")), num_workers=processes):
        (item,) = decollate_batch(batch)
        assert item["image"].shape == (1, 4, 4, 4)
        first, wanted = item["rib_cage"], made_cage([("left", 5), ("left", 6), ("right", None)])
        assert np.array_equal(first.mask, wanted.mask) and np.array_equal(first.affine, wanted.affine)
        assert [rib.id for rib in first.ribs] == [5, 6, 201]
        assert np.array_equal(first.ribs[2].centerline_mm, wanted.ribs[2].centerline_mm)


def test_the_ribs_of_several_scans_in_a_batch_are_parted() -> None:
    cages = [made_cage([("left", 5)]), made_cage([])]
    items = decollate_batch(list_data_collate([{"n": i, "rib_cage": cage} for i, cage in enumerate(cages)]))
    assert [item["rib_cage"] is cage for item, cage in zip(items, cages)] == [True, True]


@pytest.mark.parametrize("keys, image", [(("a", "b"), None), ("image", np.zeros((1, 4, 4, 4)))], ids=["keys", "array"])
def test_ribs_of_what_is_no_scan_are_refused(keys, image) -> None:
    with pytest.raises(ValueError, match="one key|MetaTensor"):
        LabelRibsd(keys)({"image": image})

"""Which ROIs are drawn, and what they hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import lps_affine
from monai.data import MetaTensor
from monai.transforms import CenterSpatialCrop, Compose, Orientation, RandZoomd, Zoom

from scripts.transforms import FindFracturesd, SymmetricROISamplerd

AFFINE = torch.diag(torch.tensor([0.75, 0.75, 1.25, 1.0], dtype=torch.float64))


def scan(*boxes, shape=(60, 40, 50), ids=None, **more):
    """A scan in RAS whose image tells each voxel its place, with a cube of 4³ voxels around each center in boxes."""
    label = torch.zeros(1, *shape, dtype=torch.int32)
    for fracture, center in zip(ids or range(1, len(boxes) + 1), boxes):
        label[0, *(slice(c - 2, c + 2) for c in center)] = fracture
    image = torch.arange(label.numel(), dtype=torch.float32).reshape(label.shape)
    return {"image": MetaTensor(image, affine=AFFINE), "label": MetaTensor(label, affine=AFFINE), "scan": "A", **more}


def sampler(**arguments):
    defaults = {"keys": ["image", "label"], "roi_size": 16, "num_samples": 16, "plane_key": None, "border_voxels": 8}
    return SymmetricROISamplerd(**{**defaults, **arguments}).set_random_state(0)


def kinds(rois):
    return [roi["roi_kind"] for roi in rois]


def test_a_positive_roi_is_centered_on_its_fracture():
    rois = sampler(num_samples=1, positive_share=1.0)(scan((30, 20, 25)))
    marked = rois[0]["label"][0].nonzero()
    assert rois[0]["label"].shape == (1, 16, 16, 16)
    # voxels 6 to 9 of 16: two to either side of the middle
    assert marked.min(0).values.tolist() == [6, 6, 6] and marked.max(0).values.tolist() == [9, 9, 9]


def test_image_and_label_are_cut_at_the_same_place():
    data = scan((30, 20, 25), (40, 10, 5))
    for roi in sampler()(data):
        start = np.rint((np.asarray(roi["image"].affine)[:3, 3]) / np.array([0.75, 0.75, 1.25])).astype(int)
        places = np.indices((16, 16, 16)).reshape(3, -1)
        voxels = places + start[:, None]
        inside = ((voxels >= 0) & (voxels < np.array(data["image"].shape[1:])[:, None])).all(axis=0)
        assert inside.any()
        for key, outside in (("image", -1024), ("label", 0)):
            cut, whole = np.asarray(roi[key])[0], np.asarray(data[key])[0]
            assert np.array_equal(cut[*places[:, inside]], whole[*voxels[:, inside]])
            assert (cut[*places[:, ~inside]] == outside).all()


def test_instances_count_not_connected_pieces():
    touching = scan((20, 20, 20), (24, 20, 20))  # two ids, one connected piece
    split = scan((20, 20, 20), (40, 20, 20), ids=[7, 7])  # one id, two pieces
    assert len(set(map(str, positive_centers(touching)))) == 2
    assert len(set(map(str, positive_centers(split)))) == 1


def positive_centers(data):
    transform = sampler(positive_share=1.0, num_samples=8)
    transform(data)
    return [center.tolist() for kind, center in transform.centers if kind == "positive"]


@pytest.mark.parametrize(
    "share, count",
    [pytest.param(0.5, 8, id="half"), pytest.param(0.25, 4, id="a quarter"), pytest.param(0.0, 0, id="none")],
)
def test_share_of_positives(share, count):
    rois = sampler(positive_share=share)(scan((30, 20, 25)))
    assert kinds(rois).count("positive") == count and len(rois) == 16


def test_without_a_share_all_rois_of_a_scan_are_drawn_from_alike():
    # 6 fractures: 6 positive, 6 mirrored and 6 random ROIs; 16 of the 18 are taken, none twice
    centers = [(10, 20, 8 * i) for i in range(1, 7)]
    transform = sampler(roi_size=4)
    drawn = kinds(transform(scan(*centers, shape=(60, 40, 60))))
    assert len(drawn) == 16
    assert all(4 <= drawn.count(kind) <= 6 for kind in ("positive", "mirrored", "random"))
    placed = [str(center) for kind, center in transform.centers if kind != "random"]
    assert len(placed) == len(set(placed))


def test_a_scan_without_fractures_gives_negatives_alone():
    rois = sampler(positive_share=0.5)(scan())
    assert kinds(rois) == ["random"] * 16
    assert all((roi["label"] == 0).all() for roi in rois)


def test_random_centers_keep_away_from_the_border():
    transform = sampler(num_samples=200, border_voxels=15)
    transform(scan(shape=(60, 40, 20)))
    centers = np.array([center for _, center in transform.centers])
    assert centers.min(0).tolist() == [15, 15, 10] and centers.max(0).tolist() == [44, 24, 10]


def test_mirrored_about_the_middle_of_the_array():
    transform = sampler(num_samples=3)
    transform(scan((10, 20, 25)))
    assert [center.tolist() for kind, center in transform.centers if kind == "mirrored"] == [[49, 20, 25]]


@pytest.mark.parametrize(
    "plane, expected",
    [
        # x = 18.75 mm is voxel 25: 10 is mirrored to 40
        pytest.param([1.0, 0.0, 0.0, 18.75], [40, 20, 25], id="the body is not in the middle of the array"),
        # y = x - 7.5 mm is voxel y = x - 10: mirroring swaps x - 10 and y, so (10, 20) goes to (30, 0)
        pytest.param([0.5**0.5, -(0.5**0.5), 0.0, 7.5 * 0.5**0.5], [30, 0, 25], id="the body is turned"),
    ],
)
def test_mirrored_about_the_plane_of_the_body(plane, expected):
    transform = sampler(num_samples=3, plane_key="midsagittal_plane")
    transform(scan((10, 20, 25), midsagittal_plane=torch.tensor(plane)))
    assert [center.tolist() for kind, center in transform.centers if kind == "mirrored"] == [expected]


def test_the_plane_is_in_patient_coordinates():
    """A scan stored to the left and to the back, brought to RAS, mirrors at the same place in mm."""
    label = torch.zeros(1, 60, 40, 50)
    label[0, 8:12, 18:22, 23:27] = 1
    affine = torch.as_tensor(lps_affine())
    data = {"label": Orientation("RAS", labels=None)(MetaTensor(label, affine=affine))}
    transform = sampler(keys="label", fill_values=0, num_samples=3, plane_key="midsagittal_plane")
    transform({**data, "midsagittal_plane": torch.tensor([1.0, 0.0, 0.0, -3.0])})
    mirrored = [center for kind, center in transform.centers if kind == "mirrored"][0]
    world = np.asarray(data["label"].affine) @ [*mirrored, 1]
    # stored voxels 8 to 11 are 48 to 51 in RAS; their middle, 50, is stored voxel 9 at x = 12 - 9 · 0.75 = 5.25 mm:
    # 8.25 mm to the right of the plane at -3 mm, so its mirror is at -11.25 mm
    assert world[0] == pytest.approx(-11.25)


@pytest.mark.parametrize(
    "boxes, left",
    [
        pytest.param([(10, 20, 25)], 1, id="nothing on the other side"),
        pytest.param([(10, 20, 25), (49, 20, 25)], 0, id="fractures at mirrored places"),
        pytest.param([(10, 20, 25), (44, 20, 25)], 0, id="a fracture at the edge of the mirrored ROI"),
        pytest.param([(30, 20, 25)], 0, id="a fracture in the middle is its own mirror"),
    ],
)
def test_a_mirrored_roi_that_holds_a_fracture_is_left_out(boxes, left):
    drawn = kinds(sampler(num_samples=3 * len(boxes))(scan(*boxes)))
    assert drawn.count("mirrored") == left


def test_a_mirror_outside_the_scan_is_left_out():
    data = scan((10, 20, 25), midsagittal_plane=torch.tensor([1.0, 0.0, 0.0, 45.0]))
    assert "mirrored" not in kinds(sampler(plane_key="midsagittal_plane")(data))


def test_no_mirrored_roi_where_the_plane_is_unknown():
    data = scan((10, 20, 25), midsagittal_plane=np.full(4, np.nan))
    assert set(kinds(sampler(plane_key="midsagittal_plane")(data))) == {"positive", "random"}


def test_no_mirrored_rois_when_switched_off():
    assert set(kinds(sampler(mirrored=False)(scan((10, 20, 25))))) == {"positive", "random"}


def test_positives_are_shifted_up_to_the_limit():
    transform = sampler(num_samples=300, positive_share=1.0, max_shift_voxels=3)
    transform(scan((30, 20, 25)))
    shifts = np.array([center for _, center in transform.centers]) - [30, 20, 25]
    assert shifts.min(0).tolist() == [-3, -3, -3] and shifts.max(0).tolist() == [3, 3, 3]


def test_a_scan_smaller_than_the_roi_is_padded_with_air():
    roi = sampler(num_samples=1, positive_share=1.0)(scan((5, 5, 5), shape=(10, 10, 10)))[0]
    assert roi["image"].shape == (1, 16, 16, 16)
    assert (roi["image"] == -1024).sum() == 16**3 - 10**3


def test_a_seed_fixes_the_rois_of_each_scan():
    transform = sampler(seed=3)

    def centers(name):
        transform({**scan((30, 20, 25)), "scan": name})
        return str(transform.centers)

    first = centers("A")
    other = centers("B")
    assert centers("A") == first and other != first


def test_without_a_seed_they_change():
    transform = sampler()
    transform(scan((30, 20, 25)))
    first = str(transform.centers)
    transform(scan((30, 20, 25)))
    assert str(transform.centers) != first


def test_wrong_share_is_refused():
    with pytest.raises(ValueError, match="positive_share"):
        sampler(positive_share=1.5)


def test_a_shift_out_of_the_roi_is_refused():
    with pytest.raises(ValueError, match="would leave its ROI"):
        sampler(max_shift_voxels=8)


def test_unequal_shapes_are_refused():
    data = scan((30, 20, 25))
    with pytest.raises(ValueError, match="A: 'image' has shape"):
        sampler()({**data, "image": data["image"][:, :-1]})


def test_zooming_an_roi_equals_cutting_the_zoomed_scan():
    """The report zooms the whole scan and then cuts; the config cuts 80³, zooms and keeps the 64³ in the middle."""
    generator = torch.Generator().manual_seed(0)
    shape, factor = (40, 32, 36), 1.25
    image = torch.rand(1, *shape, generator=generator)
    label = (torch.rand(1, *shape, generator=generator) > 0.5).float()
    for volume, mode in ((image, "trilinear"), (label, "nearest-exact")):
        whole = Zoom(factor, mode=mode, keep_size=False)(volume)
        # voxels 8 to 27 of the scan are voxels 10 to 34 of the zoomed scan; the middle 16 of these 25 are 14 to 29
        zoom = RandZoomd("v", prob=1, min_zoom=factor, max_zoom=factor, mode=mode, keep_size=False)
        cut = Compose([zoom])({"v": volume[:, 8:28, 8:28, 8:28]})["v"]
        assert cut.shape == (1, 25, 25, 25)
        assert torch.allclose(CenterSpatialCrop(16)(cut), whole[:, 14:30, 14:30, 14:30], atol=1e-6)


def test_noise_before_scaling_equals_noise_in_the_scaled_range():
    from monai.transforms import RandGaussianNoise, ScaleIntensityRange

    hu = torch.linspace(-150, 950, 4096).reshape(1, 16, 16, 16)
    noise_hu = RandGaussianNoise(prob=1, std=0.1 * (1000 + 200) / 2, sample_std=False).set_random_state(0)
    noise = RandGaussianNoise(prob=1, std=0.1, sample_std=False).set_random_state(0)
    before = ScaleIntensityRange(-200, 1000, -1, 1, clip=True)(noise_hu(hu))
    after = noise(ScaleIntensityRange(-200, 1000, -1, 1)(hu)).clip(-1, 1)
    assert torch.allclose(before, after, atol=1e-5)


def boned(*boxes):
    """A scan with two beams of bone: at row 10 and at row 50."""
    data = scan(*boxes)
    data["image"] = torch.zeros_like(data["image"])
    data["image"][0, 10, :, :] = 300
    data["image"][0, 50, :, 5:9] = 300
    return data


def test_random_rois_lie_on_bone():
    rois = sampler(num_samples=12, bone_share=1.0, mirrored=False)(boned())
    assert set(kinds(rois)) == {"bone"}
    assert all(roi["image"][0, 8, 8, 8] == 300 for roi in rois)


def test_a_share_of_the_random_rois_lies_on_bone():
    found = kinds(sampler(num_samples=400, bone_share=0.25, positive_share=0.5)(boned((30, 20, 25))))
    assert found.count("positive") == 200
    assert 25 < found.count("bone") < 75  # a quarter of 199 or 200, 6 standard deviations or 4 to either side


@pytest.mark.parametrize("share, hu", [pytest.param(1.0, 250.0, id="no bone"), pytest.param(0.0, 300.0, id="no share")])
def test_without_bone_they_lie_anywhere(share, hu):
    data = boned()
    data["image"] = data["image"].clamp(max=hu)
    assert set(kinds(sampler(bone_share=share)(data))) == {"random"}


def test_bone_is_looked_for_alike_every_time_with_a_seed():
    first, second = (
        [str(roi["image"].affine) for roi in sampler(seed=3, bone_share=0.5)(boned((30, 20, 25)))] for _ in range(2)
    )
    assert first == second and len(set(first)) > 4


def test_a_share_of_bone_above_one_is_refused():
    with pytest.raises(ValueError, match="bone_share must be in .0, 1., but is 1.5"):
        sampler(bone_share=1.5)


def test_a_label_of_floats_is_sampled_too():
    data = scan((30, 20, 25))
    data["label"] = data["label"].float()
    assert "positive" in kinds(sampler()(data))


def hard(false_voxels=(), missed=()):
    """Hard examples as python -m scripts mine adds them to a scan."""
    return {
        "hard_examples": {"false_mm": np.reshape(false_voxels, (-1, 3)) * [0.75, 0.75, 1.25], "missed": list(missed)}
    }


def test_negatives_lie_on_false_positives():
    data = scan((12, 20, 25), **hard([(40, 11, 20), (50, 30, 40)]))
    rois = sampler(positive_share=0.5, hard_share=1.0)(data)
    assert kinds(rois) == ["positive"] * 8 + ["hard"] * 8
    middles = {tuple(int(i) for i in np.unravel_index(int(roi["image"][0, 8, 8, 8]), (60, 40, 50))) for roi in rois[8:]}
    assert middles == {(40, 11, 20), (50, 30, 40)}


def test_positives_lie_on_missed_fractures():
    data = scan((20, 20, 20), (40, 20, 20), ids=[3, 7], **hard(missed=[7]))
    rois = sampler(positive_share=1.0, hard_share=1.0)(data)
    assert {int(roi["label"].max()) for roi in rois} == {7}


def test_a_share_of_the_negatives_lies_on_false_positives():
    data = scan((30, 20, 25), **hard([(12, 11, 20)]))
    found = kinds(sampler(num_samples=400, hard_share=0.25, positive_share=0.5)(data))
    assert found.count("positive") == 200 and 25 < found.count("hard") < 75  # as many as of bone above


def test_false_positives_are_shifted_like_positives():
    rois = sampler(max_shift_voxels=(4, 0, 2), hard_share=1.0)(scan(**hard([(30, 20, 25)])))
    starts = np.array([np.asarray(roi["image"].affine)[:3, 3] / [0.75, 0.75, 1.25] for roi in rois])
    assert np.abs(starts + 8 - [30, 20, 25]).max(axis=0).round(3).tolist() == [4, 0, 2]


@pytest.mark.parametrize(
    "arguments, places",
    [
        pytest.param({"hard_share": 1.0}, {}, id="scan without hard examples"),
        pytest.param({"hard_share": 0.0}, hard([(30, 20, 25)], [1]), id="no share"),
        pytest.param({"hard_share": 1.0}, hard([(90, 20, 25)]), id="place cropped away"),
    ],
)
def test_without_hard_examples_rois_are_as_ever(arguments, places):
    assert "hard" not in kinds(sampler(**arguments)(scan((30, 20, 25), **places)))


def test_a_hard_share_above_one_is_refused():
    with pytest.raises(ValueError, match="hard_share must be in .0, 1., but is 2"):
        sampler(hard_share=2)


def test_boxes_of_the_fractures_are_found():
    boxes = FindFracturesd("label")(scan((20, 20, 20), (40, 10, 5), ids=[3, 7]))["fracture_boxes"]
    assert boxes.tolist() == [[3, 18, 18, 18, 22, 22, 22], [7, 38, 8, 3, 42, 12, 7]]
    assert FindFracturesd("label")(scan())["fracture_boxes"].shape == (0, 7)


def test_boxes_that_are_known_are_not_searched():
    data = FindFracturesd("label")(scan((20, 20, 20), (40, 20, 20)))
    expected = [str(roi["image"].affine) for roi in sampler(seed=1)(data)]
    data["fracture_boxes"] = data["fracture_boxes"][:1]
    rois = sampler(seed=1, positive_share=1.0)(data)
    assert {int(roi["label"].max()) for roi in rois} == {1}
    assert [str(roi["image"].affine) for roi in sampler(seed=1)(scan((20, 20, 20), (40, 20, 20)))] == expected

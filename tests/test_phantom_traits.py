"""Tests of the traits of phantoms: what each changes, and that it changes nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from scripts.synthetic.choices import TRAITS
from scripts.synthetic.phantom import Phantom, make_phantom
from scripts.synthetic.phantom.anatomy import Patient
from scripts.synthetic.phantom.dataset import generate_phantoms
from scripts.synthetic.phantom.fractures import draw_flail
from scripts.synthetic.phantom.geometry import Curve, Grid
from scripts.synthetic.phantom.lookalikes import paint_cups, paint_joints
from scripts.synthetic.phantom.scan import draw_crowd, draw_grid
from scripts.synthetic.phantom.skeleton import VERTEBRAE_MM, draw_extra_rib, draw_ribs, fork
from scripts.synthetic.phantom.traits import change_patient, change_view, check_traits, trait_rng

SPACING = (3.6, 3.4, 4.0)
RIGHT = 12  # ids of right ribs are those of left ones and 12 more
# these change nothing but what they add, so one phantom can have them all
ADDED = ("bifid", "bridged", "cervical", "contrast", "cupped", "joints", "lumbar", "metal", "noise", "streaks")

Make = Callable[..., Phantom]


@pytest.fixture(scope="module")
def make() -> Make:
    made: dict[tuple[str, ...], Phantom] = {}

    def phantom(*traits: str) -> Phantom:
        """The phantom of seed 8 with these traits, made once."""
        if traits not in made:
            made[traits] = make_phantom(8, spacing=SPACING, traits=traits)
        return made[traits]

    return phantom


def patient_of(seed: int, *traits: str) -> Patient:
    return change_patient(Patient.draw(np.random.default_rng(seed)), frozenset(traits), seed)


def inside(phantom: Phantom, points_mm: np.ndarray) -> np.ndarray:
    """Which points lie in the scan, bool, shape ``(n,)``."""
    voxels = nib.affines.apply_affine(np.linalg.inv(phantom.affine), points_mm)
    return ((voxels > -0.5) & (voxels < np.array(phantom.image.shape) - 0.5)).all(axis=1)


def length_mm(points: np.ndarray) -> float:
    return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())


def bone(phantom: Phantom, identifier: int) -> np.ndarray:
    """Voxels of a rib in the RAS world, shape ``(n, 3)``."""
    return nib.affines.apply_affine(phantom.affine, np.argwhere(phantom.ribs == identifier))


# ---- the truth about ribs ----


def test_centerlines_lie_in_their_ribs(make: Make) -> None:
    """Ribs are some 7 by 13 mm thick: each voxel lies within 6.4 * 1.3 mm and a voxel of its axis."""
    phantom = make()
    assert sorted(phantom.centerlines_mm) == list(range(1, 25))
    for identifier, line in phantom.centerlines_mm.items():
        assert np.linalg.norm(np.diff(line, axis=0), axis=1).max() < 2.3
        away = np.linalg.norm(bone(phantom, identifier)[:, None] - line[None], axis=2).min(axis=1)
        assert away.max() < 6.4 * 1.3 + max(SPACING), f"rib {identifier}"


def test_centerlines_begin_at_the_spine(make: Make) -> None:
    phantom = make()
    spine = nib.affines.apply_affine(phantom.affine, np.argwhere(phantom.vertebrae))
    for line in phantom.centerlines_mm.values():
        head, front = (np.linalg.norm(spine - point, axis=1).min() for point in (line[0], line[-1]))
        assert head < 10 < front


def test_centerlines_go_on_beyond_the_scan(make: Make) -> None:
    """With the apex cut off, rib 1 begins above the scan at the same place of the world as without."""
    whole, cut = make(), make("cut_top")
    assert not inside(cut, cut.centerlines_mm[1][:1]).any()
    for identifier, line in whole.centerlines_mm.items():
        np.testing.assert_allclose(
            line - whole.midplane_point_mm, cut.centerlines_mm[identifier] - cut.midplane_point_mm
        )


# ---- names ----


def test_an_unknown_trait_is_an_error() -> None:
    with pytest.raises(ValueError, match="'beard', 'wings'; choose from scoliosis, osteopenia"):
        make_phantom(0, spacing=SPACING, traits=("wings", "thick", "beard"))


def test_one_name_is_a_list_of_one() -> None:
    assert check_traits("thick") == {"thick"}


def test_each_trait_has_a_source_of_its_own() -> None:
    drawn = {tuple(trait_rng(seed, trait).integers(1000, size=4)) for trait in TRAITS for seed in (0, 1, (0, 1, 2))}
    assert len(drawn) == 3 * len(TRAITS)


def test_a_trait_leaves_the_rest_as_it_is(make: Make) -> None:
    """Fractures and ribs stay where they are."""
    plain, other = make(), make(*ADDED)
    assert not np.array_equal(plain.image, other.image)
    np.testing.assert_array_equal(plain.label, other.label)
    assert plain.label_codes == other.label_codes
    was_rib = plain.ribs > 0
    np.testing.assert_array_equal(plain.ribs[was_rib], other.ribs[was_rib])


# ---- what each changes ----


@pytest.mark.parametrize("seed", range(6))
def test_scoliosis_bends_the_spine_by_15_to_30_mm(seed: int) -> None:
    patient, straight = patient_of(seed, "scoliosis"), patient_of(seed)
    z = np.linspace(-140, 140, 57)
    sideways = patient.midline(z) - straight.midline(z)
    assert 15 <= np.ptp(sideways) <= 60
    assert np.abs(sideways).max() <= 30
    ribs = [draw_ribs(one, np.random.default_rng(0)) for one in (patient, straight)]
    for bent, rib in zip(*ribs):
        head_z = VERTEBRAE_MM[rib.number] * patient.scale[2]
        moved = (bent.curve.points[0] - rib.curve.points[0]) @ patient.turn  # in the patient's frame
        assert moved[0] == pytest.approx(patient.bend(head_z), abs=1.5), "heads stay at their vertebrae"


def test_scoliosis_keeps_the_ribs_in_the_body(make: Make) -> None:
    phantom = make("scoliosis")
    for line in phantom.centerlines_mm.values():
        voxels = np.rint(nib.affines.apply_affine(np.linalg.inv(phantom.affine), line)).astype(int)
        voxels = voxels[((voxels >= 0) & (voxels < phantom.image.shape)).all(axis=1)]
        assert np.median(phantom.image[tuple(voxels.T)]) > 100


def test_osteopenia_darkens_bone(make: Make) -> None:
    plain, thin = make(), make("osteopenia")
    ribs = plain.ribs > 0
    assert thin.image[ribs].mean() < 0.75 * plain.image[ribs].mean()


def test_contrast_brightens_blood(make: Make) -> None:
    assert 250 <= patient_of(8, "contrast").blood_hu <= 400
    more = make(*ADDED).image.astype(float) - make().image
    assert (more > 150).sum() * np.prod(SPACING) > 100_000, "the heart's chambers and the aorta hold over 100 mL"


@pytest.mark.parametrize(
    "trait, least_hu, most_hu",
    [pytest.param("effusion", 5, 30, id="fluid"), pytest.param("consolidation", 20, 60, id="lung")],
)
def test_what_fills_the_lung_reaches_the_ribs(make: Make, trait: str, least_hu: float, most_hu: float) -> None:
    plain, filled = make(), make(trait)
    where = (plain.image < -700) & (filled.image > -100)
    assert where.sum() * np.prod(SPACING) > 150_000, "more than 150 mL"
    assert least_hu - 8 <= np.median(filled.image[where]) <= most_hu + 8
    voxels = nib.affines.apply_affine(plain.affine, np.argwhere(where))
    ribs = np.concatenate(list(plain.centerlines_mm.values()))
    nearest = np.linalg.norm(voxels[::7, None] - ribs[None, ::4], axis=2).min()
    assert nearest < 15


def test_arms_lie_beside_the_chest(make: Make) -> None:
    plain, armed = make(), make("arms_down")
    assert armed.image.shape[0] * SPACING[0] == pytest.approx(plain.image.shape[0] * SPACING[0] + 190, abs=SPACING[0])
    ribs = np.argwhere(armed.ribs)[:, 0]
    middle = armed.image.shape[2] // 2
    for beside in (armed.image[: ribs.min() - 8, :, middle], armed.image[ribs.max() + 8 :, :, middle]):
        assert (beside > 700).sum() >= 6, "the cortex of the humerus"
        assert ((beside > 20) & (beside < 100)).sum() * SPACING[0] * SPACING[1] > 1500, "muscle"


def test_metal_is_brighter_than_bone(make: Make) -> None:
    plain, metal = make(), make(*ADDED)
    assert (metal.image > 2000).sum() > (plain.image > 2000).sum() + 10


def test_flails_are_displaced_fractures_of_neighboring_ribs() -> None:
    patient = patient_of(3)
    grid = draw_grid(patient, "full", (160, 125, 165), (2.1, 2.1, 2.0), np.random.default_rng(3))
    ribs = draw_ribs(patient, np.random.default_rng(3))
    z = VERTEBRAE_MM * patient.scale[2]
    spine = np.stack([patient.midline(z), patient.spine_y(z), z], axis=1) @ patient.turn.T
    for seed in range(8):
        found = draw_flail(grid, ribs, spine, [], np.random.default_rng(seed))
        broken = sorted({ribs[fracture.rib].number for fracture in found})
        assert 3 <= len(broken) <= 6
        assert broken == list(range(broken[0], broken[-1] + 1))
        assert {fracture.code for fracture in found} == {1}
        assert len({ribs[fracture.rib].side for fracture in found}) == 1
        for fracture in found:
            moved = np.linalg.norm(fracture.breaks[0].after_mm - fracture.breaks[0].before_mm)
            assert 2 <= moved <= 14 and -8 <= fracture.breaks[0].width_mm <= 12


def test_crowded_scans_hold_many_fractures_of_neighboring_ribs(make: Make) -> None:
    plain, crowded = make(), make("crowded")
    assert len(crowded.fractures) >= 9 > len(plain.fractures)
    broken = {fracture.rib_id for fracture in crowded.fractures}
    neighbored = [fracture for fracture in crowded.fractures if {fracture.rib_id - 1, fracture.rib_id + 1} & broken]
    assert len(neighbored) > len(crowded.fractures) / 2


def test_the_number_of_fractures_in_crowded_scans() -> None:
    counts = [draw_crowd(np.random.default_rng(seed)) for seed in range(200)]
    assert (min(counts), max(counts)) == (9, 36)
    assert 13 <= np.median(counts) <= 15


def test_displaced_adds_to_the_fractures(make: Make) -> None:
    plain, broken = make(), make("displaced")
    assert len(broken.label_codes) >= len(plain.label_codes) + 3
    assert sorted(np.unique(broken.label)) == list(range(len(broken.label_codes) + 1))


def test_bridges_join_neighboring_ribs(make: Make) -> None:
    """The two halves of a bridge, each of its rib's id, touch: so do two ribs that else are apart."""

    def pairs(phantom: Phantom) -> set[tuple[int, int]]:
        found = set()
        for axis in range(3):
            for reach in (1, 2):
                a = np.moveaxis(phantom.ribs, axis, 0)[:-reach].ravel().astype(int)
                b = np.moveaxis(phantom.ribs, axis, 0)[reach:].ravel().astype(int)
                both = (a > 0) & (b > 0) & (a != b)
                found |= {(int(min(pair)), int(max(pair))) for pair in zip(a[both], b[both])}
        return found

    joined = pairs(make(*ADDED)) - pairs(make())
    assert 1 <= len(joined) <= 2
    assert all(b - a == 1 for a, b in joined)


@pytest.mark.parametrize("apart_mm", [15.0, -15.0])
def test_a_fork_leaves_its_rib_and_ends_apart(apart_mm: float) -> None:
    rib = next(rib for rib in draw_ribs(patient_of(1), np.random.default_rng(1)) if rib.number == 4)
    branch = fork(rib, 50.0, apart_mm)
    assert branch.rib_id == rib.rib_id
    assert np.linalg.norm(rib.curve.points - branch.curve.points[0], axis=1).min() < 0.1
    assert np.linalg.norm(rib.curve.points[-1] - branch.curve.points[-1]) == pytest.approx(15, abs=1)
    assert branch.curve.length_mm == pytest.approx(50, abs=8)


@pytest.mark.parametrize(
    "ids, level, shortest_mm, longest_mm",
    [
        pytest.param({31, 33}, 0, 20, 50, id="at C7"),
        pytest.param({32, 34}, 13, 15, 40, id="at L1"),
    ],
)
def test_extra_ribs(make: Make, ids: set[int], level: int, shortest_mm: float, longest_mm: float) -> None:
    phantom = make(*ADDED)
    extra = {i for i in phantom.centerlines_mm if i in ids}
    assert extra
    for identifier in extra:
        line = phantom.centerlines_mm[identifier]
        assert shortest_mm - 2 <= length_mm(line) <= longest_mm + 2
        assert len(bone(phantom, identifier)) > 3
        neighbor = phantom.centerlines_mm[(1 if level == 0 else 12) + (RIGHT if identifier > 32 else 0)]
        up = line[0, 2] - neighbor[0, 2]
        assert up == pytest.approx(VERTEBRAE_MM[level] - VERTEBRAE_MM[1 if level == 0 else 12], abs=4)


def test_an_extra_rib_has_a_number_of_its_own() -> None:
    with pytest.raises(ValueError, match="number is 3; an extra rib has the number 0 or 13"):
        draw_extra_rib(patient_of(0), 3, 1, 30.0, np.random.default_rng(0))


@pytest.mark.parametrize(
    "trait, whole, cut",
    [
        pytest.param("cut_top", range(7, 12), (1, 2), id="heads of 1 and 2 are out of the scan, all of 7 to 11 is in"),
        pytest.param("cut_bottom", range(2, 6), (11, 12), id="the front of 11 and all of 12 are out of the scan"),
    ],
)
def test_cut_scans(make: Make, trait: str, whole: range, cut: tuple[int, int]) -> None:
    phantom = make(trait)
    for side in (0, RIGHT):
        shown = {number: inside(phantom, phantom.centerlines_mm[number + side]) for number in range(1, 13)}
        assert all(shown[number].all() for number in whole)
        assert not any(shown[number].all() for number in cut)
        assert shown[5].any()


def test_a_narrow_view_cuts_both_sides(make: Make) -> None:
    phantom = make("cut_side")
    for side in (0, RIGHT):
        shown = inside(phantom, phantom.centerlines_mm[5 + side])
        assert shown[0] and shown[-1] and not shown.all(), "the ends are in the scan, the middle is not"


def test_thick_slices_are_means_of_thin_ones(make: Make) -> None:
    phantom = make("thick")
    spacing = nib.affines.voxel_sizes(phantom.affine)
    np.testing.assert_allclose(spacing[:2], SPACING[:2])
    assert 4 <= spacing[2] <= 5
    assert phantom.image.shape == phantom.ribs.shape == phantom.label.shape == phantom.vertebrae.shape
    for identifier in (4, 16):
        away = bone(phantom, identifier)[:, None] - phantom.centerlines_mm[identifier][None]
        assert np.linalg.norm(away, axis=2).min(axis=1).max() < 13


def test_noise_is_twice_to_three_times_as_strong(make: Make) -> None:
    air = (make().image < -970) & (make(*ADDED).image < -900)
    plain, noisy = (phantom.image[air].astype(float) for phantom in (make(), make(*ADDED)))
    assert noisy.std() > 1.3 * plain.std()  # cut at -1024 HU


def test_a_child_is_small(make: Make) -> None:
    child = make("child")
    np.testing.assert_allclose(nib.affines.voxel_sizes(child.affine), SPACING)
    shares = [length_mm(child.centerlines_mm[i]) / length_mm(make().centerlines_mm[i]) for i in range(1, 25)]
    assert 0.55 <= min(shares) and max(shares) <= 0.75
    assert np.ptp(shares) < 0.02
    away = np.linalg.norm(bone(child, 5)[:, None] - child.centerlines_mm[5][None], axis=2).min(axis=1)
    assert away.max() < 10


def in_ras(phantom: Phantom, volume: np.ndarray) -> np.ndarray:
    """A volume with its axes to the right, to the front and up."""
    return volume[tuple(slice(None, None, int(step)) for step in np.sign(np.diag(phantom.affine)[:3]))]


def test_streaks_lie_between_the_shoulders_from_left_to_right(make: Make) -> None:
    plain, streaked = (in_ras(one, one.image).astype(float) for one in (make(), make("streaks")))
    added = streaked - plain
    by_slice = added.std(axis=(0, 1))
    assert by_slice[-8:].mean() > 15 and by_slice[:20].max() < 2
    top = added[:, :, -8:]
    changes = [np.abs(np.diff(top, axis=axis)).mean() for axis in (0, 1)]
    assert changes[0] < 0.5 * changes[1]
    assert not added[plain < -500].any()  # no ray of air


def test_a_breath_moves_the_front_and_its_truth_in_some_slabs(make: Make) -> None:
    plain, breathing = make(), make("breathing")
    image, moved = (in_ras(one, one.image).astype(float) for one in (plain, breathing))
    changed = np.abs(moved - image).max(axis=(0, 1)) > 50
    assert 0.2 < changed.mean() < 0.8
    assert np.array_equal(moved[:, : moved.shape[1] // 5], image[:, : moved.shape[1] // 5])  # the back lies still
    bones = in_ras(plain, plain.ribs > 0) | in_ras(breathing, breathing.ribs > 0)
    assert (in_ras(breathing, breathing.ribs) != in_ras(plain, plain.ribs))[bones].any()
    for identifier, line in breathing.centerlines_mm.items():
        steps = line - breathing.midplane_point_mm - (plain.centerlines_mm[identifier] - plain.midplane_point_mm)
        assert np.abs(steps[:, [0, 2]]).max() < 1e-6 and -1e-6 < steps[:, 1].min() and steps[:, 1].max() <= 6
        away = np.linalg.norm(bone(breathing, identifier)[:, None] - line[None], axis=2).min(axis=1)
        assert len(away) == 0 or away.max() < 6.4 * 1.3 + max(SPACING) + 2, f"rib {identifier}"


def test_a_soft_kernel_blurs(make: Make) -> None:
    plain, soft = (in_ras(one, one.image).astype(float) for one in (make(), make("soft")))
    assert np.abs(np.diff(soft, axis=0)).mean() < 0.9 * np.abs(np.diff(plain, axis=0)).mean()


@pytest.mark.parametrize("seed", range(3))
def test_cups_are_hollow_in_front_and_have_a_rim(seed: int) -> None:
    patient = patient_of(seed)
    grid = Grid((110, 90, 110), (3.0, 3.0, 3.0), (-165.0, -130.0, -180.0), np.random.default_rng(0))
    ribs = draw_ribs(patient, np.random.default_rng(seed))
    grid.image[:] = 1000.0
    paint_cups(grid, ribs, np.random.default_rng(seed))
    x, y, z = np.nonzero(grid.image < 999)
    places = np.stack([axis[index] for axis, index in zip(grid.axes_mm, (x, y, z))], axis=1)
    ends = np.stack([rib.curve.points[-1] for rib in ribs if rib.number <= 10])
    away = np.linalg.norm(places[:, None] - ends[None], axis=2)
    assert away.min(axis=1).max() < 20  # at the ends of ribs alone
    assert 0.3 < (away.min(axis=0) < 6).mean() < 0.95  # at most of them, not all


@pytest.mark.parametrize("seed", range(3))
def test_joints_are_worn_near_the_spine(seed: int) -> None:
    patient = patient_of(seed)
    grid = Grid((110, 90, 110), (3.0, 3.0, 3.0), (-165.0, -130.0, -180.0), np.random.default_rng(0))
    ribs = draw_ribs(patient, np.random.default_rng(seed))
    paint_joints(grid, patient, ribs, np.random.default_rng(seed))
    places = np.argwhere(grid.image > -900) * 3.0 + grid.origin_mm
    heads = np.stack([rib.curve.points[0] for rib in ribs if rib.number <= 10])
    assert len(places) > 50
    assert np.linalg.norm(places[:, None] - heads[None], axis=2).min(axis=1).max() < 45


def test_a_data_set_has_each_trait_in_about_half_of_its_scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def made(*arguments: Any, traits: Sequence[str], **settings: Any) -> Phantom:
        asked.append(tuple(traits))
        return make_phantom(*arguments, **settings, traits=[])

    monkeypatch.setattr("scripts.synthetic.phantom.dataset.make_phantom", made)
    small: dict[str, Any] = {"shape": (12, 12, 8), "spacing": (24.0, 24.0, 30.0), "workers": 1, "validation": 0}
    generate_phantoms(tmp_path, training=12, test=0, traits=["soft", "joints"], **small)
    counts = [sum(trait in own for own in asked) for trait in ("joints", "soft")]
    assert len(asked) == 12 and all(2 <= count <= 10 for count in counts)
    assert json.loads((tmp_path / "dataset-info.json").read_text())["traits"] == ["joints", "soft"]
    with pytest.raises(ValueError, match="'beard'"):
        generate_phantoms(tmp_path / "other", traits=["beard"], **small)


def test_all_traits_at_once() -> None:
    phantom = make_phantom((4, 2), spacing=(5.0, 5.2, 4.0), traits=sorted(set(TRAITS) - {"cut_side"}))
    assert phantom.image.shape == phantom.ribs.shape
    assert len(np.unique(phantom.ribs)) > 12


def test_too_little_is_left() -> None:
    with pytest.raises(ValueError, match="cut_side, thick leave too little of the scan; ask for a larger shape"):
        make_phantom(0, shape=(30, 30, 4), spacing=(3, 3, 3), traits=("thick", "cut_side"))


def test_a_view_without_a_trait_of_the_view_is_the_same_object() -> None:
    patient = patient_of(0)
    grid = draw_grid(patient, "slab", None, None, np.random.default_rng(0))
    assert change_view(grid, patient, frozenset({"metal"}), 0, 1.0) is grid
    assert isinstance(grid, Grid) and isinstance(draw_ribs(patient, np.random.default_rng(0))[0].curve, Curve)

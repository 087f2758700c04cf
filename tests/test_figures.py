"""Tests of scripts/reporting/figures.py: what the figures hold, read from the figures themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.lines import Line2D
from matplotlib.text import Annotation

from scripts.metrics.froc import ScanResult, challenge_scores
from scripts.reporting import figures as pictures
from scripts.reporting.figures import curves_picture, froc_picture, scan_picture

# Index to mm (right, anterior, superior): RibFrac's usual axes, MONAI's, and permuted ones.
LPS = np.array([[-0.7, 0, 0, 12], [0, -0.8, 0, -7], [0, 0, 1.25, 30], [0, 0, 0, 1]])
RAS = np.array([[0.7, 0, 0, 12], [0, 0.8, 0, -7], [0, 0, 1.25, 30], [0, 0, 0, 1]])
PERMUTED = np.array([[0, 0, 0.7, 12], [0.8, 0, 0, -7], [0, -1.25, 0, 30], [0, 0, 0, 1]])


@pytest.fixture()
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is saved, which is written all the same."""
    saved: list[Figure] = []
    save = pictures.save_figure

    def keep(figure: Figure, path: str | Path) -> None:
        saved.append(figure)
        save(figure, path)

    monkeypatch.setattr(pictures, "save_figure", keep)
    # Coarse, for speed.
    monkeypatch.setattr(pictures, "DOTS_PER_INCH", 30)
    return saved


def points(line: Line2D) -> list[list[float]]:
    return np.asarray(line.get_xydata()).tolist()


def legend(axes: Axes) -> list[str]:
    found = axes.get_legend()
    return [] if found is None else [text.get_text() for text in found.get_texts()]


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def outlines(axes: Axes, color: str) -> list[np.ndarray]:
    """Corner points in mm of every closed outline of a color."""
    return [np.array(points(line)) for line in axes.lines if to_hex(line.get_color()) == color.lower()]


def shown(axes: Axes) -> np.ndarray:
    """The panel's pixels as a reader sees them: rows from the top, columns from the left."""
    (image,) = axes.images
    pixels = np.asarray(image.get_array())
    return pixels if image.origin == "upper" else pixels[::-1]


def blocks(shape: Sequence[int], *starts: Sequence[int], size: int = 3) -> np.ndarray:
    """Cubes with the ids 1, 2 ..., in voxels from their starts."""
    ids = np.zeros(shape, np.int16)
    for instance, start in enumerate(starts, start=1):
        ids[tuple(slice(a, a + size) for a in start)] = instance
    return ids


@pytest.mark.parametrize("affine", [LPS, RAS, PERMUTED], ids=["L P S", "R A S", "A I R"])
def test_right_is_left_and_front_is_up_and_head_is_up(
    affine: np.ndarray, figures: list[Figure], tmp_path: Path
) -> None:
    shape = (20, 16, 12) if affine is not PERMUTED else (16, 12, 20)
    image_hu = np.full(shape, 40.0)
    # The voxel farthest to the right, front and head, found by its place in mm.
    index = np.indices(shape).reshape(3, -1)
    bright = index[:, np.argmax((affine[:3, :3] @ index).sum(axis=0))]
    image_hu[tuple(bright)] = 1000
    pred = np.zeros(shape, np.int16)
    pred[tuple(bright)] = 1
    scan_picture(image_hu, affine, pred, [0.5], tmp_path / "scan.png")
    coronal, axial = figures[0].axes
    assert shown(coronal).shape == (12, 20) and shown(axial).shape == (16, 20)
    for axes in (coronal, axial):
        assert shown(axes)[0, 0] == 1000 and (shown(axes) == 1000).sum() == 1
        assert texts(axes)[:2] == ["R", "L"]
        places = [text.get_position()[0] for text in axes.texts[:2]]
        assert places[0] < 0.1 and places[1] > 0.9
        # 20 voxels of 0.7 mm; the outline lies around the first voxel's center, at 0 mm.
        assert np.ptp(axes.get_xlim()) == pytest.approx(14)
        (outline,) = outlines(axes, pictures.CANDIDATE_COLOR)
        assert np.abs(outline[:, 0]).max() <= 0.35 + 1e-9
    assert np.ptp(coronal.get_ylim()) == pytest.approx(12 * 1.25) and np.ptp(axial.get_ylim()) == pytest.approx(
        16 * 0.8
    )
    FigureCanvasAgg(figures[0]).draw()
    (heading,) = [text for text in figures[0].texts if "coronal" in text.get_text()]
    box = heading.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figures[0].bbox.width  # nothing of it is cut off
    # The head's slice: 30 mm at index 0; ten more voxels up where the axis runs up.
    superior_mm = 30 + 11 * 1.25 if affine is not PERMUTED else 30
    assert axial.get_title() == f"S +{superior_mm:.1f} mm, predicted"


def test_annotation_beside_prediction_in_slices_through_the_fractures(figures: list[Figure], tmp_path: Path) -> None:
    shape = (30, 24, 20)
    # Fractures 1 and 2 share slices 2 to 4, fracture 3 has 14 to 16; one candidate on 1, one where nothing is.
    label = blocks(shape, (3, 3, 2), (20, 3, 2), (3, 15, 14))
    pred = blocks(shape, (4, 4, 3), (20, 15, 8))
    scan_picture(
        np.full(shape, 40.0), LPS, pred, np.array([0.9, 0.25]), tmp_path / "s.png", label=label, title="RibFrac1"
    )
    coronals, axials = figures[0].axes[:2], figures[0].axes[2:]
    assert [axes.get_title().replace("\n", " ") for axes in coronals] == [
        "annotated: 3 fractures",
        "predicted: 2 candidates of score 0 or more",
    ]
    assert [text for text in texts(coronals[0]) if text.startswith("F")] == ["F1", "F2", "F3"]
    assert [text for text in texts(coronals[1]) if text.startswith("C")] == ["C1 0.90", "C2 0.25"]
    assert len(outlines(coronals[0], pictures.FRACTURE_COLOR)) == 3
    assert len(outlines(coronals[1], pictures.CANDIDATE_COLOR)) == 2
    # Two slices, from the head: one through fracture 3, one through 1 and 2; each annotated, then predicted.
    heights_mm = [float(axes.get_title().split()[1]) for axes in axials]
    assert heights_mm[0] == heights_mm[1] and heights_mm[2] == heights_mm[3]
    assert 30 + 14 * 1.25 <= heights_mm[0] <= 30 + 16 * 1.25 + 0.1 and 30 + 2 * 1.25 <= heights_mm[2] <= 30 + 4 * 1.25
    assert [axes.get_title().split()[-1] for axes in axials] == ["annotated", "predicted"] * 2
    assert [len(outlines(axes, pictures.FRACTURE_COLOR)) for axes in axials] == [1, 0, 2, 0]
    assert "RibFrac1" in figures[0].get_suptitle()
    assert imread(tmp_path / "s.png").ndim == 3


def test_without_fractures_the_slices_go_through_the_best_candidates(figures: list[Figure], tmp_path: Path) -> None:
    shape = (20, 20, 30)
    pred = blocks(shape, (2, 2, 1), (2, 2, 9), (2, 2, 17), (2, 2, 25))
    scores = [0.1, 0.9, 0.8, 0.2]
    for label in (None, np.zeros(shape, np.int16)):
        scan_picture(np.zeros(shape), RAS, pred, scores, tmp_path / "scan.png", label=label, max_slices=2)
    without, empty = figures
    assert len(without.axes) == 1 + 2 and len(empty.axes) == 2 + 2 * 2
    for figure in figures:
        names = [
            text for axes in figure.axes for text in texts(axes) if "predicted:" not in axes.get_title() and "C" in text
        ]
        # From the head: candidate 3, then 2.
        assert names == ["C3 0.80", "C2 0.90"]


def test_candidates_below_the_operating_score_are_counted_but_not_drawn(figures: list[Figure], tmp_path: Path) -> None:
    shape = (20, 20, 30)
    pred = blocks(shape, (2, 2, 1), (2, 2, 9), (2, 2, 17), (2, 2, 25))
    scan_picture(np.zeros(shape), RAS, pred, [0.5, 0.9, 0.49, 0.1], tmp_path / "scan.png", operating_score=0.5)
    coronal, *axials = figures[0].axes
    assert coronal.get_title() == "predicted: 2 candidates of score 0.5 or more, 2 below"  # two columns have room
    assert len(outlines(coronal, pictures.CANDIDATE_COLOR)) == 2
    # From the head, through candidate 2, then 1; none through the others.
    assert [text for axes in axials for text in texts(axes) if text.startswith("C")] == ["C2 0.90", "C1 0.50"]


def test_slices_are_shown_in_the_bone_window(figures: list[Figure], tmp_path: Path) -> None:
    scan_picture(np.zeros((8, 8, 8)), RAS, blocks((8, 8, 8), (2, 2, 2)), [0.9], tmp_path / "scan.png")
    (image,) = figures[0].axes[1].images
    assert image.get_clim() == (-200.0, 1000.0)
    assert "bone window (−200 to 1000 HU)" in figures[0].get_suptitle()


def test_only_the_best_candidates_are_named_in_a_crowd(figures: list[Figure], tmp_path: Path) -> None:
    shape = (10, 10, 60)
    pred = blocks(shape, *((2, 2, 2 * z) for z in range(25)), size=1)
    scan_picture(np.zeros(shape), LPS, pred, np.linspace(0.9, 0.1, 25), tmp_path / "scan.png", max_slices=1)
    coronal = figures[0].axes[0]
    assert len(outlines(coronal, pictures.CANDIDATE_COLOR)) == 25
    named = [text for text in texts(coronal) if text.startswith("C")]
    assert len(named) == pictures.MAX_NAMED_CANDIDATES and named[0] == "C1 0.90"
    (told,) = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert told == "C: candidate (predicted; id, score of the 20 highest)"


def test_names_of_neighbors_do_not_lie_on_each_other(figures: list[Figure], tmp_path: Path) -> None:
    shape = (40, 40, 40)
    pred = blocks(shape, (10, 5, 20), (10, 15, 20), (10, 25, 20))
    scan_picture(np.zeros(shape), LPS, pred, [0.9, 0.8, 0.7], tmp_path / "scan.png")
    heights = [text.xy[1] for text in figures[0].axes[0].texts if isinstance(text, Annotation)]
    # One place in the coronal view, three heights, each a text apart: 0.03 of 50 mm.
    assert np.diff(heights) == pytest.approx([-1.5, -1.5])


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (5, 4, 1), (1, 30, 20), (64, 3, 2)], ids=["one voxel", "one slice", "one column", "thin"]
)
@pytest.mark.parametrize("found", [0, 1], ids=["nothing", "one of each"])
def test_any_size_is_drawn(shape: tuple[int, int, int], found: int, figures: list[Figure], tmp_path: Path) -> None:
    ids = np.zeros(shape, np.uint8)
    ids[-1, -1, -1] = found
    scan_picture(np.full(shape, -1000, np.int16), LPS, ids, [0.5] * found, tmp_path / "scan.png", label=ids)
    coronal, beside, axial, _ = figures[0].axes
    counted = "1 fracture" if found else "0 fractures"
    assert coronal.get_title() == f"annotated: {counted}"
    assert len(outlines(axial, pictures.FRACTURE_COLOR)) == found
    assert shown(beside).shape == (shape[2], shape[0])
    height, width, _ = imread(tmp_path / "scan.png").shape
    # 30 pixels an inch: at most 40 inches.
    assert max(height, width) < 1200


def test_air_around_the_body_is_left_out(figures: list[Figure], tmp_path: Path) -> None:
    image_hu = np.full((100, 80, 4), -1000, np.int16)
    image_hu[40:60, 32:48] = 40
    scan_picture(image_hu, LPS, np.zeros(image_hu.shape, np.int16), [], tmp_path / "scan.png")
    height, width = shown(figures[0].axes[1]).shape
    # 20×16 voxels of body and at most 12 voxels of margin on each side.
    assert 20 <= width <= 44 and 16 <= height <= 40


@pytest.mark.parametrize(
    "pred, label, message",
    [
        pytest.param(np.zeros((4, 4, 3), int), None, "pred has shape", id="candidates on another grid"),
        pytest.param(np.zeros((4, 4, 4), int), np.zeros((3, 4, 4), int), "label has shape", id="fractures likewise"),
        pytest.param(np.full((4, 4, 4), 2), None, "candidate 2 has no score", id="too few scores"),
    ],
)
def test_scan_picture_refuses(pred: np.ndarray, label: np.ndarray | None, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        scan_picture(np.zeros((4, 4, 4)), LPS, pred, [0.5], tmp_path / "scan.png", label=label)


def one_scan(scores: Sequence[float], best: Sequence[int], fractures: int) -> ScanResult:
    overlap = np.where(np.array(best) >= 0, 0.9, 0.0)
    codes = np.full(len(scores), -1)
    return ScanResult(np.ones(fractures, int), codes, np.array(scores, float), np.array(best, int), overlap, 10, 10, 5)


@pytest.mark.parametrize("bootstrap", [0, 20], ids=["curve alone", "with its interval"])
def test_froc_picture_shows_the_five_points(bootstrap: int, figures: list[Figure], tmp_path: Path) -> None:
    # All fractures of one scan at no false positive, none of the other: recall 0.5 everywhere.
    results = [one_scan([0.9, 0.9], [0, 1], 2), one_scan([0.4, 0.4], [-1, -1], 2)]
    details = challenge_scores(results, exact_thresholds=True, bootstrap=bootstrap)
    froc_picture(details, tmp_path / "new" / "froc.png")
    (axes,) = figures[0].axes
    (five,) = [line for line in axes.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(points(five), [[fp, 0.5] for fp in (0.5, 1.0, 2.0, 4.0, 8.0)], atol=1e-7)
    assert texts(axes) == ["0.500"] * 5
    assert axes.get_xlabel() == "false positives per scan"
    assert axes.get_title().startswith("FROC: average recall 0.500, maximum 0.500\n2 scans, 4 fractures, 4 candidates")
    labels = legend(axes)
    assert ("95 % interval (bootstrap over scans)" in labels) == bool(bootstrap)
    assert {"every score as threshold", "beyond the lowest threshold: maximum recall"} <= set(labels)
    assert (tmp_path / "new" / "froc.png").exists()


def test_froc_picture_of_one_scan_counts_in_the_singular(figures: list[Figure], tmp_path: Path) -> None:
    froc_picture(challenge_scores([one_scan([0.9], [0], 1)], bootstrap=0), tmp_path / "froc.png")
    assert figures[0].axes[0].get_title().splitlines()[1] == "1 scan, 1 fracture, 1 candidate"


def test_curves_picture_marks_the_lowest_validation_loss(figures: list[Figure], tmp_path: Path) -> None:
    history = {
        "training_loss": [(1, 0.9), (2, 0.5), (3, 0.3)],
        "validation_loss": [(1, 0.8), (2, 0.6), (3, 0.7), (4, float("nan"))],
        "learning_rate": [(1, 0.01), (2, 0.001), (3, 0.001)],
        "validation_dice": [(3, 0.4)],
        "not_yet": [],
    }
    curves_picture(history, tmp_path / "curves.png")
    losses, rate = figures[0].axes
    assert legend(losses) == ["training loss", "validation loss", "validation dice", "best: 0.6 in epoch 2"]
    (star,) = [line for line in losses.lines if line.get_marker() == "*"]
    assert points(star) == [[2, 0.6]]
    assert rate.get_yscale() == "log" and points(rate.lines[0]) == [[1, 0.01], [2, 0.001], [3, 0.001]]


def test_curves_picture_before_the_first_epoch(figures: list[Figure], tmp_path: Path) -> None:
    curves_picture({"training_loss": [], "learning_rate": [(1, 0.0)]}, tmp_path / "curves.png")
    assert not figures[0].axes[0].lines and figures[0].axes[1].get_yscale() == "linear"


def test_a_picture_that_fails_leaves_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "curves.png"
    curves_picture({"training_loss": [(1, 0.5)]}, path)
    before = path.read_bytes()

    def stop(canvas: FigureCanvasAgg, target: Path, **settings: object) -> None:
        Path(target).write_bytes(b"half a picture")
        raise KeyboardInterrupt

    monkeypatch.setattr(FigureCanvasAgg, "print_png", stop)
    with pytest.raises(KeyboardInterrupt):
        curves_picture({"training_loss": [(1, 0.25)]}, path)
    assert path.read_bytes() == before

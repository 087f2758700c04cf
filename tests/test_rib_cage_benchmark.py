"""Tests of benchmarks/rib_cage.py: what is counted, with found ribs made from the true ones."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from scripts.anatomy.rib_cage import Rib, RibCage, rib_id
from scripts.files.atomic_write import write_volume

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import rib_cage as benchmark  # noqa: E402
from benchmarks.rib_cage import Case, Truth, compare, draw_cases, labelled_truth, side_and_number, totals  # noqa: E402

Change = Callable[[Rib], Rib | None]


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """A whole chest at 3 mm with a flail chest and an extra rib, from the work folder."""
    case = Case(2, 5, (3.0, 3.1, 3.2), ("displaced", "lumbar"))
    folder = tmp_path_factory.mktemp("work")
    made = benchmark.truth_of(case, folder)
    again = benchmark.truth_of(case, folder)
    assert len(list(folder.iterdir())) == 1
    np.testing.assert_array_equal(made.ribs, again.ribs)
    return again


def cage_from(truth: Truth, change: Change = lambda rib: rib) -> RibCage:
    """The true ribs, each changed; on the scan's grid."""
    mask, ribs = np.zeros_like(truth.ribs), []
    order = {"left": 0, "right": 0}
    for true in sorted(truth.centerlines_mm, key=side_and_number):
        side, number = side_and_number(true)
        line = truth.centerlines_mm[true]
        voxels = nib.affines.apply_affine(np.linalg.inv(truth.affine), line)
        line = line[((voxels >= 0) & (voxels <= np.array(mask.shape) - 1)).all(axis=1)]
        if len(line) < 2:
            continue
        order[side] += 1
        rib = change(Rib(side, number, order[side], 1.0, line, True, True))
        if rib is not None:
            mask[truth.ribs == true] = rib.id
            ribs.append(rib)
    return RibCage(mask, truth.affine, tuple(ribs))


def compared(truth: Truth, change: Change = lambda rib: rib) -> dict[str, Any]:
    return compare(truth, lambda image, spacing, affine: cage_from(truth, change))


def test_the_truth_scores_everything(truth: Truth) -> None:
    figures = totals([compared(truth)])
    assert figures["ribs"] == figures["right"] >= 24
    assert figures["fractures"] == figures["placed"] == figures["side"] >= 4
    assert [figures[name] for name in ("shifted", "wrong", "unknown", "missed", "split", "none", "errors")] == [0] * 7
    assert figures["dice"] == figures["worst_dice"] == figures["covered"] == 1
    assert figures["away_95_mm"] == pytest.approx(0, abs=0.3)


def test_a_side_counted_one_too_high_is_shifted(truth: Truth) -> None:
    def shift(rib: Rib) -> Rib:
        number = rib.number or 0
        return replace(rib, number=number + 1) if rib.side == "left" and 0 < number < 12 else rib

    def drop_the_last(rib: Rib) -> Rib | None:
        return None if rib.side == "left" and (rib.number or 0) >= 12 else shift(rib)

    figures = totals([compared(truth, drop_the_last)])
    assert figures["shifted"] == 11 and figures["wrong"] == 0
    assert figures["missed"] == figures["ribs"] - figures["right"] - 11


def test_one_right_number_makes_the_others_wrong(truth: Truth) -> None:
    """Left ribs 2 and 3 are exchanged; the others are right."""
    exchange = {2: 3, 3: 2}
    figures = totals([compared(truth, lambda rib: replace(rib, number=exchange.get(rib.number or 0, rib.number)))])
    assert figures["wrong"] == 4 and figures["shifted"] == 0


def test_the_wrong_side_is_wrong(truth: Truth) -> None:
    other = {"left": "right", "right": "left"}
    result = compared(truth, lambda rib: replace(rib, side=other[rib.side]))
    figures = totals([result])
    assert figures["wrong"] == figures["ribs"]
    assert figures["side"] == figures["placed"] == 0
    assert not any(rib["order_right"] for rib in result["ribs"])


def test_unknown_numbers_have_an_order(truth: Truth) -> None:
    unknown = totals([compared(truth, lambda rib: replace(rib, number=None))])
    assert unknown["unknown"] == unknown["in_order"] == unknown["ribs"]
    assert unknown["unknown_rib"] == unknown["side"] == unknown["fractures"]
    turned = totals([compared(truth, lambda rib: replace(rib, number=None, order=20 - rib.order))])
    assert turned["unknown"] == turned["ribs"] and turned["in_order"] == 0


def test_what_is_not_found_is_missed(truth: Truth) -> None:
    figures = totals([compared(truth, lambda rib: None)])
    assert figures["missed"] == figures["ribs"]
    assert figures["covered"] == 0 and figures["placed"] == 0
    assert np.isnan(figures["dice"]) and np.isnan(figures["away_mm"])


def test_a_finder_that_fails_is_told(truth: Truth) -> None:
    def fail(*_: object) -> RibCage:
        raise RuntimeError("no spine")

    result = compare(truth, fail)
    assert result["error"].startswith("RuntimeError: no spine (test_rib_cage_benchmark.py:")
    assert totals([result])["missed"] == len(result["ribs"])


def test_a_moved_centerline_is_away_by_as_much(truth: Truth) -> None:
    """Moved by 4 mm across: at most 4 mm away, and mostly not much less; by 20 mm up, nothing is covered by it."""
    across = totals([compared(truth, lambda rib: replace(rib, centerline_mm=rib.centerline_mm + [0, 0, 4.0]))])
    assert 2.5 < across["away_mm"] <= 4 and across["away_95_mm"] <= 4.1
    assert across["covered"] > 0.9
    far = totals([compared(truth, lambda rib: replace(rib, centerline_mm=rib.centerline_mm + [0, 0, 60.0]))])
    assert far["covered"] < 0.1


def test_pieces_and_other_things_are_counted_apart(truth: Truth) -> None:
    """The front third of right rib 6 is a rib of its own, and a block in the corner is one more."""

    def find(*_: object) -> RibCage:
        cage = cage_from(truth)
        mask, line = cage.mask.copy(), truth.centerlines_mm[18]
        voxels = np.argwhere(mask == 18)
        mm = nib.affines.apply_affine(truth.affine, voxels)
        nearest = np.linalg.norm(mm[:, None] - line[None], axis=2).argmin(axis=1)
        piece = Rib("right", None, 15, 0.5, line[-20:], False, True)
        block = Rib("left", None, 16, 0.5, line[:2], False, True)
        mask[tuple(voxels[nearest > 0.7 * len(line)].T)] = piece.id
        mask[:4, :4, :4] = block.id
        return replace(cage, mask=mask, ribs=(*cage.ribs, piece, block))

    result = compare(truth, find)
    assert result["split"] == ["right unknown (15 from above)"]
    assert result["none"] == ["left unknown (16 from above)"]
    figures = totals([result])
    assert figures["right"] == figures["ribs"], "the larger piece stands for the rib"
    assert [rib["id"] for rib in result["ribs"] if rib["dice"] < 1] == [18]


def test_one_found_rib_stands_for_one(truth: Truth) -> None:
    """Ribs 4 and 5 of the left are one piece: one of them is missed."""
    merged = totals([compared(truth, lambda rib: None if rib.id == 5 else rib)])
    mask = cage_from(truth, lambda rib: None if rib.id == 5 else rib)
    both = replace(mask, mask=np.where(truth.ribs == 5, np.uint8(4), mask.mask))
    figures = totals([compare(truth, lambda *_: both)])
    assert figures["missed"] == merged["missed"] == 1


@pytest.mark.parametrize(
    "side, number",
    [("left", 1), ("left", 12), ("right", 1), ("right", 12), ("left", 0), ("right", 0), ("left", 13), ("right", 13)],
)
def test_ids_tell_side_and_number(side: str, number: int) -> None:
    assert side_and_number(rib_id(side, number, 1)) == (side, number)


def test_cases_do_not_depend_on_their_number() -> None:
    cases = draw_cases(60, 3)
    assert cases[:10] == draw_cases(10, 3)
    counts = {trait: sum(trait in case.traits for case in cases) for trait in benchmark.DRAWN}
    assert min(counts.values()) >= 2 and max(counts.values()) - min(counts.values()) <= 2
    assert {len(case.traits) for case in cases} == {0, 1, 2, 3}
    assert all(len(set(case.traits)) == len(case.traits) for case in cases)
    assert {case.spacing for case in draw_cases(3, 3, (2.0, 2.0, 2.5), [])} == {(2.0, 2.0, 2.5)}


def write_labelled(folder: Path, ids: NDArray[np.uint8], affine: NDArray[np.float64]) -> tuple[Path, Path]:
    write_volume(folder / "scan.nii.gz", np.zeros(ids.shape, dtype=np.int16), affine)
    write_volume(folder / "mask.nii.gz", ids, affine)
    return folder / "scan.nii.gz", folder / "mask.nii.gz"


def test_labelled_scans_are_turned(tmp_path: Path) -> None:
    """Axes L, P, S: the first voxel is the last one along x and y; 92 and 104 are the first ribs, 50 is none."""
    ids = np.zeros((12, 10, 8), dtype=np.uint8)
    ids[0, 0, 0], ids[1, 0, 0], ids[5, 5, 5], ids[0, 0, 7] = 92, 104, 50, 115
    affine = np.diag([-2.0, -3.0, 4.0, 1.0])
    truth = labelled_truth(*write_labelled(tmp_path, ids, affine))
    assert truth.ribs[-1, -1, 0] == 1 and truth.ribs[-2, -1, 0] == 13 and truth.ribs[-1, -1, 7] == 24
    assert (truth.ribs > 0).sum() == 3
    np.testing.assert_allclose(nib.affines.apply_affine(truth.affine, [11, 9, 0]), [0, 0, 0])


def test_labels_stand_for_centerlines(truth: Truth, tmp_path: Path) -> None:
    ids = np.where((truth.ribs > 0) & (truth.ribs <= 24), truth.ribs + 91, 0).astype(np.uint8)
    labelled = labelled_truth(*write_labelled(tmp_path, ids, truth.affine))
    figures = totals([compare(labelled, lambda *_: cage_from(truth))])
    assert figures["right"] == figures["ribs"] == 24
    assert figures["away_95_mm"] < 4, "a voxel"
    assert figures["covered"] > 0.99


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Two small scans, made once; nothing is found in them, and the files say so."""
    words = ["rib_cage.py", "--scans", "3", "--only", "0", "2", "--spacing", "6", "6", "6", "--workers", "1"]
    words += ["--work_dir", str(tmp_path / "work"), "--json", str(tmp_path / "all.json")]
    monkeypatch.setattr(sys, "argv", [*words, "--csv", str(tmp_path / "all.csv"), "--traits", "lumbar"])
    monkeypatch.setattr(benchmark, "_measured", lambda job: measured_without_ribs(job[0], job[1]))
    benchmark.main()
    assert "numbers right: 0.0%" in capsys.readouterr().out
    written = json.loads((tmp_path / "all.json").read_text())
    assert [scan["scan"] for scan in written["scans"]] == ["0-0", "0-2"]
    assert written["all"]["missed"] == written["traits"]["lumbar"]["missed"] >= 48
    rows = list(csv.DictReader((tmp_path / "all.csv").open()))
    assert [row["traits"] for row in rows] == ["lumbar", "lumbar"]
    assert sum(int(row["missed"]) for row in rows) == written["all"]["missed"]


def measured_without_ribs(case: Case, work_dir: Path) -> dict[str, Any]:
    truth = benchmark.truth_of(case, work_dir)
    result = compare(truth, lambda image, spacing, affine: RibCage(np.zeros((1, 1, 1), np.uint8), affine))
    return {"scan": case.name, "traits": list(case.traits), "spacing_mm": list(case.spacing), **result}

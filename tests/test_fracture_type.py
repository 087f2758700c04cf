"""Types of fractures: measures of ribs that are broken in a known way, the model, and the rule of segmental ones."""

from __future__ import annotations

import json

import numpy as np
import pytest
from broken_ribs import broken_rib, candidate_points

from scripts.description.fracture_type import (
    FEATURES,
    SHIPPED_MODEL,
    TypeModel,
    fit_type_model,
    segmental_pairs,
)
from scripts.description.measure import measure_fracture


def features(points=None, **broken):
    scan, affine, straight = broken_rib(**broken)
    found = measure_fracture(scan, affine, straight, candidate_points() if points is None else points, 1.1)
    return found.features


def test_measures_of_a_whole_rib_are_small():
    found = features()
    assert set(found) == set(FEATURES)
    for name in ("offset_mm", "missing_cortex", "missing_area", "step_mm", "second_missing", "bump_outer_mm"):
        assert found[name] < 0.2, name
    assert found["contact"] > 0.95 and found["extent_mm"] == pytest.approx(16.0, abs=2.0)


def test_what_tells_types_apart():
    whole, broken, moved = features(), features(gap_mm=1.5), features(offset_mm=(0.0, 4.0), gap_mm=1.5)
    assert broken["missing_cortex"] > 3 * whole["missing_cortex"] + 0.1
    assert moved["offset_mm"] > 3.5 > broken["offset_mm"]
    twice = features(gap_mm=1.5, breaks_mm=(0.0, 30.0))
    assert twice["second_missing"] > 3 * broken["second_missing"] + 0.1


def toy(count: int = 40) -> tuple[list[dict[str, float]], list[int]]:
    """Measures of which the first four each tell one type."""
    rng, rows, codes = np.random.default_rng(0), [], []
    for code in (1, 2, 3, 4):
        for _ in range(count):
            row = dict(zip(FEATURES, rng.normal(0, 0.1, len(FEATURES))))
            row[FEATURES[code - 1]] += 1.0
            rows.append(row)
            codes.append(code)
    return rows, codes


def test_the_model_learns_what_tells_a_type(tmp_path):
    rows, codes = toy()
    model = fit_type_model(rows, codes, "a toy")
    for row, code in zip(rows, codes):
        shares = model.probabilities(row)
        assert max(shares, key=lambda one: shares[one]) == code and sum(shares.values()) == pytest.approx(1.0)
    model.write(tmp_path / "model.json")
    read = TypeModel.read(tmp_path / "model.json")
    assert read.source == "a toy"
    assert read.probabilities(rows[0])[1] == pytest.approx(model.probabilities(rows[0])[1], abs=1e-3)


def test_fractures_of_unknown_type_are_left_out():
    rows, codes = toy()
    wild = [dict.fromkeys(FEATURES, 50.0)] * 30
    one, other = fit_type_model(rows, codes, ""), fit_type_model(rows + wild, codes + [-1] * 30, "")
    assert np.allclose(one.members[0][0], other.members[0][0]) and np.allclose(one.mean, other.mean)


def test_a_type_that_is_rare_counts_alike():
    rows, codes = toy()
    kept = [i for i, code in enumerate(codes) if code != 3 or i % 10 == 0]
    model = fit_type_model([rows[i] for i in kept], [codes[i] for i in kept], "")
    assert all(max(s := model.probabilities(rows[i]), key=lambda one: s[one]) == 3 for i in range(80, 120))


def test_a_type_without_a_fracture_is_told():
    rows, codes = toy()
    with pytest.raises(ValueError, match="no fracture is of the type Buckle"):
        fit_type_model([rows[i] for i in range(80)] + rows[120:], codes[:80] + codes[120:], "")


@pytest.mark.parametrize("change", [{"features": ["other"]}, {"classes": [1, 2]}])
def test_a_model_of_another_program_is_refused(change, tmp_path):
    content = json.loads(SHIPPED_MODEL.read_text()) | change
    (tmp_path / "model.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="fit it again"):
        TypeModel.read(tmp_path / "model.json")


def test_the_shipped_model_is_of_these_measures():
    model = TypeModel.read(SHIPPED_MODEL)
    assert model.features == FEATURES
    shares = model.probabilities(features(offset_mm=(0.0, 5.0), gap_mm=2.0))
    assert max(shares, key=lambda code: shares[code]) == 1


# id, rib, way along it in mm, type
@pytest.mark.parametrize(
    "breaks, pairs",
    [
        pytest.param([], {}, id="none"),
        pytest.param([(1, 6, 50.0, "displaced")], {}, id="one"),
        pytest.param([(1, 6, 50.0, "displaced"), (2, 6, 60.0, "nondisplaced")], {1: 2, 2: 1}, id="10 mm apart"),
        pytest.param([(1, 6, 50.0, "displaced"), (2, 6, 59.9, "nondisplaced")], {}, id="less than 10 mm"),
        pytest.param([(1, 6, 50.0, "displaced"), (2, 6, 110.0, "segmental")], {1: 2, 2: 1}, id="60 mm apart"),
        pytest.param([(1, 6, 50.0, "displaced"), (2, 6, 110.1, "displaced")], {}, id="more than 60 mm"),
        pytest.param([(1, 6, 50.0, "displaced"), (2, 7, 70.0, "displaced")], {}, id="on two ribs"),
        pytest.param([(1, 6, 50.0, "displaced"), (2, 6, 70.0, "buckle")], {}, id="a buckle frees no piece"),
        pytest.param([(1, 6, 50.0, "displaced"), (2, 6, 70.0, "")], {}, id="of unknown type"),
        pytest.param(
            [(1, 6, 50.0, "displaced"), (2, 6, 90.0, "displaced"), (3, 6, 70.0, "displaced")],
            {1: 3, 3: 1},
            id="three: the first two of the nearest",
        ),
        pytest.param(
            [(1, 6, 50.0, "displaced"), (2, 6, 95.0, "displaced"), (3, 6, 75.0, "displaced")],
            {2: 3, 3: 2},
            id="three: the nearest two",
        ),
    ],
)
def test_segmental_by_rule(breaks, pairs):
    assert segmental_pairs(breaks) == pairs

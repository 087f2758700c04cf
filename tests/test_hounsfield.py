"""Values that are no HU are told from all that a scan in HU may hold."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.images.hounsfield import hu_problem


def chest() -> np.ndarray:
    """A cylinder of soft tissue with bone (1 %) and two lungs in air, in HU."""
    rng = np.random.default_rng(0)
    x, y = np.mgrid[-1:1:64j, -1:1:64j]
    volume = np.full((64, 64, 20), -1000.0)
    volume[x**2 + y**2 < 0.64] = 40
    volume[np.abs(x) ** 2 / 0.16 + y**2 / 0.16 < 1] = -850
    volume += rng.normal(0, 20, volume.shape)
    volume[40:46, 50:55, 4:16] = 1200
    return volume.clip(-1024, 3071)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda hu: hu, id="as it is"),
        pytest.param(lambda hu: hu.clip(0, None), id="cut off at 0"),
        pytest.param(lambda hu: hu.clip(-200, 1000), id="cut off as the network does"),
        pytest.param(lambda hu: np.where(hu < -900, -3024, hu), id="padded far below air"),
        pytest.param(lambda hu: hu[20:44, 44:56], id="hardly any air"),
        pytest.param(lambda hu: (hu + 1024) / 4095, id="from 0 to 1: no HU, but no missing offset either"),
    ],
)
def test_a_scan_in_hu_passes(change) -> None:
    assert hu_problem(change(chest())) == ""


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda hu: hu + 1024, id="from 0 to 4095"),
        pytest.param(lambda hu: (hu + 1024).astype(np.uint16), id="stored without sign"),
        pytest.param(lambda hu: np.where(hu < -900, -2000, hu + 1024), id="padded with -2000 before the offset"),
        pytest.param(lambda hu: hu.clip(-1000, None) + 1000, id="an offset of -1000"),
        pytest.param(lambda hu: hu[20:44, 20:56] + 1024, id="no air around"),
    ],
)
def test_a_missing_offset_is_told(change) -> None:
    assert "the offset (mostly -1024) seems to be missing" in hu_problem(change(chest()))


def test_a_real_scan(real_ct) -> None:
    """Of the sample CT 0.2 % lie above 800 HU."""
    hu = real_ct.image_hu
    assert hu_problem(hu) == ""
    assert hu_problem(hu.astype(np.int32).clip(-1024, None) + 1024).startswith("3")  # 30 to 39 % of it is tissue

"""The benchmark of long runs: it sees what grows."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import pytest
from conftest import BUNDLE_ROOT
from ignite.engine import Engine, Events

sys.path.insert(0, str(BUNDLE_ROOT.parent))

from benchmarks.long_run import Watch, growth, predict, train  # noqa: E402

pytestmark = pytest.mark.slow


def test_growth_is_the_slope_behind_the_warm_up() -> None:
    assert growth([90, 10, 70, 20, 30, *range(20, 25)]) == pytest.approx(1)  # the first five of ten are left out
    assert growth([5.0] * 10) == pytest.approx(0, abs=1e-9)


def test_what_is_not_closed_or_freed_is_seen(tmp_path: Path) -> None:
    held = []

    def leak(engine: Engine, number: int) -> None:
        path = tmp_path / f"{number}"
        path.write_bytes(bytes(1 << 20))
        block = mmap.mmap(-1, 4 << 20)  # of the system, not of what the program has freed before
        block.write(b"1" * (4 << 20))
        held.append((path.open("rb"), block))

    engine = Engine(leak)
    watch = Watch(Events.ITERATION_COMPLETED, tmp_path)
    watch.attach(engine)
    engine.run(range(10))
    assert growth(watch.figures["open_files"]) == pytest.approx(1)
    assert growth(watch.figures["disk_mib"]) == pytest.approx(1)
    assert growth(watch.figures["memory_mib"]) == pytest.approx(4, rel=0.2)
    for file, _ in held:
        file.close()


def test_predictions_and_trainings_are_watched_at_each_step(tmp_path: Path) -> None:
    prediction, training = predict(2, tmp_path / "prediction"), train(2, tmp_path / "training")
    assert len(list((tmp_path / "prediction" / "out" / "predictions").glob("*.nii.gz"))) == 2
    assert (tmp_path / "training" / "out" / "models" / "model.pt").exists()
    for figures in (prediction, training):
        assert [len(values) for values in figures.values()] == [2] * 4
    # each scan's mask, probabilities and picture stay
    assert prediction["disk_mib"][0] < prediction["disk_mib"][1]

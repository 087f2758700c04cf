"""The benchmark of a prediction's steps: what it times, and its table."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import BUNDLE_ROOT

sys.path.insert(0, str(BUNDLE_ROOT.parent))

from benchmarks import steps  # noqa: E402


def test_the_outermost_step_counts() -> None:
    now: Iterator[float] = iter([10.0, 14.0, 20.0, 21.0])  # a look as a step begins, and as it ends
    clock = steps.StepClock(lambda: next(now))
    inner = clock.timed(lambda value: value + 1, "inner")
    outer = clock.timed(lambda value: inner(value) * 2, "outer")
    assert outer(1) == 4 and inner(1) == 2
    assert clock.seconds == {"outer": 4.0, "inner": 1.0}
    assert list(inspect.signature(inner).parameters) == ["value"]  # Ignite counts them


def test_a_step_that_fails_counts_too() -> None:
    clock = steps.StepClock(iter([1.0, 3.0]).__next__)
    with pytest.raises(ZeroDivisionError):
        clock.timed(lambda: 1 / 0, "fails")()
    assert clock.seconds == {"fails": 2.0}


def test_the_least_of_several_runs() -> None:
    assert steps.least([{"a": 2.0, "b": 1.0}, {"a": 1.5, "b": 3.0}]) == {"a": 1.5, "b": 1.0}


def test_the_table_adds_up() -> None:
    columns = {"v1": {"start": 2.0, "Load": 1.0, "Tiny": 0.01}, "now": {"start": 2.0, "Load": 0.5, "New": 0.04}}
    assert steps.steps_table(columns) == [
        "| step | v1 | now |",
        "| --- | --- | --- |",
        "| start | 2.00 | 2.00 |",
        "| `Load` | 1.00 | 0.50 |",
        "| smaller steps | 0.01 | 0.04 |",
        "| sum | 3.01 | 2.54 |",
    ]


def test_each_run_is_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **keywords: Any) -> SimpleNamespace:
        asked.append(command)
        seconds = {"start": 5.0 - len(asked), "Load": 1.0}
        return SimpleNamespace(stdout=f"some line\n{json.dumps(seconds)}\n")

    monkeypatch.setattr(steps.subprocess, "run", run)
    steps.main(["--scans", str(tmp_path), "--repeats", "2"])
    assert [command[2:] for command in asked] == 2 * [
        ["--bundle", str(BUNDLE_ROOT.parent / "bundle"), "--scans", str(tmp_path)]
    ]
    assert "| start | 3.00 |" in capsys.readouterr().out
    asked.clear()
    steps.main(["--scans", str(tmp_path), "--before", "v1", "--repeats", "2"])
    assert [command[0] == "git" for command in asked] == [True, False, False, False, False, True]
    assert asked[0][:4] == ["git", "worktree", "add", "--detach"] and asked[-1][:3] == ["git", "worktree", "remove"]
    assert asked[1][3] == asked[3][3] != asked[2][3] == asked[4][3]  # in turns
    assert "| step | v1 | now |" in capsys.readouterr().out

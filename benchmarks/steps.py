"""
Tell which step of a prediction takes how much of the processor's time, and compare two revisions.

    python benchmarks/steps.py --scans /data/scans --markdown docs/speed.md
    python benchmarks/steps.py --scans /data/scans --before v0.18.0 --repeats 3

A step is a transform, the inferer or a handler of ``inference.yaml``, in the order of a scan. All run in one process,
one after the other, so that seconds of CPU time can be added up; a prediction overlaps them. With ``--before`` both
revisions run in turns. The least time of the runs counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FunctionType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

__all__ = ["StepClock", "least", "main", "steps_table"]

START, ELSE = "start of the program", "all else"


class StepClock:
    """Seconds of CPU time by the name of a step; of steps within each other the outermost one counts."""

    def __init__(self, now: Callable[[], float] = time.process_time) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._now = now
        self._is_running = False

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Add what the ``with`` block takes to a step."""
        if self._is_running:
            yield
            return
        self._is_running, start = True, self._now()
        try:
            yield
        finally:
            self.seconds[name] += self._now() - start
            self._is_running = False

    def timed(self, function: Callable[..., Any], name: str | None = None) -> Callable[..., Any]:
        """Return a function that does the same, and is timed; without a name by the class of its first argument."""

        def clocked(*arguments: Any, **keywords: Any) -> Any:
            with self.step(name or type(arguments[0]).__name__):
                return function(*arguments, **keywords)

        clocked.__wrapped__ = function  # type: ignore[attr-defined]  # Ignite asks for the arguments
        return clocked


def least(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the least time of each step, in the order of the first run; a step that a run lacks took none in it."""
    return {name: min(run.get(name, 0.0) for run in runs) for name in runs[0]}


def steps_table(columns: Mapping[str, Mapping[str, float]], least_seconds: float = 0.05) -> list[str]:
    """
    Make a table of steps, and of their sum.

    Args:
        columns: seconds by the name of a step, by the heading of their column.
        least_seconds: steps below it in all columns are summed up in one row.

    Returns:
        Its lines in Markdown.
    """
    from benchmarks.markdown import table

    names = dict.fromkeys(name for column in columns.values() for name in column)
    shown = [name for name in names if any(column.get(name, 0.0) >= least_seconds for column in columns.values())]
    small = [sum(of.get(name, 0.0) for name in names if name not in shown) for of in columns.values()]
    rows = [
        [f"`{name}`" if name[0].isupper() else name, *(f"{of.get(name, 0.0):.2f}" for of in columns.values())]
        for name in shown
    ]
    rows += [["smaller steps", *(f"{seconds:.2f}" for seconds in small)]] if any(small) else []
    rows += [["sum", *(f"{sum(of.values()):.2f}" for of in columns.values())]]
    return table(["step", *columns], rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--scans", type=Path, required=True, help="folder of the scans")
    parser.add_argument("--before", help="revision to compare with, such as a commit or a tag")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each revision; the least time counts")
    parser.add_argument("--threads", type=int, default=1, help="threads to compute with")
    parser.add_argument("--markdown", type=Path, help="file with the markers that the table goes between")
    parser.add_argument("--bundle", type=Path, help=argparse.SUPPRESS)  # of the process that is timed
    options = parser.parse_args(arguments)
    if options.bundle:
        _predict(options.bundle, options.scans)
        return
    sys.path[:0] = [str(ROOT), str(ROOT / "bundle")]
    from benchmarks.markdown import show

    with TemporaryDirectory() as folder:
        bundles = {"CPU s": ROOT / "bundle"}
        if options.before:
            checkout = Path(folder) / "checkout"
            subprocess.run(["git", "worktree", "add", "--detach", str(checkout), options.before], cwd=ROOT, check=True)
            bundles = {options.before: checkout / "bundle", "now": ROOT / "bundle"}
        try:
            runs: dict[str, list[dict[str, float]]] = {name: [] for name in bundles}
            for _ in range(options.repeats):
                for name, bundle in bundles.items():
                    runs[name].append(_run(bundle, options.scans, options.threads))
        finally:
            if options.before:
                subprocess.run(["git", "worktree", "remove", "--force", str(checkout)], cwd=ROOT, check=True)
    show("\n".join(steps_table({name: least(of) for name, of in runs.items()})) + "\n", options.markdown, "steps")


def _run(bundle: Path, scans: Path, threads: int) -> dict[str, float]:
    """Predict by a bundle in a process of its own; return the seconds of its steps."""
    command = [sys.executable, str(Path(__file__).resolve()), "--bundle", str(bundle), "--scans", str(scans.resolve())]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, cwd=bundle, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _predict(bundle: Path, scans: Path) -> None:
    """Predict in this process, and print the seconds of its steps as JSON."""
    sys.path.insert(0, str(bundle))
    import monai.bundle
    import monai.transforms.compose as compose
    from ignite.engine import Engine

    clock = StepClock()
    clock.seconds[START] = time.process_time()
    compose.apply_transform = _named(clock, compose.apply_transform)
    add_event_handler = Engine.add_event_handler

    def add_timed(engine: Engine, event: Any, handler: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        owner = type(getattr(handler, "__self__", handler))
        if issubclass(owner, FunctionType):  # such as MONAI's own that calls the transforms behind the inferer
            return add_event_handler(engine, event, handler, *args, **kwargs)
        return add_event_handler(engine, event, clock.timed(handler, owner.__name__), *args, **kwargs)

    Engine.add_event_handler = add_timed
    from scripts.inferers import RibFractureInferer
    from scripts.runs.near_ribs import PrepareBatchNearRibs

    for part in (PrepareBatchNearRibs, RibFractureInferer):
        part.__call__ = clock.timed(part.__call__)  # type: ignore[method-assign]
    with TemporaryDirectory() as output_dir:
        monai.bundle.run(
            "inference",
            config_file="configs/inference.yaml",
            dataset_dir=str(scans),
            output_dir=output_dir,
            num_workers=0,
        )
    seconds = dict(clock.seconds)
    print(json.dumps({**seconds, ELSE: time.process_time() - sum(seconds.values())}))


def _named(clock: StepClock, apply_transform: Callable[..., Any]) -> Callable[..., Any]:
    def applied(transform: Any, *args: Any, **kwargs: Any) -> Any:
        with clock.step(type(transform).__name__):
            return apply_transform(transform, *args, **kwargs)

    return applied


if __name__ == "__main__":
    main()

"""Command line of the detection benchmark: ``python benchmarks/detection COMMAND``, from the repository's root."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / folder) for folder in ("", "bundle")]

from benchmarks.detection.data import TEST_SETS, VALIDATION_SETS, make_data, read_bodies  # noqa: E402
from benchmarks.detection.pictures import examples_picture, froc_curves_picture  # noqa: E402
from benchmarks.detection.reading import reading_pictures  # noqa: E402
from benchmarks.detection.recipes import recipe_names  # noqa: E402
from benchmarks.detection.report import TITLES, collect, tables  # noqa: E402
from benchmarks.detection.run import WORKERS, predict, train  # noqa: E402
from benchmarks.markdown import show  # noqa: E402
from scripts.files.atomic_write import write_json  # noqa: E402

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one step; ends with a message where something is missing or wrong."""
    options = _parser().parse_args(arguments)
    try:
        with _stopped_by_sigterm():
            options.run(options)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")


@contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Exit at a SIGTERM, so that the run of the bundle is stopped too; afterwards it does what it did before."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _parser() -> argparse.ArgumentParser:
    names = ", ".join(recipe_names())
    parser = argparse.ArgumentParser(
        prog="python benchmarks/detection", description="Compare recipes that find rib fractures on the same scans."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    data = commands.add_parser("data", help="make the benchmark's scans; what is there stays")
    data.add_argument("--output_dir", type=Path, required=True, help="folder of the data")
    data.add_argument("--real_ct_dir", type=Path, help="folder of the real CT to train on; without it there are none")
    data.add_argument("--sample_ct_dir", type=Path, help="folder of the sample CT, fetched where it is missing")
    data.set_defaults(run=_data)

    reading = commands.add_parser("read", help="draw the ribs of real scans, straightened, to read them")
    reading.add_argument("--real_ct_dir", type=Path, required=True, help="folder of the real CT")
    reading.add_argument("--output_dir", type=Path, required=True, help="folder of the pictures")
    reading.set_defaults(run=_read)

    training = commands.add_parser("train", help="train a recipe; goes on where it was stopped")
    training.add_argument("--rois", type=int, help="ROIs to show to the network; the recipe's own number by default")
    training.add_argument("--workers", type=int, default=WORKERS, help="processes that load ROIs; more beside a GPU")
    training.set_defaults(run=lambda o: train(o.data, o.recipe, o.output_dir, o.rois, o.threads, o.workers))
    prediction = commands.add_parser("predict", help="predict the test sets with a recipe, and measure")
    prediction.add_argument(
        "--sets", nargs="+", choices=[*TEST_SETS, *VALIDATION_SETS], help="all test sets by default"
    )
    prediction.set_defaults(run=lambda o: predict(o.data, o.recipe, o.output_dir, o.sets, o.threads))
    examples = commands.add_parser("examples", help="draw what a recipe found, missed and wrongly marked in a set")
    examples.add_argument("--set", choices=TEST_SETS, required=True, help="the set to show")
    examples.add_argument("--picture", type=Path, required=True, help="PNG to write")
    examples.set_defaults(run=_examples)
    report = commands.add_parser("report", help="write the results of all recipes as JSON, tables and curves")
    report.add_argument(
        "--json",
        type=Path,
        help="JSON to write, OUTPUT_DIR/results.json by default; what it has of recipes without a result here stays",
    )
    report.add_argument("--markdown", type=Path, help="file with the markers that the tables go between")
    report.add_argument("--picture", type=Path, help="PNG of the FROC curves to write")
    report.add_argument("--curves", nargs="+", help="recipes to draw, at most five; all by default")
    report.set_defaults(run=_report)
    for command in (training, prediction, examples, report):
        command.add_argument("--data", type=Path, required=True, help="folder of the data, as 'data' makes it")
        command.add_argument("--output_dir", type=Path, required=True, help="folder of all results")
    for command in (training, prediction, examples):
        command.add_argument("--recipe", required=True, help=f"such as {names}")
    for command in (training, prediction):
        command.add_argument("--threads", type=int, help="threads to compute with; the recipe's own number by default")
    return parser


def _data(options: argparse.Namespace) -> None:
    make_data(options.output_dir, options.real_ct_dir, options.sample_ct_dir)


def _read(options: argparse.Namespace) -> None:
    images = {body.name: options.real_ct_dir / f"{body.name}.nii.gz" for body in read_bodies()}
    there = {name: path for name, path in images.items() if path.is_file()}
    if not there:
        raise FileNotFoundError(f"{options.real_ct_dir} holds none of the scans that bodies.json names.")
    for name, path in tqdm(there.items(), desc="straighten", unit="scan"):
        reading_pictures(path, options.output_dir, name)


def _examples(options: argparse.Namespace) -> None:
    data_list = options.data / f"{options.set}.json"
    examples_picture(data_list, options.output_dir / options.recipe / options.set, options.picture)


def _report(options: argparse.Namespace) -> None:
    path = options.json or options.output_dir / "results.json"
    results = collect(options.data, options.output_dir, json.loads(path.read_text()) if path.is_file() else None)
    write_json(path, results)
    text = tables(results)
    show(text, options.markdown, "detection")
    if options.picture:
        recipes = results["recipes"]
        if unknown := set(options.curves or ()) - set(recipes):
            raise ValueError(f"{', '.join(sorted(unknown))}: no results: --curves takes {', '.join(recipes)}.")
        curves: dict[str, dict[str, dict]] = {}
        for name in options.curves or recipes:
            for test, summary in recipes[name]["sets"].items():
                if "curve" in summary:
                    curves.setdefault(TITLES[test], {})[name] = summary
        froc_curves_picture(curves, options.picture)


if __name__ == "__main__":
    main()

"""All commands of the bundle: ``python -m scripts COMMAND``, from the bundle's folder; ``--help`` lists them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from scripts.commands._parsers import parser_of
from scripts.errors import CommandParser, end_at_error

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "archive": "predict an archive on many workers, of this machine or of a Ray cluster",
    "score": "score a folder of predictions as the RibFrac challenge does",
    "tune": "choose the post-processing on annotated scans, and calibrate the scores",
    "mine": "list the false positives and the missed fractures of predicted training scans",
    "fit_types": "fit the model of the types of fractures to annotated scans",
    "average": "average the weights of several trainings of one network",
    "inspect": "check a data set before a training, and make a page of it",
    "view": "write pages to scroll through predicted scans in a browser",
    "labels_from_review": "make a review of a prediction into labels to train on",
    "ribs": "find and number the ribs of scans",
    "join": "join the tables of a prediction that was stopped, or ran in several processes",
    "list_scans": "write the scans of a folder as a data list",
    "submission": "check and pack a folder of predictions for the RibFrac challenge",
    "download": "download the RibFrac data set from Zenodo",
    "sample_ct": "fetch a real chest CT to try things on",
    "phantom": "write synthetic chest CT with rib fractures",
    "implant": "implant rib fractures into chest CT",
    "release": "pack the bundle for monai.bundle download",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """
    Run one command.

    Args:
        arguments: the command's name and its own arguments; those of the process where None.
    """
    width = max(map(len, COMMANDS)) + 2
    parser = CommandParser(
        prog="python -m scripts",
        usage="python -m scripts COMMAND [arguments]",
        description="Commands around the bundle. COMMAND --help explains one of them.",
        epilog="commands:\n" + "\n".join(f"  {name:{width}}{line}" for name, line in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", metavar="COMMAND", choices=list(COMMANDS), help=argparse.SUPPRESS)
    metadata = Path(__file__).resolve().parents[1] / "configs" / "metadata.json"
    version = json.loads(metadata.read_text(encoding="utf-8"))["version"]
    parser.add_argument("--version", action="version", version=version, help="print the bundle's version, and end")
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = parser.parse_args(words[:1]).command
    own = parser_of(command)
    # help, and a wrong argument, end here; what else an archive is given are settings, which its run checks
    (own.parse_known_args if command == "archive" else own.parse_args)(words[1:])
    import_module(f"scripts.commands.{command}").main(words[1:])


if __name__ == "__main__":
    sys.excepthook = end_at_error
    main()

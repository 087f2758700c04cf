"""What MONAI's command line lets pass: a setting that no config has."""

from __future__ import annotations

import inspect
import sys
from ast import literal_eval
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, run
from monai.utils import ensure_tuple

__all__ = ["refuse_unknown_settings"]

_MARKS = "+~"  # MONAI merges a value into an id, or deletes an id, whose name begins with these


def refuse_unknown_settings(arguments: Sequence[str] | None = None) -> None:
    """
    End the program where its command line gives a setting that the configs do not have.

    ``python -m monai.bundle run`` adds a misspelled setting as a new id, which nothing reads, so that the run goes on
    with the default. Put this first into a config's ``initialize``. It reads the command line alone: in a program that
    runs a config from Python it does nothing.

    Args:
        arguments: a command line as ``sys.argv`` has it; that of the process where None.

    Raises:
        SystemExit: when a setting is unknown; the message names it and those that are spelled nearly like it.
    """
    program, *words = sys.argv if arguments is None else arguments
    if Path(program).parts[-3:] != ("monai", "bundle", "__main__.py") or words[:1] != ["run"]:
        return
    given = _given(words[1:])
    known = [name for name, parameter in inspect.signature(run).parameters.items() if name != "override"]
    files, settings = ensure_tuple(_value(given.get("config_file"))), dict(given)
    if given.get("args_file"):
        from_file = ConfigParser.load_config_file(given["args_file"])
        files = files if given.get("config_file") else ensure_tuple(from_file.get("config_file"))
        settings = {**from_file, **settings}
    config = ConfigParser()
    config.read_config([str(file) for file in files if file is not None])
    for name in settings:
        if name not in known and name.lstrip(_MARKS).replace("#", "::") not in config:
            sys.exit(f"error: --{name}: {_advice(name, config.get(), known, files)}")


def _given(words: Sequence[str]) -> dict[str, str]:
    """Return what follows each ``--name``, or its ``=``; the names as fire spells them, ``_`` for ``-``."""
    given = {}
    for word, following in zip(words, [*words[1:], ""]):
        if word.startswith("--"):
            name, has_value, value = word[2:].partition("=")
            given[name.replace("-", "_")] = value if has_value else following
    return given


def _value(text: str | None) -> Any:
    """Read a word as fire does: as Python where it is Python, as text elsewhere."""
    try:
        return literal_eval(text or "None")
    except (SyntaxError, ValueError):
        return text


def _advice(name: str, config: Mapping[str, Any], known: Sequence[str], files: Sequence[Any]) -> str:
    top, _, inner = name.lstrip(_MARKS).replace("#", "::").partition("::")
    where = " and ".join(map(str, files))
    if inner and top in config:
        return f"'{top}' of {where} has no '{inner}'."
    near = get_close_matches(top, [*config, *known])
    meant = f"did you mean {' or '.join(f'--{one}' for one in near)}?" if near else "docs/reference.md lists them all."
    return f"{where} has no setting '{top}'; {meant}"

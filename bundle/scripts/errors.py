"""How a command ends at an error: in one line where its cause is known, with the traceback where it is not."""

from __future__ import annotations

import argparse
import dis
import errno
import inspect
import os
import re
import sys
import traceback
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from pydoc import locate
from types import TracebackType
from typing import Any, NamedTuple, NoReturn

import yaml

__all__ = ["CommandParser", "causes", "end_at_error", "explain_errors", "explanation"]

_PACKAGE = __name__.split(".")[0]
_RUNS = f"{_PACKAGE}.runs.run_"  # what a config runs begins so: an error in it is not one of its arguments
# What a value that does not suit makes constructors raise
_OF_VALUES = (ImportError, KeyError, NotImplementedError, OSError, TypeError, ValueError)
_OF_SYSTEM = {
    errno.EACCES: "get the right to it, or choose another place",
    errno.EDQUOT: "free some space, or choose another place",
    errno.ENOSPC: "free some space, or choose another place",
    errno.EROFS: "choose another place",
}
# In the text of an error from a loading process: the line of this package that raised it, and what it said
_IN_WORKER = re.compile(
    rf'/{_PACKAGE}/[^"\n]*", line \d+, in \w+\n\s+raise [^\n]*\n(?:\s+(?!File )[^\n]*\n)*\w+: ([^\n]+)'
)
_LINE = "_line_"
_REPORT = (
    "this should not happen: report it where you have the bundle from, with the lines above and the run's config.yaml, "
    "and without names of patients."
)


class CommandParser(argparse.ArgumentParser):
    """Read the arguments of a command, and end at a wrong one as at any other error: in one line, with status 1."""

    def error(self, message: str) -> NoReturn:
        self.exit(1, f"error: {message}: {self.prog} --help lists what there is.\n")


class _Part(NamedTuple):
    """A part of the config that was being made when an error was raised."""

    item: Any  # MONAI's, with its references resolved
    known: tuple[str, ...]  # all ids of the config
    files: tuple[str, ...]  # that the config was read from

    @property
    def id(self) -> str:
        return str(self.item.get_id())

    @property
    def target(self) -> str:
        """What makes a component; nothing where it is none."""
        config = self.item.get_config()
        return str(config.get("_target_", "")) if isinstance(config, dict) else ""


def explain_errors() -> None:
    """
    Let ``python -m monai.bundle run`` end at an error as :func:`end_at_error` does; other programs are let alone.

    MONAI raises an error again for each component of the config through which it was reached, and ends in sixty lines
    of traceback. Name this first in a config's ``initialize``, when ``sys.path`` is set.
    """
    if Path(sys.argv[0]).parts[-3:] == ("monai", "bundle", "__main__.py"):
        sys.excepthook = end_at_error


def end_at_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """
    Print one line that begins with ``error:`` where the cause is known, and the traceback before it where it is not.

    The environment variable ``RIB_DEBUG`` shows the traceback of each.

    Args:
        kind: type of the error; as ``sys.excepthook`` is called.
        error: what nobody has caught.
        trace: its traceback.
    """
    if not isinstance(error, Exception):  # Ctrl+C
        sys.__excepthook__(kind, error, trace)
        return
    known = explanation(error)
    first = causes(error)[-1]
    if known is None or os.environ.get("RIB_DEBUG"):
        sys.__excepthook__(kind, error, trace)
    line, *others = (f"{type(first).__name__}: {_REPORT}" if known is None else known).splitlines()
    line = f"{line.rstrip(':')} (listed above)." if others else line
    sys.stdout.flush()
    print(*others, f"error: {line}", sep="\n", file=sys.stderr)


def explanation(error: BaseException) -> str | None:
    """
    Say what is wrong, and what to do, where an error tells of a value or a file, not of a fault of the program.

    Args:
        error: with the errors that it was raised from.

    Returns:
        The text of the first error in the chain that this package raised with words of its own; else what does not suit
        in a part of the config, with its id, file and line. None for any other error.
    """
    part: _Part | None = None
    files: tuple[str, ...] = ()
    for one in causes(error):
        steps = list(traceback.walk_tb(one.__traceback__))
        for frame, _ in steps:
            if _is(frame.f_code, "monai/bundle/scripts.py", "run"):
                given = frame.f_locals.get("config_file") or ()
                files = (given,) if isinstance(given, str) else tuple(map(str, given))
            elif _is(frame.f_code, "monai/bundle/reference_resolver.py", "_resolve_one_item"):
                name, items = str(frame.f_locals["id"]), frame.f_locals["self"].items
                if name in items:
                    part = _Part(items[name], tuple(items), files)
        if _is_raised_here(one):
            return str(one)
        if told := _IN_WORKER.search(str(one)):
            return told[1]
        if isinstance(one, OSError) and one.errno in _OF_SYSTEM:
            return f"{one.filename or 'a file'}: {one.strerror}: {_OF_SYSTEM[one.errno]}."
        if part is not None and (missing := _missing(str(one), part)):
            return f"{_place(part)}: {missing}"
    if part is None or part.target.startswith(_RUNS) or not isinstance(one, _OF_VALUES) and part.target:
        return None
    return f"{_place(part)}: {_refused(one, part)}"


def causes(error: BaseException) -> list[BaseException]:
    """List an error, that which it was raised from, and so on to the first one."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None:
        chain.append(cause)
        cause = cause.__cause__
    return chain


def _is(code: Any, path: str, function: str) -> bool:
    return code.co_name == function and Path(code.co_filename).as_posix().endswith(path)


def _is_raised_here(error: BaseException) -> bool:
    """Tell whether a ``raise`` of this package raised an error, and not what its line called."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None or last.tb_frame.f_globals.get("__name__", "").split(".")[0] != _PACKAGE:
        return False
    return dis.opname[last.tb_frame.f_code.co_code[last.tb_lasti]] == "RAISE_VARARGS"


def _missing(text: str, part: _Part) -> str | None:
    """Say what a part of the config names that there is not, if that is what an error of MONAI's tells."""
    if found := re.search(r"the referring item `@(.+?)`", text):
        return f"no config has @{found[1]}{_meant(found[1], part.known, '@')}"
    if found := re.search(r"Cannot locate class or function path: '(.+?)'", text):
        return f"there is no {found[1]}{_meant(found[1], _members(found[1]))}"
    if part.target and (found := re.search(r"unexpected keyword argument '(\w+)'", text)):
        return f"{part.target} takes no '{found[1]}'{_meant(found[1], _arguments(part.item))}"
    return None


def _refused(error: BaseException, part: _Part) -> str:
    """Say what a component refuses, or an expression cannot do."""
    text = " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
    if part.target:
        return f"{part.target}: {text.rstrip('.')}: give another value (RIB_DEBUG=1 shows where it was refused)."
    expression = re.sub(r"__local_refs\['(.+?)'\]", r"@\1", str(part.item.get_config()))
    return f"{expression} cannot be evaluated ({type(error).__name__}: {text}): correct it."


def _meant(name: str, known: Iterable[str], mark: str = "") -> str:
    near = get_close_matches(name, known, n=1)
    return f": did you mean {mark}{near[0]}?" if near else ": correct it, or leave it out."


def _members(path: str) -> list[str]:
    """List what the module of a path has, by their paths, or what MONAI has where it is a bare name."""
    module, _, _ = path.rpartition(".")
    if module:
        return [f"{module}.{name}" for name in dir(locate(module)) if not name.startswith("_")]
    return sorted({name for known, of in list(sys.modules.items()) if known.startswith("monai.") for name in vars(of)})


def _arguments(item: Any) -> list[str]:
    target = item.resolve_module_name()
    component: Any = locate(target) if isinstance(target, str) else target
    return list(inspect.signature(component).parameters)


def _place(part: _Part) -> str:
    """Name a part of the config by its id, behind the file and the line where it stands, if a file is known."""
    from monai.bundle import ConfigParser  # takes seconds, and has been imported where there is a config
    from monai.bundle.utils import ID_SEP_KEY, merge_kv

    places: Any = ConfigParser(config={})
    for file in part.files:
        root: Any = yaml.compose(Path(file).read_text(encoding="utf-8"))
        for key, value in root.value:
            merge_kv(places, key.value, _lines(value, file, key.start_mark.line))
    name = part.id
    while name and name not in places:
        name = name.rpartition(ID_SEP_KEY)[0]
    place = places[name] if name else ""
    place = place.get(_LINE, "") if isinstance(place, dict) else place if isinstance(place, str) else ""
    return f"{place}: {part.id}" if place else part.id


def _lines(node: Any, file: str, line: int) -> Any:
    """Return a part of a config with the place of each text in place of the text, and of each group below ``_LINE``."""
    place = f"{file}, line {line + 1}"
    if isinstance(node, yaml.MappingNode):
        inner = {key.value: _lines(value, file, key.start_mark.line) for key, value in node.value}
        return {_LINE: place, **inner}
    if isinstance(node, yaml.SequenceNode):
        return [_lines(value, file, value.start_mark.line) for value in node.value]
    return place

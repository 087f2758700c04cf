"""The config of the run that is going on: saved with its results, and told apart from others."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from pydoc import locate
from typing import Any

import ignite.distributed as idist
from monai.bundle import ConfigParser, ReferenceResolver
from monai.bundle.utils import EXPR_KEY, ID_REF_KEY, ID_SEP_KEY
from monai.config import PathLike

from scripts.files.atomic_write import whole_file

__all__ = [
    "MARKS",
    "definition_hash",
    "flat_settings",
    "is_group",
    "is_tracked",
    "run_settings",
    "running_parser",
    "save_run_config",
    "texts_of",
]

MARKS = "+~"  # MONAI merges a value into an id, or deletes an id, whose name begins with these
_PACKAGE = __name__.split(".")[0]
# what ConfigWorkflow adds to a config when it is given ``tracking``
_OF_TRACKING = "save_execute_config"


def running_parser() -> ConfigParser:
    """
    Return the parser whose config is being evaluated.

    MONAI gives a component the values that its config names, never the config itself, and saves the config only where
    ``tracking`` is asked for. So this looks up the calls for the parser that makes the component.

    Raises:
        RuntimeError: when it is called from anywhere but a config.
    """
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, ConfigParser):
            return caller
        frame = frame.f_back
    raise RuntimeError("no config is being evaluated: name this function as a _target_ in a config.")


def save_run_config(filename: PathLike) -> None:
    """
    Save the config of this run, overlays and command line included, as one YAML file that can be run again.

    Of several processes the first one saves it. Values that YAML does not know, which a program may have set, are saved
    as their text.

    Args:
        filename: the file; it is replaced where it exists.

    Raises:
        RuntimeError: when it is called from anywhere but a config.
    """
    if idist.get_rank() > 0:
        return
    config = {name: value for name, value in running_parser().get().items() if name != ConfigParser.meta_key}
    plain = json.loads(json.dumps(config, default=str))
    with whole_file(filename) as temporary:
        ConfigParser.export_config_file(plain, temporary, fmt="yaml", sort_keys=False, width=120, allow_unicode=True)


def is_tracked() -> bool:
    """Tell whether this run was started with MONAI's ``tracking``, which adds ids of its own to the config."""
    return _OF_TRACKING in running_parser()


def is_group(value: Any) -> bool:
    """Tell whether a part of a config is a group of settings, not a component."""
    return isinstance(value, dict) and not any(str(key).startswith("_") for key in value)


def flat_settings(config: Mapping[str, Any], separator: str) -> dict[str, Any]:
    """
    Put the settings of each group beside the others, under the group's name and theirs.

    Args:
        config: settings and other parts of a config by their names.
        separator: what stands between both names.

    Returns:
        The parts by their names, in the same order, without the groups.
    """
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat |= (
            {f"{name}{separator}{key}": of_key for key, of_key in value.items()} if is_group(value) else {name: value}
        )
    return flat


def run_settings() -> dict[str, Any]:
    """
    Return the settings of this run that are plain values: numbers, text and lists of them that refer to nothing.

    Those of a group have its name before theirs, as in ``windows.overlap``.
    """
    return {
        name: value
        for name, value in flat_settings(running_parser().get(), ".").items()
        if not (isinstance(value, dict) or isinstance(value, list) and any(isinstance(item, dict) for item in value))
        and not any(text[:1] in (EXPR_KEY, ID_REF_KEY) for text in texts_of(value))
        and name != _OF_TRACKING
    }


def definition_hash(ids: Sequence[str], files: Sequence[PathLike] = (), leave_out: Sequence[str] = ()) -> str:
    """
    Hash what defines a result: parts of the config with every setting that they name, their code, and files.

    The code is that of the bundle's components in these parts, and of the modules that they import, directly or not.

    Args:
        ids: parts of the config.
        files: files whose content counts, such as weights.
        leave_out: settings that do not change the result, such as folders; ``group::name`` is one of a group.

    Returns:
        SHA-256, in hexadecimal.

    Raises:
        FileNotFoundError: when one of the files does not exist.
        RuntimeError: when there are ids, and it is called from anywhere but a config.
    """
    definitions: dict[str, Any] = {}
    missing = list(ids)
    while missing:
        name = missing.pop()
        if name not in definitions and name not in leave_out:
            definitions[name] = deepcopy(running_parser()[name])
            missing += [
                ref for text in texts_of(definitions[name]) for ref in ReferenceResolver.match_refs_pattern(text)
            ]
    for name in leave_out:
        group, _, key = name.rpartition(ID_SEP_KEY)
        if isinstance(definitions.get(group), dict):
            definitions[group].pop(key, None)
    digest = hashlib.sha256(json.dumps(definitions, sort_keys=True, default=str).encode())
    components = {text for text in texts_of(definitions) if text.startswith(f"{_PACKAGE}.")}
    for path in _modules_of(sorted(components)):
        digest.update(f"{path.name}\n".encode() + path.read_bytes())
    for filename in files:
        with open(filename, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _modules_of(components: Sequence[str]) -> list[Path]:
    """Return the files of the bundle that define components and that these import, sorted."""
    missing = {located.__module__ for name in components if (located := locate(name)) is not None}
    found: dict[str, Path] = {}
    while missing:
        module = missing.pop()
        spec = None if module in found or module.split(".")[0] != _PACKAGE else find_spec(module)
        if spec is None or spec.origin is None:
            continue
        found[module] = Path(spec.origin)
        missing |= _imported_by(found[module].read_bytes())
    return sorted(found.values())


@lru_cache(maxsize=None)
def _imported_by(source: bytes) -> frozenset[str]:
    """Return the modules that a module's source imports from; kept, since to parse it takes its time."""
    nodes = ast.walk(ast.parse(source))
    return frozenset(node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module)


def texts_of(config: Any) -> Iterator[str]:
    """
    Find every text of a part of a config.

    Args:
        config: the part.

    Yields:
        The texts, those of lists and groups in it too.
    """
    if isinstance(config, str):
        yield config
    elif isinstance(config, dict | list):
        for value in config.values() if isinstance(config, dict) else config:
            yield from texts_of(value)

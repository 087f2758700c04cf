"""What MONAI lets pass in an overlay: ids that no config before it has and nothing refers to, as misspelled are."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from monai.bundle import ConfigParser, ReferenceResolver
from monai.bundle.utils import ID_SEP_KEY

from scripts.runs.config import MARKS, is_group, texts_of

__all__ = ["overlay_fault"]

_OF_MONAI = frozenset({"run", "initialize", "finalize", "imports", ConfigParser.meta_key})  # used by their names
_SIGNS = ("$", "@", "%")  # of a text that may refer to an id


def overlay_fault(files: Sequence[str], run_ids: Collection[str] = ()) -> str:
    """
    Find the first id of an overlay that would do nothing.

    An id may be new where something refers to it, such as ``froc`` of ``evaluate.yaml``, or where it is an argument of
    a component, which refuses those that it does not know.

    Args:
        files: the configs in their order, the first of which is no overlay.
        run_ids: further ids that are used by their names, such as what is run.

    Returns:
        What is wrong with which file, and the nearest id; empty where all is well.
    """
    contents = [ConfigParser.load_config_file(file) for file in files]
    whole = ConfigParser.load_config_files(list(files))
    for place in range(1, len(files)):
        before = ConfigParser(ConfigParser.load_config_files(list(files[:place])))
        later = {_plain(name) for content in contents[place + 1 :] for name in content}
        for name in _ids(contents[place], before):
            used = name in later or name in _OF_MONAI or name in run_ids
            if not (used or name in before or _is_argument(name, before) or _is_referred_to(name, whole)):
                return f"{files[place]}: {' and '.join(files[:place])} has no '{name}'{_advice(name, before)}"
    return ""


def _plain(name: str) -> str:
    return ReferenceResolver.normalize_id(name.lstrip(MARKS))


def _ids(content: Mapping[str, Any], before: ConfigParser) -> Iterator[str]:
    """Yield the ids that an overlay sets, those of a group's settings too."""
    for key, value in content.items():
        name = _plain(key)
        yield name
        if isinstance(value, dict) and name in before and is_group(before[name]):
            yield from (f"{name}{ID_SEP_KEY}{inner}" for inner in value)


def _is_argument(name: str, before: ConfigParser) -> bool:
    """Tell whether an id is a part of a component or a list."""
    parent = name.rpartition(ID_SEP_KEY)[0]
    return parent in before and not is_group(before[parent]) if parent else False


def _is_referred_to(name: str, whole: Mapping[str, Any]) -> bool:
    """Tell whether a config refers to an id, by ``@`` or ``%``, in an expression, or by its bare name."""
    group, _, inner = name.rpartition(ID_SEP_KEY)
    written = [re.escape(name), *([rf"{re.escape(group)}\[['\"]{re.escape(inner)}['\"]\]"] if group else [])]
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(written)})(?!\w)")
    for key, value in whole.items():
        for text in texts_of(value) if key != name else ():
            if text == name or text.startswith(_SIGNS) and pattern.search(ReferenceResolver.normalize_id(text)):
                return True
    return False


def _advice(name: str, before: ConfigParser) -> str:
    group, _, inner = name.rpartition(ID_SEP_KEY)
    known = before[group] if group in before else before.get()
    near = get_close_matches(inner, list(known) if isinstance(known, dict) else [], n=1)
    meant = f"{group}{ID_SEP_KEY}{near[0]}" if near and group else near[0] if near else ""
    return f", and nothing refers to it; did you mean {meant}?" if meant else ", and nothing refers to it: remove it."

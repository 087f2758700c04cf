"""The rules of the source tree, as CONTRIBUTING.md states them, and the one entry of all commands."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest
from conftest import BUNDLE_ROOT

from scripts.__main__ import COMMANDS, main
from scripts.commands._parsers import CHOICES, parser_of
from scripts.metrics.tuning import LIKELY
from scripts.transforms.candidates import CandidateScore

SCRIPTS = BUNDLE_ROOT / "scripts"
MODULES = sorted(SCRIPTS.rglob("*.py"))
# they do the same for two things: for the phantoms and for implants, for what is known of candidates and for transforms
SHARED_NAMES = {
    "__init__",
    "anatomy",
    "candidates",
    "dataset",
    "dicom",
    "fractures",
    "implant",
    "scan",
    "straight_ribs",
    "training",
}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(BUNDLE_ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """The bundle's own modules that a module imports, and the name that it takes from each."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.startswith("scripts"))
        elif isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("scripts")):
            module = f"{name_of(path)}.{node.module}" if node.level else str(node.module)
            yield from ((module, alias.name) for alias in node.names)


def room(module: str) -> str:
    """The folder of a module; a loose module is a room of its own."""
    return module.split(".")[1]


def test_no_import_circle_of_modules():
    names = {name_of(path) for path in MODULES}
    graph = {
        name_of(path): {f"{module}.{name}" if f"{module}.{name}" in names else module for module, name in imports(path)}
        for path in MODULES
        if path.name != "__init__.py"
    }
    assert len(list(TopologicalSorter(graph).static_order())) >= len(graph), "raises CycleError where there is one"


def test_no_import_circle_of_rooms():
    graph: dict[str, set[str]] = {}
    for path in MODULES:
        if path.parent != SCRIPTS or path.stem not in ("__init__", "__main__"):
            own = room(name_of(path))
            graph.setdefault(own, set()).update({room(module) for module, _ in imports(path)} - {own, "__main__"})
    order = list(TopologicalSorter(graph).static_order())
    assert order.index("files") < order.index("data") < order.index("handlers") < order.index("commands")


def test_no_component_imports_a_command():
    importers = {
        name_of(path)
        for path in MODULES
        for module, _ in imports(path)
        if module.startswith("scripts.commands") and path.parent.name != "commands" and path.name != "__main__.py"
    }
    assert not importers


def test_no_module_imports_an_underscored_name():
    assert not [(name_of(path), name) for path in MODULES for _, name in imports(path) if re.match(r"_(?!_)", name)]


def test_few_modules_lie_loose_and_file_names_are_unique():
    assert len(list(SCRIPTS.glob("*.py"))) <= 8
    shared = {name for name, count in Counter(path.stem for path in MODULES).items() if count > 1}
    assert shared <= SHARED_NAMES


def test_every_room_stands_in_contributing():
    rooms = {path.name for path in SCRIPTS.iterdir() if (path / "__init__.py").exists()}
    table = (BUNDLE_ROOT.parent / "CONTRIBUTING.md").read_text().split("| room |")[1].split("\n\n")[0]
    assert rooms == set(re.findall(r"^\| `(\w+)/` \|", table, re.MULTILINE))


def test_every_command_is_listed(capsys):
    with pytest.raises(SystemExit) as exit_of_help:
        main(["--help"])
    assert exit_of_help.value.code == 0
    assert {line.split()[0] for line in capsys.readouterr().out.split("commands:\n")[1].splitlines()} == set(COMMANDS)
    assert set(COMMANDS) == {path.stem for path in (SCRIPTS / "commands").glob("[!_]*.py")}
    assert all(callable(import_module(f"scripts.commands.{command}").main) for command in COMMANDS)


def test_help_and_version_need_no_heavy_library():
    lines = [
        "import contextlib, io, sys",
        "from scripts.__main__ import COMMANDS, main",
        "told = io.StringIO()",
        "for words in ['--help'], ['--version'], *([command, '--help'] for command in COMMANDS):",
        "    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(told):",
        "        main(words)",
        "print(told.getvalue().count('usage: '), [name for name in HEAVY if name in sys.modules])",
    ]
    code = "\n".join(lines).replace("HEAVY", repr(("torch", "monai", "itk", "matplotlib", "nibabel", "scipy", "numpy")))
    done = subprocess.run([sys.executable, "-c", code], cwd=BUNDLE_ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"{1 + len(COMMANDS)} []\n"


def test_arguments_are_those_of_the_code():
    assert CHOICES["scores"][1] == tuple(CandidateScore)
    assert parser_of("tune").get_default("least_score") == LIKELY


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    metadata = json.loads((BUNDLE_ROOT / "configs" / "metadata.json").read_text())
    assert end.value.code == 0 and capsys.readouterr().out == f"{metadata['version']}\n"


def test_an_unknown_command_is_refused_with_the_known_ones(capsys):
    with pytest.raises(SystemExit) as end:
        main(["scroe"])
    assert end.value.code == 1
    assert "'scroe'" in (message := capsys.readouterr().err) and "score" in message

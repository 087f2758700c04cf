"""
Hooks of MkDocs: which files the site has.

Its pages are those of the repository at their own paths, so that a link leads to the same page there and on GitHub.
Each module of ``bundle/scripts`` that says what it makes public, by ``__all__``, has a page of its docstrings.
"""

from __future__ import annotations

import ast
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "bundle" / "scripts"
FILES = ("*.md", "LICENSE", "CITATION.cff", "constraints.txt", "docs/**/*.*", "bundle/docs/*", "bundle/LICENSE")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the pages of the API to the menu, by room."""
    rooms: dict[str, list[dict[str, str]]] = {}
    for name in modules():
        room = name.split(".")[1]
        rooms.setdefault(room, []).append({name: page_of(name)})
    menu = [{room: pages} if len(pages) > 1 else pages[0] for room, pages in rooms.items()]
    config.nav = [*(config.nav or []), {"API": menu}]
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Return the files of the theme, the repository's pages, and those of the API."""
    paths = {path for pattern in FILES for path in ROOT.glob(pattern) if path.is_file() and path.suffix != ".py"}
    kept = [
        file for file in files if not file.abs_src_path or not Path(file.abs_src_path).is_relative_to(ROOT / "docs")
    ]
    for path in sorted(paths):
        kept.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    for name in modules():
        kept.append(File.generated(config, page_of(name), content=f"# `{name}`\n\n::: {name}\n"))
    return Files(kept)


def page_of(module: str) -> str:
    return f"api/{module}.md"


def modules() -> list[str]:
    """Return the modules that name what is public, without the rooms, which name the same again."""
    names = []
    for path in sorted(SCRIPTS.rglob("*.py")):
        if path.name != "__init__.py" and "__all__" in assigned(path):
            names.append(".".join(path.relative_to(SCRIPTS.parent).with_suffix("").parts))
    return names


def assigned(path: Path) -> set[str]:
    nodes = ast.parse(path.read_text(encoding="utf-8")).body
    return {
        target.id
        for node in nodes
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }

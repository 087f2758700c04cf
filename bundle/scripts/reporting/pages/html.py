"""
Pages of HTML that hold all they need: styles, scripts and pictures, and nothing that a network would have to bring.

Jinja2 escapes every value. Beside that, a page's content security policy lets the browser run only the script that the
page was written with, known by its hash, so that a name that slips through could still run nothing.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

__all__ = ["render", "script", "script_policy", "style"]

_TEMPLATES = Path(__file__).resolve().parent / "templates"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(str(_TEMPLATES)),  # of a Path it asks all classes of the program: is it iterable?
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(style=style, script=script, script_policy=script_policy)
    return environment


def render(template: str, **values: object) -> str:
    """
    Fill a template of this package; every value is escaped.

    Line breaks between two tags are taken out: a browser would keep a node for each, half of all in a large page.

    Args:
        template: name of the file.
        values: what the template uses.
    """
    return re.sub(r">\s*\n\s*<", "><", _environment().get_template(template).render(**values))


@cache
def style(name: str) -> str:
    """Return a style sheet of this package as it is."""
    return (_TEMPLATES / name).read_text(encoding="utf-8")


@cache
def script(name: str) -> str:
    """Return a script of this package as it is."""
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def script_policy(*scripts: str) -> str:
    """Return the content security policy of a page with these scripts, given whole: no network, no other script."""
    digests = [hashlib.sha256(text.encode()).digest() for text in scripts]
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests) or "'none'"
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}"

"""
NiiVue, which draws volumes in a browser, as the package ipyniivue brings it.

ipyniivue is NiiVue for notebooks, by NiiVue's authors. Its script for the browser holds NiiVue once more, whole and as
text, to write it into pages that stand alone. That text is read here, out of the package's file: the package is not
imported, and nothing is fetched. NiiVue's own package is one for npm, which pip cannot install.
"""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution
from typing import NamedTuple
from urllib.parse import unquote

__all__ = ["NiiVue", "installed_niivue"]

PACKAGE = "ipyniivue"
_SCRIPT = "widget.js"
_LICENSE = "LICENSE"
# A text of JavaScript with nothing in it but what its function encodeURIComponent leaves, longer than any other.
_MODULE = re.compile(r"\"([\w.!~*'()%-]{1000000,})\"", re.ASCII)


class NiiVue(NamedTuple):
    """
    What a page needs of NiiVue.

    Args:
        module: a module of JavaScript with the names ``Niivue``, ``SLICE_TYPE`` and so on, without a ``</script``.
        version: NiiVue's.
        license: text of the license.
    """

    module: str
    version: str
    license: str


def installed_niivue() -> NiiVue:
    """
    Read NiiVue from the package that is installed.

    Raises:
        FileNotFoundError: when it is not installed.
        ValueError: when it holds no NiiVue that can be written into a page.
    """
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError as error:
        raise FileNotFoundError(
            f"The viewer needs the package {PACKAGE}, which is not installed: pip install '{PACKAGE}>=2.4'"
        ) from error
    files = {path.name: path for path in package.files or []}
    texts = [files[name].read_text(encoding="utf-8") if name in files else "" for name in (_SCRIPT, _LICENSE)]
    module = unquote(found[1]) if (found := _MODULE.search(texts[0])) else ""
    version = re.search(r"\bversion:\"([\d.]+)\"", module)
    exports = module.rpartition("export{")[2]
    if not (version and re.search(r"\bNiivue\b", exports) and texts[1]) or "</script" in module:
        raise ValueError(
            f"{PACKAGE} {package.version} does not hold NiiVue as 2.4.4 does: pip install '{PACKAGE}==2.4.4'"
        )
    return NiiVue(module, version[1], texts[1])

"""Names of scans that every file and table can hold."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

__all__ = ["MAX_NAME_BYTES", "natural_order", "printable", "safe_name", "safe_names"]

# A file's name has at most 255 bytes on the usual file systems. The longest that is made of a scan's name is the
# temporary .<16 digits>.NAME.seg.dcm, of 26 bytes more; what is left over is for endings that others add.
MAX_NAME_BYTES = 200
_HASH_DIGITS = 8
# A spreadsheet takes a cell that begins with one of these for a formula
_FORMULA_SIGNS = ("=", "+", "-", "@")
# Control characters, halves of a surrogate pair (what Python makes of bytes that are no UTF-8), breaks of lines
_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")


def safe_name(name: str) -> str:
    """
    Give a scan a name that masks, pictures, records and tables can have alike.

    A name stays as it is unless it holds characters that cannot be written or break a line, begins with a sign that
    makes it a formula in a spreadsheet or a file hidden, begins or ends with white space, ends with a dot or with
    ``-label``, by which masks of annotations are told, or is longer than 200 bytes. Then these are replaced by ``_``,
    or cut off, and a hash of the whole name is put behind it: the same name always becomes the same one.

    Args:
        name: a name; bytes that are no UTF-8 as ``os.fsdecode`` gives them.

    Returns:
        The name, of at most 200 bytes in UTF-8.

    Example:
        >>> safe_name("RibFrac501"), safe_name("=SUM(1)")
        ('RibFrac501', '_SUM(1)-3eb539f9')
    """
    clean = "".join("_" if unicodedata.category(letter) in _UNPRINTABLE else letter for letter in name) or "_"
    if clean[0] == "." or clean[0].isspace() or unicodedata.normalize("NFKC", clean[0]) in _FORMULA_SIGNS:
        clean = f"_{clean[1:]}"
    if clean[-1] == "." or clean[-1].isspace():
        clean = f"{clean[:-1]}_"
    if clean.lower().endswith("-label"):
        clean = f"{clean}_"
    if clean == name and len(clean.encode()) <= MAX_NAME_BYTES:
        return name
    return _with_hash(clean, name)


def safe_names(names: Iterable[str]) -> dict[str, str]:
    """
    Give scans names that are safe, and differ also where case and the ways to write an accent do not count.

    Args:
        names: the scans' names, all different.

    Returns:
        The safe name of each, see `safe_name`. Of names that some file systems take for one (``A`` and ``a``), each has
        its hash behind it.
    """
    safe = {name: safe_name(name) for name in names}
    folded = {name: unicodedata.normalize("NFC", unicodedata.normalize("NFC", safe[name]).casefold()) for name in safe}
    count = Counter(folded.values())
    return {
        name: _with_hash(safe[name], name) if count[folded[name]] > 1 and safe[name] == name else safe[name]
        for name in safe
    }


def printable(text: str) -> str:
    """
    Write a text for a log, a table or a page, whatever names of files it holds.

    Line breaks stay: a message may have several lines.

    Args:
        text: any text; bytes that are no UTF-8 as ``os.fsdecode`` gives them.

    Returns:
        The same with ``\\xd6`` in place of such a byte and ``\\x1b`` in place of a control character.
    """
    return "".join(
        _escaped(letter) if letter != "\n" and unicodedata.category(letter) in _UNPRINTABLE else letter
        for letter in text
    )


def _escaped(letter: str) -> str:
    code = ord(letter) - 0xDC00 if 0xDC80 <= ord(letter) <= 0xDCFF else ord(letter)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def _with_hash(clean: str, name: str) -> str:
    """Put a hash of a name behind what it was made to, cut to length."""
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass"))
    kept = clean.encode()[: MAX_NAME_BYTES - _HASH_DIGITS - 1].decode(errors="ignore")
    return f"{kept}-{digest.hexdigest()[:_HASH_DIGITS]}"


def natural_order(name: str) -> list[str | int]:
    """Give a key that sorts numbers in names by value: RibFrac2 before RibFrac10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]

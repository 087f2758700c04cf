"""What tests take from the pages: fenced blocks, with why some are not tested, and the messages of troubleshooting."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import NamedTuple

from conftest import BUNDLE_ROOT

ROOT = BUNDLE_ROOT.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(BUNDLE_ROOT / "docs").glob("*.md")])
FENCE = re.compile(
    r"(?:^ *<!-- not tested: (?P<reason>.+?) -->\n)?^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A fenced block; ``reason`` says why it does not run in a test, and is empty where it does."""

    page: str  # from the repository's root
    line: int
    language: str
    text: str
    reason: str
    file: str  # that the page tells the reader to write it to; empty where it names none

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """All blocks of a page, in their order."""
    text, name = page.read_text(encoding="utf-8"), page.relative_to(ROOT).as_posix()
    ends = [0, *(found.end() for found in FENCE.finditer(text))]
    return [
        Block(
            page=name,
            line=text[: found.start("language")].count("\n") + 1,
            language=found["language"],
            text=textwrap.dedent(found["text"]),
            reason=found["reason"] or "",
            file=([""] + re.findall(r"`(my_\w+\.(?:yaml|py))`", text[end : found.start()]))[-1],
        )
        for found, end in zip(FENCE.finditer(text), ends)
    ]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def quoted_messages() -> list[str]:
    """The messages of the page on troubleshooting; in them, ``...`` stands for what is filled in."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (?!message |--- )(.+?) \|", page, re.MULTILINE)
    quotes = [cell[1:-1] for cell in cells if re.fullmatch(r"`[^`]+`", cell)]
    assert quotes and len(quotes) == len(cells), "each row begins with one message"
    return quotes


def is_of(quote: str, message: str) -> bool:
    """Tell whether the constant parts of a quote stand in a message, in their order."""
    for part in filter(None, quote.split("...")):
        _, found, message = message.partition(part)
        if not found:
            return False
    return True

"""A Chromium without a window."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["chromium_page"]

_SOFTWARE_GL = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")  # WebGL by the CPU


@contextmanager
def chromium_page(program: str, **options: Any) -> Iterator[Page]:
    """
    Give an empty page in a browser of its own, which is closed behind the ``with`` block.

    Args:
        program: the browser.
        options: of the page, as for ``playwright``'s ``new_page``.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", *_SOFTWARE_GL])
        yield browser.new_page(**options)
        browser.close()

"""Numbers in sentences."""

from __future__ import annotations

__all__ = ["counted"]


def counted(number: int, noun: str) -> str:
    """
    Write a number with its noun, such as ``1 scan`` and ``2 scans``.

    Args:
        number: how many.
        noun: of one; its plural ends in s.
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"

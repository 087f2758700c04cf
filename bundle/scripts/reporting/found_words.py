"""What was found in a scan, as one sentence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from scripts.candidates import Candidate, counted
from scripts.description.rib_score import SIDES, ChestFacts

__all__ = ["found_words"]


def found_words(candidates: Sequence[Candidate], chest: ChestFacts | None = None) -> str:
    """
    Tell how many fractures a scan may have, on which ribs, and whether there is a flail segment.

    Args:
        candidates: those that count.
        chest: what they are together, which counts a segmental fracture once; None where it is not known.

    Returns:
        Such as ``9 possible fractures: left ribs 4-8, right rib 3; flail segment: no``.
    """
    count = len(candidates) if chest is None else chest.fractures
    if not count:
        return "No possible fracture"
    where = _on_ribs(candidates) if any(one.rib_order for one in candidates) else _on_sides(candidates)
    flail = "" if chest is None else f"; flail segment: {_flail(chest)}"
    return f"{counted(count, 'possible fracture')}: {', '.join(where)}{flail}"


def _on_ribs(candidates: Sequence[Candidate]) -> list[str]:
    words = []
    for side in reversed(SIDES):
        numbers = {one.rib_number for one in candidates if one.rib_side == side and one.rib_number is not None}
        if numbers:
            words.append(f"{side} rib{'' if len(numbers) == 1 else 's'} {_runs(numbers)}")
    unknown = len({one.rib_id for one in candidates if one.rib_order and one.rib_number is None})
    if unknown:
        words.append(f"{counted(unknown, 'rib')} of unknown number")
    beside = sum(one.rib_order is None for one in candidates)
    return [*words, f"{beside} on no rib"] if beside else words


def _on_sides(candidates: Sequence[Candidate]) -> list[str]:
    words = {"left": "on the left", "right": "on the right", "": "of unknown side"}
    counts = {side: sum(one.side == side for one in candidates) for side in words}
    return [f"{counts[side]} {told}" for side, told in words.items() if counts[side]]


def _runs(numbers: Iterable[int]) -> str:
    """Write numbers as ``4-8 and 10``."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    *words, last = (f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    return f"{', '.join(words)} and {last}" if words else last


def _flail(chest: ChestFacts) -> str:
    sides = [side for side, flail in (("left", chest.flail_left), ("right", chest.flail_right)) if flail]
    if sides:
        return " and ".join(sides)
    return "unknown" if None in (chest.flail_left, chest.flail_right) else "no"

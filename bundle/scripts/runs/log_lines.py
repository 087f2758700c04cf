"""Lines of the log that would mislead."""

from __future__ import annotations

import logging

__all__ = ["hide_false_resuming"]

_ENGINES = ("SupervisedTrainer", "SupervisedEvaluator", "SkippingEvaluator")  # of all configs


def hide_false_resuming() -> None:
    """
    Leave out "Engine run resuming from iteration 0" of the log of MONAI's engines.

    MONAI sets the length of an epoch when it makes an engine, and ignite takes an engine with one for a run that goes
    on. Where a run does go on, its line stays.
    """
    for name in _ENGINES:
        logging.getLogger(f"ignite.engine.engine.{name}").addFilter(_is_true)


def _is_true(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Engine run resuming from iteration 0,")

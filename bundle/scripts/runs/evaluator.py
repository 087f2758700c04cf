"""The evaluator of a prediction."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedEvaluator

from scripts.data.dataloader import SkippedScan
from scripts.data.loading_faults import where_raised
from scripts.errors import causes, explanation

__all__ = ["SkippingEvaluator"]

_logger = logging.getLogger(__name__)


class SkippingEvaluator(SupervisedEvaluator):
    """
    Predict the other scans when one fails; MONAI's evaluator ends the run there.

    A scan may fail in the network, in the post-processing, or in a handler of ``Events.ITERATION_COMPLETED``; the
    handlers behind it are not called then. The loader's ``skip`` is told of it, as of one that cannot be loaded. An
    error whose cause is known, such as a full disk or a setting that does not suit, would come again: it ends the run.

    Args:
        arguments: as of ``SupervisedEvaluator``; ``val_data_loader`` is a ``SkippingDataLoader``.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._scan: str | None = None  # None: it was skipped

    def _iteration(self, engine: Engine, batchdata: dict[str, Any]) -> Any:
        self._scan = batchdata["scan"][0]
        with self._skipping():
            return super()._iteration(engine, batchdata)  # type: ignore[arg-type]
        return []

    def _fire_event(self, event_name: Any, *arguments: Any, **kwargs: Any) -> None:
        if event_name is not Events.ITERATION_COMPLETED:
            super()._fire_event(event_name, *arguments, **kwargs)
        elif self._scan is not None:
            with self._skipping():
                super()._fire_event(event_name, *arguments, **kwargs)

    @contextmanager
    def _skipping(self) -> Iterator[None]:
        """Skip the scan where an error is raised that others need not meet."""
        try:
            yield
        except Exception as error:  # whatever a scan can make the network, the transforms and the handlers raise
            if self._scan is None or explanation(error) is not None:
                raise
            first = causes(error)[-1]
            if isinstance(first, MemoryError | torch.OutOfMemoryError):
                reason = "there is too little memory to predict it: free some, or take a machine with more."
            else:
                _logger.error(where_raised(error).rstrip())
                reason = (
                    f"it cannot be predicted ({type(first).__name__}), which should not happen: report it where you "
                    "have the bundle from, with the lines above it in the log, and without names of patients."
                )
            scan, self._scan = self._scan, None
            self.data_loader.skip(SkippedScan(scan, reason))  # type: ignore[union-attr]

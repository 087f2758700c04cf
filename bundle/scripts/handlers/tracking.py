"""Tracking of runs beside what MONAI's own handlers record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai.config import PathLike
from monai.handlers import MLFlowHandler

if TYPE_CHECKING:
    from ignite.engine import Engine

__all__ = ["MLFlowRunHandler"]


class MLFlowRunHandler(MLFlowHandler):
    """
    Record the settings and the files of a run with MLflow.

    ``--tracking mlflow`` adds handlers of MONAI that record metrics, but no settings, and of the files only the config,
    where ``output_dir`` is an expression. This takes part in the same run. A run that was killed is still open and goes
    on when it is started again: what its settings were then stays recorded, where MONAI's handler fails when one has
    changed.

    Attach to:
        a trainer or an evaluator, behind the handlers that write the files.

    Runs at:
        ``Events.STARTED`` (settings) and ``Events.COMPLETED`` (files).

    Args:
        settings: names and values.
        files: files that are kept with the run; those that do not exist are left out.
        kwargs: ``tracking_uri``, ``experiment_name`` and ``run_name`` of ``MLFlowHandler``.
    """

    def __init__(self, settings: Mapping[str, Any], files: Sequence[PathLike], **kwargs: Any) -> None:
        super().__init__(iteration_log=False, epoch_log=False, artifacts=[Path(file) for file in files], **kwargs)
        self.settings = settings

    def start(self, engine: Engine) -> None:
        """Open the run, or take part in the one that is open, and record the settings."""
        super().start(engine)
        run: Any = self.cur_run
        recorded = self.client.get_run(run.info.run_id).data.params
        self._log_params({name: value for name, value in self.settings.items() if name not in recorded})

"""Tracking of runs beside what MONAI's own handlers record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ignite.distributed as idist
from monai.config import PathLike
from monai.handlers import MLFlowHandler

from scripts.runs.config import is_tracked, run_settings

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
        output_dir: folder of the run.
        files: names of files in it that are kept with the run; those that do not exist are left out.
        settings: names and values; those of the running config where None.
        enabled: False records nothing; None: whether the run was started with ``--tracking``. Of several processes the
            first one records.
        kwargs: ``tracking_uri``, ``experiment_name`` and ``run_name`` of ``MLFlowHandler``.
    """

    def __init__(
        self,
        output_dir: PathLike,
        files: Sequence[str],
        settings: Mapping[str, Any] | None = None,
        enabled: bool | None = None,
        **kwargs: Any,
    ) -> None:
        self.enabled = (is_tracked() if enabled is None else enabled) and idist.get_rank() == 0
        if self.enabled:
            artifacts = [Path(output_dir) / name for name in files]
            super().__init__(iteration_log=False, epoch_log=False, artifacts=artifacts, **kwargs)
            self.settings = run_settings() if settings is None else settings

    def attach(self, engine: Engine) -> None:
        if self.enabled:
            super().attach(engine)

    def start(self, engine: Engine) -> None:
        """Open the run, or take part in the one that is open, and record the settings."""
        super().start(engine)
        run: Any = self.cur_run
        recorded = self.client.get_run(run.info.run_id).data.params
        self._log_params({name: value for name, value in self.settings.items() if name not in recorded})

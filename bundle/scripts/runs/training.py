"""A training from the lock on its folders to its last epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from monai.config import PathLike
from monai.utils import str2bool

from scripts.runs.config import running_parser, save_run_config
from scripts.runs.lock import FolderLock
from scripts.runs.log_lines import hide_false_resuming
from scripts.runs.memory import keep_freed_memory
from scripts.runs.settings import check_files, refuse_stray_words

__all__ = ["run_training"]


def run_training(
    trainer: str,
    datasets: Sequence[str],
    network: str,
    folders: Sequence[PathLike],
    files: Mapping[str, PathLike | None],
    compile: bool | str = False,
) -> None:
    """
    Run a training while no other run writes to its folders.

    The parts are given by their ids in the config, since making them writes to the folders already.

    Args:
        trainer: id of the trainer.
        datasets: ids of the data sets, which are prepared first.
        network: id of the network.
        folders: folders of the run; the first one gets ``config.yaml``.
        files: the files that settings name, see :func:`check_files`.
        compile: compile the network by ``torch.compile``.

    Raises:
        FileNotFoundError: when a file that it needs does not exist.
        BlockingIOError: when another run writes to one of the folders.
        RuntimeError: when it is called from anywhere but a config.
        SystemExit: when the command line has words that belong to no setting.
    """
    refuse_stray_words()
    hide_false_resuming()
    keep_freed_memory()
    check_files(files)
    parser = running_parser()
    with FolderLock(folders):
        save_run_config(Path(folders[0]) / "config.yaml")
        # all parts are made before the scans are prepared, which takes long
        module = parser.get_parsed_content(network)
        engine = parser.get_parsed_content(trainer)
        for dataset in datasets:
            parser.get_parsed_content(dataset).prepare()
        if str2bool(compile):
            module.compile()
        engine.run()

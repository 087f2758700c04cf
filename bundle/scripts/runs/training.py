"""A training from the lock on its folders to its last epoch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from monai.config import PathLike
from monai.utils import str2bool

from scripts.runs.config import running_parser, save_run_config
from scripts.runs.lock import FolderLock
from scripts.runs.settings import refuse_stray_words

__all__ = ["run_training"]


def run_training(
    trainer: str, datasets: Sequence[str], network: str, folders: Sequence[PathLike], compile: bool | str = False
) -> None:
    """
    Run a training while no other run writes to its folders.

    The parts are given by their ids in the config, since making them writes to the folders already.

    Args:
        trainer: id of the trainer.
        datasets: ids of the data sets, which are prepared first.
        network: id of the network.
        folders: folders of the run; the first one gets ``config.yaml``.
        compile: compile the network by ``torch.compile``.

    Raises:
        BlockingIOError: when another run writes to one of the folders.
        RuntimeError: when it is called from anywhere but a config.
        SystemExit: when the command line has words that belong to no setting.
    """
    refuse_stray_words()
    parser = running_parser()
    with FolderLock(folders):
        save_run_config(Path(folders[0]) / "config.yaml")
        for dataset in datasets:
            parser.get_parsed_content(dataset).prepare()
        if str2bool(compile):
            parser.get_parsed_content(network).compile()
        parser.get_parsed_content(trainer).run()

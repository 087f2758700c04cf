"""Data sets that MONAI lacks."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from itertools import chain
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
import torch.distributed as dist
from monai.data import MetaTensor, PersistentDataset
from monai.data.utils import pickle_hashing
from monai.utils import convert_to_tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from tqdm import tqdm

from scripts.files.atomic_write import unfinished_files, write_tensors
from scripts.images.volume_files import companion_files

__all__ = ["MappedDataset", "files_hashing"]

_logger = logging.getLogger(__name__)

_ABANDONED_S = 3600.0  # writing a scan takes seconds
_DAMAGED = "it is damaged"


class MappedDataset(PersistentDataset):
    """
    Keep on disk what the deterministic transforms give, uncompressed, and read only what is sampled.

    MONAI's ``CacheDataset`` holds whole scans in memory, once in each process, and ``PersistentDataset`` reads a whole
    scan for each item. Here the volumes are memory maps: of a scan of 200 MB an epoch reads the pages of its ROIs, and
    the operating system keeps as many of them in memory as there is room for, once for all processes.

    ``prepare`` prepares all scans that the folder does not hold yet, several at a time; without it each is prepared
    when it is first asked for. A file is written whole or not at all, and belongs to the source files' sizes and times
    of change and to the transforms; where any of them differs the scan is prepared again. What is of no use any more
    stays until the folder is removed.

    Each file holds its own name and checksums. They are compared when a file is first used in a run, and again when its
    size or time of change is another: one that is damaged, or another's, is prepared again, and the log says so.

    Args:
        data: items; what they hold as paths is read by the transforms.
        transform: all transforms; those before the first random one give what is kept.
        cache_dir: folder of the prepared scans; None prepares nothing, and each item is read anew.
        num_workers: processes that prepare scans; 0 prepares in this one.
    """

    def __init__(
        self,
        data: Sequence[Mapping[str, Any]],
        transform: Sequence[Callable] | Callable,
        cache_dir: str | os.PathLike[str] | None,
        num_workers: int = 1,
    ) -> None:
        super().__init__(
            data,
            deepcopy(transform),  # loading changes LoadImage, and with it the hash of a data set that shares it
            Path(cache_dir) if cache_dir is not None else None,
            hash_func=files_hashing,
            hash_transform=pickle_hashing,
        )
        self.num_workers = num_workers
        self._whole: dict[str, tuple[int, int]] = {}  # size and time of change of files that were found whole

    def prepare(self) -> None:
        """
        Prepare all scans that are not, or whose file is damaged, with progress; does nothing without ``cache_dir``.

        Processes of one training share the work, and wait for each other. Trainings that start side by side on one
        folder may prepare a scan twice, which does no harm. What one that was killed left unfinished is removed an hour
        later: until then another may be writing it.

        Raises:
            OSError: when the disk has no room for the scans.
        """
        cache_dir = self.cache_dir
        if cache_dir is None:
            return
        _remove_abandoned(cache_dir)
        missing = self._check()
        self._prepare(missing[idist.get_rank() :: idist.get_world_size()], cache_dir)
        self._share_whole()

    def _check(self) -> list[int]:
        """Compare the checksums of the files that are there, and list the items that have no whole one."""
        there = [index for index, item in enumerate(self.data) if self._file_of(item).is_file()]
        idist.barrier()  # all have listed what is there before one of them writes
        mine = there[idist.get_rank() :: idist.get_world_size()]
        checks = DataLoader(_Checking(self, mine), batch_size=None, num_workers=self.num_workers if mine else 0)
        progress = tqdm(checks, desc="check prepared scans", unit="scan", disable=idist.get_rank() > 0 or not mine)
        for index, (stamp, damage) in zip(mine, progress):
            path = self._file_of(self.data[index])
            if damage:
                _logger.warning(_damaged(path, damage, self.data[index]))
            else:
                self._whole[path.name] = stamp[0], stamp[1]  # a loader makes lists of tuples
        self._share_whole()
        return [index for index, item in enumerate(self.data) if self._file_of(item).name not in self._whole]

    def _share_whole(self) -> None:
        """Tell all processes of a training which files each has found whole, or prepared."""
        parts: list[Any] = [self._whole] * idist.get_world_size()
        if len(parts) > 1:
            dist.all_gather_object(parts, parts[0])
        self._whole = {name: stamp for part in parts for name, stamp in part.items()}

    def _prepare(self, missing: Sequence[int], cache_dir: Path) -> None:
        if not missing:
            return
        _logger.info(
            f"Preparing {len(missing)} of {len(self.data)} scans in {cache_dir}, where "
            f"{shutil.disk_usage(cache_dir).free / 1e9:.0f} GB are free."
        )
        # Each worker writes what it prepares, and hands back the size alone
        sizes = DataLoader(_Preparing(self, missing), batch_size=None, num_workers=self.num_workers)
        total = 0
        progress = tqdm(sizes, desc="prepare scans", unit="scan", disable=idist.get_rank() > 0)
        for done, (index, stamp) in enumerate(zip(missing, progress), 1):
            if isinstance(stamp, OSError):
                raise stamp
            self._whole[self._file_of(self.data[index]).name] = stamp[0], stamp[1]
            total += stamp[0]
            expected = total / done * (len(missing) - done) * idist.get_world_size()
            if expected > shutil.disk_usage(cache_dir).free:
                raise OSError(
                    f"{cache_dir}: the {len(missing) - done} scans left need about {expected / 1e9:.0f} GB, more "
                    "than the disk has: set cache_dir to another disk, or to null, which keeps nothing."
                )
        _logger.info(f"{cache_dir}: prepared {len(missing)} scans, {total / 1e9:.1f} GB.")

    def _file_of(self, item: Mapping[str, Any]) -> Path:
        assert self.cache_dir is not None
        return self.cache_dir / f"{self.hash_func(item).decode()[:32]}-{self.transform_hash[:16]}.pt"

    def _cachecheck(self, item_transformed: Mapping[str, Any]) -> dict[str, Any]:
        if self.cache_dir is None:
            return super()._cachecheck(item_transformed)
        path = self._file_of(item_transformed)
        if not path.is_file():
            self._write(item_transformed, path)
        elif self._whole.get(path.name) != (stamp := _stamp(path)):
            if damage := _damage(path):
                _logger.warning(_damaged(path, damage, item_transformed))
                self._write(item_transformed, path)
            else:
                self._whole[path.name] = stamp
        return {**item_transformed, **_read_mapped(path)}

    def _write(self, item: Mapping[str, Any], path: Path) -> None:
        """Prepare a scan; where a file was damaged, processes that have it mapped keep what they have."""
        _write(self._pre_transform(dict(item)), path)
        self._whole[path.name] = _stamp(path)


class _Checking(TorchDataset):
    """The files that are there: an item is the stamp of one, and what is wrong with it, if anything."""

    def __init__(self, dataset: MappedDataset, there: Sequence[int]) -> None:
        self.dataset = dataset
        self.there = there

    def __len__(self) -> int:
        return len(self.there)

    def __getitem__(self, index: int) -> tuple[tuple[int, int], str | None]:
        path = self.dataset._file_of(self.dataset.data[self.there[index]])
        return _stamp(path), _damage(path)


class _Preparing(TorchDataset):
    """The scans that are still to be prepared: an item is the stamp of its file, or why the system cannot write it."""

    def __init__(self, dataset: MappedDataset, missing: Sequence[int]) -> None:
        self.dataset = dataset
        self.missing = missing

    def __len__(self) -> int:
        return len(self.missing)

    def __getitem__(self, index: int) -> tuple[int, int] | OSError:
        item = self.dataset.data[self.missing[index]]
        path = self.dataset._file_of(item)
        try:
            self.dataset._write(item, path)
        except OSError as error:  # raised here, in a worker, it would be told among the lines of a loader
            return error
        return _stamp(path)


def _remove_abandoned(folder: Path) -> None:
    """Remove unfinished files that nobody has written to for long, on a folder that several runs may share."""
    for path, _ in unfinished_files(folder):
        with suppress(FileNotFoundError):  # another run may remove or finish it meanwhile
            if time.time() - path.stat().st_mtime > _ABANDONED_S:
                path.unlink()


def files_hashing(item: Mapping[str, Any]) -> bytes:
    """
    Hash an item by its files' paths, sizes and times of change, and by its other plain values.

    Args:
        item: of a data list; a path may be a file, with those beside it that hold a part of its volume, or a folder
            whose files count, and there may be a list of paths, as of a DICOM series. What is neither paths nor
            plain data (text, numbers, lists and dictionaries of them) does not count.

    Returns:
        SHA-256, in hexadecimal.
    """
    content: dict[str, Any] = {}
    for key, value in item.items():
        paths = value if isinstance(value, list) else [value]
        if paths and all(isinstance(path, str) and os.path.exists(path) for path in paths):
            files = chain.from_iterable(_files(path) for path in paths)
            content[key] = [(str(path), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in files]
        else:
            try:
                json.dumps(value)
            except TypeError:
                continue
            content[key] = value
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest().encode()


def _files(path: str) -> Iterator[Path]:
    resolved = Path(path).resolve()
    yield from sorted(resolved.rglob("*")) if resolved.is_dir() else [resolved, *companion_files(resolved)]


def _write(item: Mapping[str, Any], path: Path) -> None:
    """Write the tensors and arrays of an item, with the place of those that have one."""
    kept = {
        "name": path.name,
        "tensors": {
            key: convert_to_tensor(value, track_meta=False).contiguous()
            for key, value in item.items()
            if isinstance(value, torch.Tensor | np.ndarray)
        },
        "affines": {key: value.affine for key, value in item.items() if isinstance(value, MetaTensor)},
        "arrays": [key for key, value in item.items() if isinstance(value, np.ndarray)],
    }
    write_tensors(path, kept)


def _stamp(path: Path) -> tuple[int, int]:
    """Return what changes with a file: its size, and its time of change."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def _damage(path: Path) -> str | None:
    """
    Say what is wrong with a prepared file; None where nothing is.

    ``torch.save`` writes a zip archive, whose checksums (CRC-32) ``torch.load`` does not compare. At 2 GB/s that takes
    a tenth of a second for a scan of 187 MB that is in memory.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return _DAMAGED
        kept = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except PermissionError:
        raise
    except Exception:  # whatever damaged bytes make the two raise
        return _DAMAGED
    if kept.get("name") != path.name:
        return "it is of another scan" if "name" in kept else "it is of an earlier version of this bundle"
    return None


def _damaged(path: Path, damage: str, item: Mapping[str, Any]) -> str:
    return f"{path}: {damage}; {item.get('scan', 'its scan')} is prepared again."


def _read_mapped(path: Path) -> dict[str, Any]:
    """Map what was written; a volume's voxels are read when they are used, and a change of them is not written."""
    kept = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    tensors, affines = kept["tensors"], kept["affines"]
    item: dict[str, Any] = {
        key: MetaTensor(value, affine=affines[key]) if key in affines else value for key, value in tensors.items()
    }
    return item | {key: tensors[key].numpy() for key in kept["arrays"]}

"""Pack what one process hands to another, so that it goes through a pipe and needs no shared memory."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["pack", "unpack"]


def pack(item: Any) -> tuple[bytes, list[NDArray[np.uint8]]]:
    """
    Pickle an item with its tensors by value; their voxels are not copied, but told apart.

    PyTorch hands a tensor to another process as a file in shared memory, of which a container has 64 MB unless it is
    told otherwise, and pickles it by value only with two copies of it, and of a view all that it is a view of.

    Args:
        item: whatever can be pickled; tensors, of any subclass, are on the CPU.

    Returns:
        The pickled item, and the bytes of its tensors and arrays, which share their memory.
    """
    buffers: list[pickle.PickleBuffer] = []
    file = io.BytesIO()
    _ByValue(file, protocol=5, buffer_callback=buffers.append).dump(item)
    return file.getvalue(), [np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers]


def unpack(content: bytes, buffers: Sequence[Any]) -> Any:
    """
    Make the item of what ``pack`` gave.

    Args:
        content: the pickled item.
        buffers: the bytes; tensors and arrays take them over, so they have to be writable.
    """
    return pickle.loads(content, buffers=buffers)


class _ByValue(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, torch.Tensor) and obj.untyped_storage().nbytes() > obj.nbytes:
            return obj.clone(memory_format=torch.contiguous_format).__reduce_ex__(5)  # of a view its own voxels alone
        if isinstance(obj, torch.storage.TypedStorage):
            return _typed_storage, (obj._untyped_storage, obj.dtype)
        if isinstance(obj, torch.UntypedStorage):
            return _storage, (torch.empty(0, dtype=torch.uint8).set_(obj).numpy(),)
        return NotImplemented


def _storage(content: NDArray[np.uint8]) -> torch.UntypedStorage:
    return torch.from_numpy(content).untyped_storage()


def _typed_storage(storage: torch.UntypedStorage, dtype: torch.dtype) -> torch.storage.TypedStorage:
    return torch.storage.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)

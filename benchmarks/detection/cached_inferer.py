"""Windows that were predicted once: recipes that differ behind them share what the network said."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer
from monai.utils import convert_to_dst_type

from scripts.files.atomic_write import whole_file

__all__ = ["CachedInferer"]


class CachedInferer(Inferer):
    """
    Keep what an inferer gives for a scan on disk, and take it from there the next time.

    A file belongs to the voxels of the scan, the weights that windows are predicted with, the inferer's settings, and
    what it is given beside the scan.

    Args:
        inferer: the inferer that does the work.
        cache_dir: folder of the files.
        settings: what the inferer was made with.
    """

    def __init__(self, inferer: Inferer, cache_dir: str, settings: Any) -> None:
        super().__init__()
        self.inferer = inferer
        self.cache_dir = Path(cache_dir)
        self.settings = str(settings)
        self._weights: dict[int, str] = {}

    def __call__(self, inputs: torch.Tensor, network: Callable, *args: Any, **kwargs: Any) -> Any:
        digest = hashlib.sha256(self.settings.encode())
        digest.update(self._weights_of(network).encode())
        for tensor in (inputs, *(kwargs[name] for name in sorted(kwargs))):
            digest.update(np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
        path = self.cache_dir / f"{digest.hexdigest()[:32]}.npy"
        if path.is_file():
            return convert_to_dst_type(np.load(path), dst=inputs, dtype=torch.float32)[0]
        found = self.inferer(inputs, network, *args, **kwargs)
        self.cache_dir.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary, open(temporary, "wb") as file:
            np.save(file, found.cpu().numpy())
        return found

    def _weights_of(self, network: Any) -> str:
        """Hash the weights that windows are predicted with: not those of the look along the ribs."""
        if id(network) not in self._weights:
            digest = hashlib.sha256()
            for name, value in network.state_dict().items():
                if not name.startswith("straight_ribs."):
                    digest.update(name.encode() + value.cpu().numpy().tobytes())
            self._weights[id(network)] = digest.hexdigest()
        return self._weights[id(network)]

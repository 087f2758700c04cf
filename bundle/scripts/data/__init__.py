"""From a folder to batches: the data list, RibFrac's tables, data sets and loaders."""

from .datalist import check_section, load_datalist
from .dataloader import PipeFallbackDataLoader, SkippingDataLoader
from .dataset import MappedDataset
from .hard_examples import add_hard_examples
from .scan_stream import StreamDataLoader

__all__ = [
    "MappedDataset",
    "PipeFallbackDataLoader",
    "SkippingDataLoader",
    "StreamDataLoader",
    "add_hard_examples",
    "check_section",
    "load_datalist",
]

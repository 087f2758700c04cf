"""From a folder to batches: the data list, RibFrac's tables, data sets and loaders."""

from .by_value import pack, unpack
from .datalist import ScanList, list_scans, load_datalist
from .dataloader import PipeFallbackDataLoader, SkippedScan, SkippingDataLoader
from .dataset import MappedDataset, files_hashing
from .hard_examples import add_hard_examples
from .loading_faults import loading_fault, where_raised
from .loading_process import LoadingProcess, how_it_ended
from .ribfrac import RibFracTable, TableRow, integer_ids, is_hidden, read_ribfrac_table
from .scan_facts import Fracture, ScanFacts, doubled_images

__all__ = [
    "Fracture",
    "LoadingProcess",
    "MappedDataset",
    "PipeFallbackDataLoader",
    "RibFracTable",
    "ScanFacts",
    "ScanList",
    "SkippedScan",
    "SkippingDataLoader",
    "TableRow",
    "add_hard_examples",
    "doubled_images",
    "files_hashing",
    "how_it_ended",
    "integer_ids",
    "is_hidden",
    "list_scans",
    "load_datalist",
    "loading_fault",
    "pack",
    "read_ribfrac_table",
    "unpack",
    "where_raised",
]

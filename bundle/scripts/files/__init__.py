"""Files of any kind: written whole, listed, named, hashed."""

from .atomic_write import unfinished_files, whole_file, write_json, write_tensors, write_text, write_volume
from .file_digest import file_sha256
from .folder_files import FolderFiles, files_below
from .ignored_files import IgnoredFiles, is_bookkeeping, log_ignored
from .scan_names import natural_order, printable, safe_name, safe_names

__all__ = [
    "FolderFiles",
    "IgnoredFiles",
    "file_sha256",
    "files_below",
    "is_bookkeeping",
    "log_ignored",
    "natural_order",
    "printable",
    "safe_name",
    "safe_names",
    "unfinished_files",
    "whole_file",
    "write_json",
    "write_tensors",
    "write_text",
    "write_volume",
]

"""Files of any kind: written whole, listed, named, hashed."""

from .folder_files import files_below
from .scan_names import safe_name

__all__ = ["files_below", "safe_name"]

"""A NIfTI writer for masks of instances."""

from __future__ import annotations

from typing import Any

import nibabel as nib
import numpy as np
from monai.config import PathLike
from monai.data import NibabelWriter
from monai.utils.type_conversion import get_equivalent_dtype

from scripts.files.atomic_write import whole_file
from scripts.files.memory_order import in_fortran_order

__all__ = ["AtomicNibabelWriter"]


class AtomicNibabelWriter(NibabelWriter):
    """
    Write a NIfTI file whole or not at all, integers in the smallest type that holds them.

    MONAI's ``NibabelWriter`` writes in place, so that a run that is killed leaves half a file under the final name;
    its type is fixed beforehand, so that a mask of ids is either too wide for the challenge (uint8) or wraps above
    255; and it makes a scan of one slice two-dimensional. Give it to ``SaveImage`` as ``writer``, with
    ``output_dtype: null`` to choose the type by content.

    Args:
        output_dtype: type of the file; ``None`` is that of the data, where integers are stored as the smallest
            unsigned type that holds the largest.
        kwargs: as for ``NibabelWriter``.

    Raises:
        ValueError: when an integer volume holds a negative value.
    """

    def __init__(self, output_dtype: Any = None, **kwargs: Any) -> None:
        super().__init__(output_dtype=output_dtype, **kwargs)

    def set_data_array(
        self, data_array: Any, channel_dim: int | None = 0, squeeze_end_dims: bool = True, **kwargs: Any
    ) -> None:
        """Take a volume of one channel; ``squeeze_end_dims`` drops the channel and no spatial axis."""
        super().set_data_array(data_array, channel_dim=channel_dim, squeeze_end_dims=False, **kwargs)
        if squeeze_end_dims and channel_dim is not None and self.data_obj.shape[-1] == 1:
            self.data_obj = self.data_obj[..., 0]

    def write(self, filename: PathLike, verbose: bool = False, **obj_kwargs: Any) -> None:
        """Write the file under a temporary name beside the final one, and rename it."""
        if np.issubdtype(get_equivalent_dtype(self.output_dtype, np.ndarray), np.integer):
            lowest, highest = int(self.data_obj.min()), int(self.data_obj.max())
            if lowest < 0:
                raise ValueError(f"{filename}: ids must not be negative, but the lowest is {lowest}.")
            self.output_dtype = np.min_scalar_type(highest)
        stored_type = get_equivalent_dtype(self.output_dtype, np.ndarray)
        self.data_obj = np.asarray(self.data_obj).astype(stored_type, copy=False)
        with whole_file(filename) as temporary:
            super().write(temporary, verbose=verbose, **obj_kwargs)

    @classmethod
    def create_backend_obj(  # type: ignore[override]  # MONAI does so itself
        cls, data_array: Any, affine: Any = None, dtype: Any = None, **kwargs: Any
    ) -> nib.nifti1.Nifti1Image:
        """Make MONAI's image, in the order of a file: MONAI itself would turn the voxels back again."""
        image = super().create_backend_obj(data_array, affine, dtype, **kwargs)
        return type(image)(in_fortran_order(np.asarray(image.dataobj)), image.affine, image.header)

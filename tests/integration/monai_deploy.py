"""
Run the bundle in MONAI Deploy, as a scan goes from DICOM through ``MonaiBundleInferenceOperator``, on one NIfTI file.

    python tests/integration/monai_deploy.py --bundle dist/rib_fracture_ct_segmentation --image scan.nii.gz \
      --output found.nii.gz

Needs an environment of its own: the bundle's own packages, then
``pip install --no-deps -r tests/integration/requirements-monai-deploy.txt``. The bundle is given as a folder, as
``python -m scripts release`` packs it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.deploy.conditions import CountCondition
from monai.deploy.core import AppContext, Application, Image, IOType, Operator, OperatorSpec
from monai.deploy.operators.monai_bundle_inference_operator import IOMapping, MonaiBundleInferenceOperator


class NiftiSource(Operator):
    """Give a NIfTI file as ``DICOMSeriesToVolumeOperator`` gives a series: axes (D, H, W), affine in RAS, in mm."""

    def __init__(self, fragment: Any, *args: Any, path: Path, **kwargs: Any) -> None:
        self.path = path
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.output("image")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        scan = nib.load(self.path)
        spacing_mm = scan.header.get_zooms()
        metadata = {
            "row_pixel_spacing": spacing_mm[0],
            "col_pixel_spacing": spacing_mm[1],
            "depth_pixel_spacing": spacing_mm[2],
            "nifti_affine_transform": scan.affine,
        }
        op_output.emit(Image(np.swapaxes(np.asarray(scan.dataobj), 0, 2), metadata=metadata), "image")


class NiftiSink(Operator):
    """Write the mask on the grid of the scan that it was found in."""

    def __init__(self, fragment: Any, *args: Any, path: Path, image: Path, **kwargs: Any) -> None:
        self.path, self.image = path, image
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("pred")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        mask = np.swapaxes(op_input.receive("pred").asnumpy(), 0, 2)
        nib.save(nib.Nifti1Image(mask, nib.load(self.image).affine), self.path)
        print(f"{self.path}: {mask.max()} candidates")


class BundleApp(Application):
    """From a NIfTI file through the bundle to a NIfTI file."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.paths = options
        super().__init__()

    def compose(self) -> None:
        options = self.paths
        source = NiftiSource(self, CountCondition(self, 1), path=options.image, name="source")
        network = MonaiBundleInferenceOperator(
            self,
            input_mapping=[IOMapping("image", Image, IOType.IN_MEMORY)],
            output_mapping=[IOMapping("pred", Image, IOType.IN_MEMORY)],
            app_context=AppContext({}),
            bundle_path=options.bundle,
            name="bundle",
        )
        sink = NiftiSink(self, path=options.output, image=options.image, name="sink")
        self.add_flow(source, network, {("image", "image")})
        self.add_flow(network, sink, {("pred", "pred")})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Run the bundle in MONAI Deploy on one NIfTI file.")
    parser.add_argument("--bundle", type=Path, required=True, help="the bundle's folder")
    parser.add_argument("--image", type=Path, required=True, help="the scan")
    parser.add_argument("--output", type=Path, required=True, help="the mask to write")
    arguments, _ = parser.parse_known_args()
    BundleApp(arguments).run()

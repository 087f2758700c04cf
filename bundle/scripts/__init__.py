"""What MONAI lacks for finding rib fractures in CT; every public class works by ``_target_`` in any MONAI config."""

import logging
import warnings

# MONAI tells on every start that it lacks a decoder of DICOM on GPUs, which is not used here
warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)

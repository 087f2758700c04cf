"""What MONAI lacks for finding rib fractures in CT; every public class works by ``_target_`` in any MONAI config."""

import logging
import warnings
from pathlib import Path

# MONAI tells on every start that it lacks a decoder of DICOM on GPUs, which is not used here
warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)

# Until version 0.14: python -m scripts.NAME of a command that is now python -m scripts NAME
__path__.append(str(Path(__file__).parent / "old_commands"))

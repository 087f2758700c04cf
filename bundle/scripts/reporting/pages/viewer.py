"""A page to scroll through a scan with its mask: it holds the volume and its viewer, and opens without a network."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from scripts.files.atomic_write import whole_file
from scripts.images.hounsfield import BONE_WINDOW_HU
from scripts.reporting.pages.findings import Outcome
from scripts.reporting.pages.html import render, script
from scripts.reporting.pages.niivue import installed_niivue
from scripts.reporting.pages.page import OUTCOMES
from scripts.reporting.pages.views import PLANES

__all__ = ["STEP_HU", "LOWEST_HU", "Mark", "packed_ids", "packed_image", "write_viewer_page"]

# A byte a voxel: a third of the page that HU as they are would make. Noise of a CT is larger than half of a step.
STEP_HU = 8.0
LOWEST_HU = (
    -976.0
)  # noise of air about -1000 would fill a tenth of the page; the highest that a byte then holds is 1064
_COMPRESSION = 6  # of gzip
_PARTING = "<!-- viewer -->"
# Name, key, and HU shown as black and white.
_WINDOWS = (("Bone", "b", *map(int, BONE_WINDOW_HU)), ("Lung", "l", -1350, 150), ("Soft tissue", "s", -160, 240))


@dataclass(frozen=True)
class Mark:
    """
    A candidate or an annotated fracture in the list beside the pictures.

    Args:
        kind: ``candidate`` or ``fracture``.
        instance: its id in the mask.
        outcome: see :class:`scripts.reporting.pages.findings.Finding`; a fracture's is ``hit`` or ``missed``.
        score: of a candidate, in [0, 1]; ``None`` of a fracture.
        words: what there is to tell about it.
        place_mm: a voxel of it near its middle, mm in RAS.
    """

    kind: str
    instance: int
    outcome: Outcome
    score: float | None
    words: str
    place_mm: tuple[float, float, float]

    @property
    def name(self) -> str:
        """``C1`` for candidate 1, ``F1`` for fracture 1."""
        return f"{self.kind[0].upper()}{self.instance}"


def packed_image(image_hu: NDArray, affine: NDArray) -> str:
    """
    Pack a scan as a NIfTI file of a byte a voxel, compressed by gzip, as text (base64).

    Args:
        image_hu: HU, shape ``(H, W, D)``; rounded to ``STEP_HU``, and clipped to what a byte holds.
        affine: from voxels to mm in RAS, shape ``(4, 4)``.
    """
    steps = np.rint((image_hu - LOWEST_HU) / STEP_HU).clip(0, 255).astype(np.uint8)
    header = _header(steps, affine)
    header.set_slope_inter(STEP_HU, LOWEST_HU)
    return _packed(header, steps)


def packed_ids(ids: NDArray, affine: NDArray) -> str:
    """
    Pack a volume of ids likewise, in the smallest type that holds them.

    Args:
        ids: 0 is background, shape ``(H, W, D)``.
        affine: from voxels to mm in RAS, shape ``(4, 4)``.
    """
    smallest = ids.astype(np.min_scalar_type(int(ids.max())))
    header = _header(smallest, affine)
    header.set_intent("label")
    return _packed(header, smallest)


def _header(volume: NDArray, affine: NDArray) -> Any:
    header = nib.Nifti1Header()
    header.set_data_dtype(volume.dtype)
    header.set_data_shape(volume.shape)
    header.set_xyzt_units("mm", "sec")
    header.set_qform(affine, code=1)
    header.set_sform(affine, code=1)
    header["vox_offset"] = header.single_vox_offset
    return header


def _packed(header: Any, volume: NDArray) -> str:
    gap = bytes(header.single_vox_offset - len(header.binaryblock))
    content = header.binaryblock + gap + volume.tobytes(order="F")
    return base64.b64encode(gzip.compress(content, _COMPRESSION, mtime=0)).decode()


def write_viewer_page(
    path: Path,
    name: str,
    image_hu: NDArray,
    affine: NDArray,
    instances: Mapping[str, NDArray],
    marks: Sequence[Mark],
    threshold: float = 0.0,
    rib_names: Mapping[int, str] | None = None,
    report: str = "",
) -> None:
    """
    Write the page of a scan, whole or not at all.

    Args:
        path: the page.
        name: the scan's.
        image_hu: HU with RAS axes, shape ``(H, W, D)``.
        affine: from voxels to mm in RAS, shape ``(4, 4)``.
        instances: volumes of ids on its grid, 0 is background, by ``candidate`` and, where annotated, ``fracture``, and
            where ribs are known ``rib``.
        marks: what the list shows, in its order.
        threshold: of the score, at which the page opens, in [0, 1].
        rib_names: names of the ribs by their ids, such as ``left 6``; without any none can be switched on.
        report: address of the scan on the review page; empty where there is none.

    Raises:
        FileNotFoundError: when NiiVue is not installed.
        ValueError: see :func:`scripts.reporting.pages.niivue.installed_niivue`.
    """
    niivue = installed_niivue()
    code = niivue.module + "\n" + script("viewer.js")
    page = render(
        "viewer.html",
        parting=_PARTING,
        code=code,
        name=name,
        made=datetime.now().astimezone(),
        marks=marks,
        outcomes=OUTCOMES,
        annotated="fracture" in instances,
        threshold=threshold,
        planes={plane: letters for plane, (_, _, letters) in PLANES.items()},
        windows=_WINDOWS,
        step_hu=STEP_HU,
        spacing_mm=np.linalg.norm(affine[:3, :3], axis=0).tolist(),
        niivue=niivue,
        rib_names=json.dumps(rib_names) if rib_names else "",
        report=report,
    )
    volumes = {"image": packed_image(image_hu, affine)}
    volumes |= {kind: packed_ids(ids, affine) for kind, ids in instances.items()}
    before, _, after = page.partition(_PARTING)
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(before)
        for kind, text in volumes.items():
            file.write(f'<script type="text/plain" id="volume-{kind}">{text}</script>\n')
        file.write(f'<script type="module">{code}</script>')
        file.write(after)

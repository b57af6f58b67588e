"""Reading a DICOM SEG or RTSTRUCT as structures on the grid of its series."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from tskd_monai.data.dicom.geometry import SeriesGrid
from tskd_monai.data.dicom.label_references import (
    SEG,
    check_refers_to,
    damage_named,
    label_kind,
    read_label_header,
)
from tskd_monai.data.dicom.rtstruct_reader import rtstruct_structures
from tskd_monai.data.dicom.seg_reader import seg_structures
from tskd_monai.data.structures import Structure


def read_dicom_label(path: Path, grid: SeriesGrid) -> list[Structure]:
    """Returns the structures of a SEG or RTSTRUCT that was drawn on a series.

    Args:
        path: path of the file.
        grid: grid of the series.

    Raises:
        ValueError: if the file is neither, is of another patient, series or frame of reference, or is damaged. The
            function `mask` of a structure raises ValueError too.
    """
    header = read_label_header(path)
    if header is None:
        raise ValueError(f"Expected a DICOM SEG or RTSTRUCT, found another file: {path.name}.")
    with damage_named(path):
        check_refers_to(header, grid.headers, path.name)
        found = (seg_structures if label_kind(header) == SEG else rtstruct_structures)(header, grid)
    return [replace(one, mask=partial(_mask, one, path)) for one in found]


def _mask(structure: Structure, path: Path) -> np.ndarray:
    with damage_named(path):
        return structure.mask()

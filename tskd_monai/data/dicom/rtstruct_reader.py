"""Reading the regions of an RTSTRUCT onto the grid of the series that they were drawn on.

Contours are closed polygons in patient coordinates. Each is filled on its slice by the rule of pixel centres; a contour
within another one is a hole, and so is an area that a contour leaves out through a keyhole.

Source: PS3.3 C.8.8.6 (ROI Contour module).
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset

from tskd_monai.data.contours import filled
from tskd_monai.data.dicom.geometry import GRID_TOLERANCE, SeriesGrid
from tskd_monai.data.dicom.seg_reader import codes_of
from tskd_monai.data.dicom.series import series_title
from tskd_monai.data.structures import Structure

logger = logging.getLogger(__name__)

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
FEWEST_POINTS = 3
PLANE_TOLERANCE = GRID_TOLERANCE
"""Largest distance of a point from the plane of its slice, in slice spacings."""


def rtstruct_structures(header: FileDataset, grid: SeriesGrid) -> list[Structure]:
    """Returns the regions of an RTSTRUCT; their contours are filled when they are asked for.

    Args:
        header: RTSTRUCT.
        grid: grid of the series.
    """
    path = Path(str(header.filename))
    names = {
        int(item.ROINumber): str(item.get("ROIName") or f"region {item.ROINumber}")
        for item in header.get("StructureSetROISequence") or ()
    }
    contours: dict[int, list[Dataset]] = defaultdict(list)
    for item in header.get("ROIContourSequence") or ():
        contours[int(item.ReferencedROINumber)] += list(item.get("ContourSequence") or ())
    codes: dict[int, tuple[str, ...]] = defaultdict(tuple)
    for item in header.get("RTROIObservationsSequence") or ():
        codes[int(item.ReferencedROINumber)] += codes_of(item.get("RTROIIdentificationCodeSequence"))
    return [
        Structure(name, codes[number], partial(_mask, contours[number], f"{name} of {path.name}", grid))
        for number, name in names.items()
    ]


def _mask(contours: Sequence[Dataset], title: str, grid: SeriesGrid) -> np.ndarray:
    """Returns the voxels inside the contours of a region."""
    polygons: dict[int, list[np.ndarray]] = defaultdict(list)
    for contour in contours:
        index, polygon = _on_slice(contour, title, grid)
        polygons[index].append(polygon)
    mask = np.zeros(grid.shape, bool)
    for index, parts in polygons.items():
        mask[:, :, index] = filled(parts, (grid.shape[0], grid.shape[1]), f"{title}, slice {index + 1}")
    if polygons:
        span = max(polygons) - min(polygons) + 1
        if len(polygons) < span:
            # A file may be named after the patient, and a log may be passed on.
            logger.warning(
                "A region of %s has no contour on %d of the %d slices from its first to its last; they are taken as "
                "without it.",
                series_title(str(grid.headers[0].get("SeriesInstanceUID") or "")),
                span - len(polygons),
                span,
            )
    return mask


def _on_slice(contour: Dataset, title: str, grid: SeriesGrid) -> tuple[int, np.ndarray]:
    """Returns the slice of a contour, and its corners in pixels (n, 2), along columns and along rows."""
    kind = str(contour.get("ContourGeometricType") or "")
    points = _points(contour, title)
    if kind not in CLOSED or len(points) < FEWEST_POINTS:
        found = f"{kind or 'no type'} with {len(points)} point(s)"
        raise ValueError(
            f"Expected closed contours ({CLOSED[0]}) in {title}, found {found}; close the contour where it was drawn, "
            "or remove it."
        )
    lps = np.vstack([points.T * np.array([[-1.0], [-1.0], [1.0]]), np.ones(len(points))])
    indices = (np.linalg.inv(grid.affine) @ lps)[:3]
    slices = np.rint(indices[2])
    index = int(slices[0])
    if np.abs(indices[2] - index).max() > PLANE_TOLERANCE:
        is_tilted = np.ptp(indices[2]) > PLANE_TOLERANCE
        found = "one that is tilted against them" if is_tilted else "one between two slices"
        raise ValueError(
            f"Expected contours on the slices of the series in {title}, found {found}; draw the contours on this "
            "series."
        )
    if not 0 <= index < grid.shape[2]:
        raise ValueError(
            f"Expected contours on the slices of the series in {title}, found one outside of them; export all slices "
            "of the series."
        )
    return index, indices[:2].T


def _points(contour: Dataset, title: str) -> np.ndarray:
    """Returns the points of a contour, LPS mm (n, 3)."""
    values = np.array(contour.get("ContourData") or [], dtype=float).ravel()
    if values.size % 3 or not np.isfinite(values).all():
        raise ValueError(
            f"Expected three coordinates for each point of {title}, found {values.size} numbers; export it again."
        )
    return values.reshape(-1, 3)

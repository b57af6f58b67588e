"""Where the slices of a DICOM series lie: their order, the affine, and what no affine can describe."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset, FileDataset

logger = logging.getLogger(__name__)

ORIENTATION_TOLERANCE = 1e-3
"""Largest difference of a direction cosine between slices, or from orthonormal: headers round to 4 to 6 digits."""

PIXEL_SPACING_TOLERANCE = 1e-4
"""Largest relative difference of PixelSpacing between slices."""

GRID_TOLERANCE = 0.1
"""How far a slice may lie off the regular grid along the normal, in slice spacings: headers may round to 0.1 mm."""

NOTICED_OFF_GRID = 0.01
"""As GRID_TOLERANCE, but worth a line in the log."""

DRIFT_TOLERANCE = 0.1
"""How far the slices may drift within their plane over the whole stack, in pixels; more is a gantry tilt."""

THICKNESS_TOLERANCE = 0.01
"""Relative difference of SliceThickness from the spacing of the positions that is worth a line in the log."""

SAME_POSITION_MM = 1e-3
"""Slices closer than this are two images of one position."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

VARYING_TAGS = (
    "EchoTime",
    "InversionTime",
    "TemporalPositionIdentifier",
    "TriggerTime",
    "DiffusionBValue",
    "AcquisitionNumber",
    "AcquisitionTime",
    "ImageType",
)
"""By these the images of one position tell each other apart."""


@dataclass(frozen=True)
class SeriesGrid:
    """The voxel grid of a series, axes (columns, rows, slices).

    Attributes:
        headers: of the slices, in the order of the last axis.
        shape: columns, rows, slices.
        affine: to RAS mm, float64 (4, 4).
    """

    headers: tuple[FileDataset, ...]
    shape: tuple[int, int, int]
    affine: np.ndarray


def series_grid(headers: Sequence[FileDataset], name: str) -> SeriesGrid:
    """Returns the grid on which the slices of one series lie.

    Slices are ordered by their position along the normal of their plane (row × column direction, LPS), whatever
    InstanceNumber says, and the spacing is that of the positions, whatever SliceThickness says.

    Args:
        headers: of the slices, in any order.
        name: of the series in messages, such as its folder's.

    Raises:
        ValueError: when slices differ in size, spacing or orientation, share a position, are missing or unevenly
            spaced, or are sheared by a gantry tilt.
    """
    _require_geometry(headers, name)
    _require_equal(headers, name)
    row_direction, column_direction = np.array(headers[0].ImageOrientationPatient, float).reshape(2, 3)
    normal = np.cross(row_direction, column_direction)
    positions = np.array([header.ImagePositionPatient for header in headers], float)
    order = np.argsort(positions @ normal, kind="stable")
    ordered = tuple(headers[index] for index in order)
    positions = positions[order]
    row_spacing, column_spacing = (float(value) for value in headers[0].PixelSpacing)
    if len(headers) > 1:
        spacing = _even_spacing(positions @ normal, ordered, name)
        _require_no_tilt(positions, normal, min(row_spacing, column_spacing), name)
    else:
        spacing = _thickness(headers[0], name)
        logger.warning("%s has one slice; its thickness, %.3g mm, is taken from the header.", name, spacing)
    _notice_thickness(ordered[0], spacing, name)
    lps = np.eye(4)
    lps[:3, 0] = row_direction * column_spacing
    lps[:3, 1] = column_direction * row_spacing
    lps[:3, 2] = normal * spacing
    lps[:3, 3] = positions[0]
    return SeriesGrid(ordered, (int(headers[0].Columns), int(headers[0].Rows), len(headers)), LPS_TO_RAS @ lps)


def _require_geometry(headers: Sequence[Dataset], name: str) -> None:
    """Refuses multi-frame images and those without a place in the patient."""
    for header in headers:
        if int(header.get("NumberOfFrames") or 1) > 1 or "SharedFunctionalGroupsSequence" in header:
            raise ValueError(
                f"Expected one slice per file in {name}, found an enhanced multi-frame image, which this version does "
                "not read; convert it to classic DICOM or NIfTI (for example with dcm2niix)."
            )
        if "MOSAIC" in (header.get("ImageType") or ()):
            raise ValueError(
                f"Expected one slice per image in {name}, found a Siemens mosaic; convert it to NIfTI (with dcm2niix)."
            )
        for tag, count in (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6), ("PixelSpacing", 2)):
            values = header.get(tag)
            found = np.array([] if values is None else values, dtype=float).ravel()
            if found.size != count or not np.isfinite(found).all():
                raise ValueError(
                    f"Expected {count} numbers for {tag} in every image of {name}, found {found.size or 'none'}; "
                    "a series without positions is no volume: export its images as PNG."
                )
        if min(float(value) for value in header.PixelSpacing) <= 0:
            raise ValueError(
                f"Expected a positive PixelSpacing in {name}, found {list(header.PixelSpacing)}; export again."
            )
    directions = np.array(headers[0].ImageOrientationPatient, float).reshape(2, 3)
    if np.abs(directions @ directions.T - np.eye(2)).max() > ORIENTATION_TOLERANCE:
        raise ValueError(
            f"Expected orthogonal unit vectors for ImageOrientationPatient in {name}, found {directions.tolist()}; "
            "the header is damaged, export the series again."
        )


def _require_equal(headers: Sequence[Dataset], name: str) -> None:
    """Refuses a series whose slices are not all of one size, spacing, orientation and frame of reference."""
    first = headers[0]
    sizes = Counter((int(header.Rows), int(header.Columns)) for header in headers)
    if len(sizes) > 1:
        raise ValueError(f"Expected slices of one size in {name}, found {_tally(sizes)} (rows, columns); split them.")
    if len({str(header.get("FrameOfReferenceUID") or "") for header in headers}) > 1:
        raise ValueError(f"Expected one FrameOfReferenceUID in {name}, found several; split the series.")
    for tag, tolerance in (
        ("ImageOrientationPatient", ORIENTATION_TOLERANCE),
        ("PixelSpacing", PIXEL_SPACING_TOLERANCE * float(first.PixelSpacing[0])),
    ):
        values = np.array([header.get(tag) for header in headers], dtype=float)
        if np.abs(values - values[0]).max() > tolerance:
            kinds = Counter(tuple(row) for row in values.round(4).tolist())
            raise ValueError(
                f"Expected one {tag} in {name}, found {_tally(kinds)}; a localizer or a second stack shares the "
                "series: move its files to another folder."
            )


def _even_spacing(places: np.ndarray, headers: Sequence[Dataset], name: str) -> float:
    """Returns the slice spacing, mm, of ascending places along the normal, mm; refuses repeats and gaps."""
    steps = np.diff(places)
    repeated = np.flatnonzero(steps < SAME_POSITION_MM)
    if len(repeated):
        pair = headers[repeated[0]], headers[repeated[0] + 1]
        differing = [tag for tag in VARYING_TAGS if pair[0].get(tag) != pair[1].get(tag)]
        raise ValueError(
            f"Expected one image per position in {name}, found {len(repeated)} duplicate positions among "
            f"{len(places)} images ({'they differ in ' + ', '.join(differing) if differing else 'repeated files'}); "
            "put one volume into a folder of its own."
        )
    spacing = float(places[-1] - places[0]) / len(steps)
    off_grid = float(np.abs(places - np.linspace(places[0], places[-1], len(places))).max()) / spacing
    if off_grid > GRID_TOLERANCE:
        usual = float(np.median(steps))
        odd = np.flatnonzero(np.abs(steps - usual) > GRID_TOLERANCE * usual)
        gaps = ", ".join(f"{places[i]:.2f} to {places[i + 1]:.2f}" for i in odd[:5])
        more = f" and {len(odd) - 5} more" if len(odd) > 5 else ""
        raise ValueError(
            f"Expected evenly spaced slices in {name}, found steps of {steps.min():.3g} to {steps.max():.3g} mm, "
            f"usually {usual:.3g} mm; missing or uneven at {gaps or 'every slice'}{more} (mm along the slice normal). "
            "Export the series again if slices are missing."
        )
    if off_grid > NOTICED_OFF_GRID:
        logger.warning(
            "%s: slices lie up to %.2g mm off a regular grid of %.4g mm; the grid is used.",
            name,
            off_grid * spacing,
            spacing,
        )
    return spacing


def _require_no_tilt(positions: np.ndarray, normal: np.ndarray, pixel: float, name: str) -> None:
    """Refuses slices that shift within their plane from one to the next, and names the angle."""
    offsets = positions - positions[0]
    along = offsets @ normal
    drift = np.linalg.norm(offsets - along[:, None] * normal, axis=1)
    if drift.max() > DRIFT_TOLERANCE * pixel:
        furthest = int(drift.argmax())
        angle = np.degrees(np.arctan2(drift[furthest], along[furthest]))
        raise ValueError(
            f"Expected slices stacked at right angles in {name}, found them sheared by {angle:.1f} degrees, as a "
            f"gantry tilt does ({drift.max():.3g} mm in plane); resample the series to an upright grid first "
            "(dcm2niix does it)."
        )


def _thickness(header: Dataset, name: str) -> float:
    value = float(header.get("SliceThickness") or 0)
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"Expected SliceThickness in {name}, which has one slice, found none; export more slices.")
    return value


def _notice_thickness(header: Dataset, spacing: float, name: str) -> None:
    thickness = header.get("SliceThickness")
    if thickness and abs(float(thickness) - spacing) > THICKNESS_TOLERANCE * spacing:
        logger.info(
            "%s: SliceThickness is %.4g mm, the slices lie %.4g mm apart; the positions are used.",
            name,
            float(thickness),
            spacing,
        )


def _tally(kinds: Counter) -> str:
    return ", ".join(f"{list(kind)} in {count}" for kind, count in kinds.most_common(4))

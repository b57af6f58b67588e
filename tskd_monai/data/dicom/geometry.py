"""Geometry of a DICOM series: the order of its slices and the affine.

`series_grid` refuses, in this order: images without a position (`_require_geometry`), images of several sizes, spacings
or orientations (`_require_equal`), images of several volumes (`identity`), missing or uneven slices (`slice_indices`)
and gantry tilt (`tilt_offsets`).
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset, FileDataset

from tskd_monai.data.dicom.identity import require_one_volume

logger = logging.getLogger(__name__)

REFUSE, RESAMPLE = "refuse", "resample"
IRREGULAR = (REFUSE, RESAMPLE)
"""Settings for gantry tilt and single missing slices."""

GRID_TOLERANCE = 0.1
"""Largest distance of a slice from the regular grid along the normal, in slice spacings: headers may round to 0.1
mm."""

WARNED_OFF_GRID = 0.01
"""Distance as GRID_TOLERANCE above which a warning is logged."""

DRIFT_TOLERANCE = 0.1
"""Largest in-plane drift of the slices over the whole stack, in pixels; more is a gantry tilt."""

MAX_TILT_DEGREES = 45.0
"""Larger than the tilt of any gantry: such a stack is refused in any case."""

SAME_POSITION_MM = 1e-3
"""Distance below which two slices have the same position."""

VARYING_TAGS = ("TriggerTime", "FlipAngle", "RepetitionTime", "AcquisitionNumber", "AcquisitionTime", "ImageType")
"""Elements that may vary between the slices of one volume (`identity` has those that may not) and that distinguish two
images of one position."""

ORIENTATION_TOLERANCE = 1e-3
"""Largest difference of direction cosines between slices, or from orthonormality: headers round to 4 to 6 digits."""

PIXEL_SPACING_TOLERANCE = 1e-4
"""Largest relative difference of PixelSpacing between slices."""

THICKNESS_TOLERANCE = 0.01
"""Relative difference between SliceThickness and the spacing of the positions above which a warning is logged."""

MIN_MM, MAX_MM = 1e-4, 1e6
"""Smallest voxel size and largest coordinate, mm: other values are damage and would break the arithmetic."""

MAX_WIDENING = 8
"""Largest extent of a grid of sheared slices, in widths of a slice: a larger one indicates a damaged header."""

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class SeriesGrid:
    """The voxel grid of a series, axes (columns, rows, slices), and the positions of the slices on it.

    Attributes:
        headers: headers of the slices, ordered along the last axis.
        shape: columns, rows, slices of the grid; larger than the images where they are resampled.
        affine: to RAS mm, float64 (4, 4).
        indices: index of each slice along the last axis (n,); 0 to n - 1 unless slices are missing.
        offsets: voxel at the first pixel of each slice (n, 2), fractional under a tilt.
    """

    headers: tuple[FileDataset, ...]
    shape: tuple[int, int, int]
    affine: np.ndarray
    indices: np.ndarray
    offsets: np.ndarray

    @property
    def is_regular(self) -> bool:
        """Whether the pixels of the slices are the voxels of the grid."""
        return len(self.headers) == self.shape[2] and not self.offsets.any()


def check_irregular(irregular: str) -> None:
    """Raises ValueError when the setting is neither `refuse` nor `resample`."""
    if irregular not in IRREGULAR:
        raise ValueError(f"Expected --irregular to be one of {IRREGULAR}, found {irregular!r}.")


def series_grid(headers: Sequence[FileDataset], name: str, irregular: str = REFUSE) -> SeriesGrid:
    """Returns the regular orthogonal grid on which the slices of one series lie.

    Slices are ordered by their position along the normal of their plane (row × column direction, LPS), regardless of
    InstanceNumber; the spacing is that of the positions, regardless of SliceThickness.

    Args:
        headers: headers of the slices, in any order.
        name: name of the series in messages, such as its folder's.
        irregular: treatment of gantry tilt and single missing slices, `refuse` or `resample`. With `resample`, the grid
            includes the missing slices and covers all slices of a sheared stack.

    Raises:
        ValueError: when slices differ in size, spacing or orientation, are of several volumes, share a position, are
            missing or unevenly spaced, or are sheared by a gantry tilt.
    """
    check_irregular(irregular)
    _require_geometry(headers, name)
    _require_equal(headers, name)
    plane = np.array(headers[0].ImageOrientationPatient, float).reshape(2, 3)
    normal = np.cross(*plane)
    pixel_mm = np.array([float(value) for value in headers[0].PixelSpacing])[::-1]
    positions = np.array([header.ImagePositionPatient for header in headers], float)
    order = np.argsort(positions @ normal, kind="stable")
    ordered = tuple(headers[index] for index in order)
    positions = positions[order]
    require_one_volume(ordered, name)
    if len(headers) > 1:
        spacing, indices = slice_indices(positions @ normal, ordered, name, irregular)
        drift = tilt_offsets(positions, plane, pixel_mm, name, irregular)
    else:
        spacing, indices, drift = _thickness(headers[0], name), np.zeros(1, int), np.zeros((1, 2))
        logger.warning("%s has one slice; its thickness, %.3g mm, is taken from the header.", name, spacing)
    _warn_about_thickness(ordered[0], spacing, name)
    start = np.floor(drift.min(axis=0))
    widening = _widening(drift - start, headers[0], name)
    lps = np.eye(4)
    lps[:3, :3] = np.column_stack([plane[0] * pixel_mm[0], plane[1] * pixel_mm[1], normal * spacing])
    lps[:3, 3] = positions[0] + lps[:3, :2] @ start
    columns, rows = int(headers[0].Columns) + widening[0], int(headers[0].Rows) + widening[1]
    shape = (columns, rows, int(indices[-1]) + 1)
    return SeriesGrid(ordered, shape, LPS_TO_RAS @ lps, indices, drift - start)


def to_slices(labels: np.ndarray, grid: SeriesGrid) -> np.ndarray:
    """Returns a label map on the slices as scanned, by nearest neighbour: the inverse of `resampling.to_grid`.

    Args:
        labels: label map of the grid's shape.
        grid: grid of the series.

    Returns:
        (columns, rows, n), without the missing slices.
    """
    columns, rows = int(grid.headers[0].Columns), int(grid.headers[0].Rows)
    slices = [
        labels[across : across + columns, down : down + rows, index]
        for index, (across, down) in zip(grid.indices, np.rint(grid.offsets).astype(int), strict=True)
    ]
    return np.stack(slices, axis=-1)


def _widening(offsets: np.ndarray, header: Dataset, name: str) -> tuple[int, int]:
    """Returns the columns and rows of the grid beyond those of a slice, so that it covers all slices."""
    extent = np.ceil(offsets.max(axis=0)).astype(int)
    if (extent > MAX_WIDENING * np.array([int(header.Columns), int(header.Rows)])).any():
        raise ValueError(
            f"Expected slices of {name} to overlap, found them sheared by {extent.max()} pixels; "
            "the header is damaged, export the series again."
        )
    return int(extent[0]), int(extent[1])


def _require_geometry(headers: Sequence[Dataset], name: str) -> None:
    """Refuses multi-frame images and images without a position in the patient."""
    for header in headers:
        if int(header.get("NumberOfFrames") or 1) != 1:
            raise ValueError(
                f"Expected one slice per file or enhanced CT or MR in {name}, found {header.NumberOfFrames} frames "
                "without functional groups that place them; convert the series to NIfTI (for example with dcm2niix)."
            )
        if "MOSAIC" in (header.get("ImageType") or ()):
            raise ValueError(
                f"Expected one slice per image in {name}, found a Siemens mosaic; convert it to NIfTI (with dcm2niix)."
            )
        for tag, count in (("ImagePositionPatient", 3), ("ImageOrientationPatient", 6), ("PixelSpacing", 2)):
            values = header.get(tag)
            found = np.array([] if values is None else values, dtype=float).ravel()
            if found.size != count or not (np.abs(found) < MAX_MM).all():
                raise ValueError(
                    f"Expected {count} numbers for {tag} in every image of {name}, below {MAX_MM:g}, found "
                    f"{found.tolist() or 'none'}; a series without positions is no volume: export its images as PNG."
                )
        if min(float(value) for value in header.PixelSpacing) < MIN_MM:
            raise ValueError(
                f"Expected a positive PixelSpacing of at least {MIN_MM:g} mm in {name}, found "
                f"{list(header.PixelSpacing)}; export again."
            )
    directions = np.array(headers[0].ImageOrientationPatient, float).reshape(2, 3)
    if np.abs(directions @ directions.T - np.eye(2)).max() > ORIENTATION_TOLERANCE:
        raise ValueError(
            f"Expected orthogonal unit vectors for ImageOrientationPatient in {name}, found {directions.tolist()}; "
            "the header is damaged, export the series again."
        )


def _require_equal(headers: Sequence[Dataset], name: str) -> None:
    """Refuses a series with several sizes, spacings, orientations or frames of reference."""
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


def slice_indices(
    positions: np.ndarray, headers: Sequence[Dataset], name: str, irregular: str = REFUSE
) -> tuple[float, np.ndarray]:
    """Returns the slice spacing, mm, and the index of each slice on the regular grid.

    Args:
        positions: positions of the slices along their normal, mm, ascending (n,).
        headers: headers of the slices, in this order.
        name: name of the series in messages.
        irregular: `resample` allows single missing slices; their indices are skipped.

    Raises:
        ValueError: when slices share a position, or are unevenly spaced beyond what `irregular` allows.
    """
    steps = np.diff(positions)
    _require_distinct(steps, headers, name)
    indices = np.arange(len(positions))
    if irregular == RESAMPLE:
        skipped = np.rint(steps / np.median(steps)).astype(int)
        if skipped.min() == 1 and skipped.max() == 2:
            indices = np.concatenate([[0], np.cumsum(skipped)])
    spacing = float((positions[-1] - positions[0]) / indices[-1])
    off_grid = float(np.abs(positions - positions[0] - indices * spacing).max()) / spacing
    if off_grid > GRID_TOLERANCE:
        raise ValueError(_uneven(positions, name, irregular))
    if off_grid > WARNED_OFF_GRID:
        logger.warning(
            "%s: slices lie up to %.2g mm off a regular grid of %.4g mm; the grid is used.",
            name,
            off_grid * spacing,
            spacing,
        )
    missing = int(indices[-1]) + 1 - len(indices)
    if missing:
        logger.warning(
            "%s: %d missing slice(s) are interpolated between their neighbours, %.4g mm apart.", name, missing, spacing
        )
    return spacing, indices


def tilt_offsets(
    positions: np.ndarray, plane: np.ndarray, pixel_mm: np.ndarray, name: str, irregular: str = REFUSE
) -> np.ndarray:
    """Returns the in-plane offset of each slice from the first, pixels (n, 2): along rows, along columns.

    Args:
        positions: positions of the first pixel of each slice, LPS mm (n, 3).
        plane: unit vectors along a row and along a column, LPS (2, 3).
        pixel_mm: size of a pixel along a row and along a column, mm (2,).
        name: name of the series in messages.
        irregular: `resample` allows slices sheared by a gantry tilt.

    Returns:
        Zeros for an orthogonal stack.

    Raises:
        ValueError: when the slices are sheared beyond what `irregular` allows; names the angle.
    """
    offsets = positions - positions[0]
    inplane = offsets @ plane.T
    furthest = int(np.linalg.norm(inplane, axis=1).argmax())
    drift = float(np.linalg.norm(inplane[furthest]))
    if drift <= DRIFT_TOLERANCE * pixel_mm.min():
        return np.zeros((len(positions), 2))
    angle = float(np.degrees(np.arctan2(drift, offsets[furthest] @ np.cross(*plane))))
    found = f"{angle:.1f} degrees, as a gantry tilt does ({drift:.3g} mm in plane)"
    if irregular != RESAMPLE or angle > MAX_TILT_DEGREES:
        advice = (
            f"--irregular resample takes at most {MAX_TILT_DEGREES:.0f} degrees"
            if irregular == RESAMPLE
            else "read it with --irregular resample"
        )
        raise ValueError(
            f"Expected slices stacked at right angles in {name}, found them sheared by {found}; {advice}, "
            "or resample the series to an orthogonal grid first (dcm2niix does it)."
        )
    logger.warning("%s: slices are sheared by %s; they are resampled to an orthogonal grid.", name, found)
    return inplane / pixel_mm


def _require_distinct(steps: np.ndarray, headers: Sequence[Dataset], name: str) -> None:
    """Refuses two images of one position; the message names the elements in which they differ."""
    repeated = np.flatnonzero(steps < SAME_POSITION_MM)
    if len(repeated):
        pair = headers[repeated[0]], headers[repeated[0] + 1]
        differing = [tag for tag in VARYING_TAGS if pair[0].get(tag) != pair[1].get(tag)]
        raise ValueError(
            f"Expected one image per position in {name}, found {len(repeated)} duplicate positions among "
            f"{len(headers)} images ({'they differ in ' + ', '.join(differing) if differing else 'repeated files'}); "
            "put one volume into a folder of its own."
        )


def _uneven(positions: np.ndarray, name: str, irregular: str) -> str:
    """Returns the message about missing or uneven slices, with their positions."""
    steps = np.diff(positions)
    usual = float(np.median(steps))
    odd = np.flatnonzero(np.abs(steps - usual) > GRID_TOLERANCE * usual)
    gaps = ", ".join(f"{positions[i]:.2f} to {positions[i + 1]:.2f}" for i in odd[:5])
    more = f" and {len(odd) - 5} more" if len(odd) > 5 else ""
    advice = (
        "only single missing slices are interpolated"
        if irregular == RESAMPLE
        else "read it with --irregular resample to interpolate single missing slices"
    )
    return (
        f"Expected evenly spaced slices in {name}, found steps of {steps.min():.3g} to {steps.max():.3g} mm, "
        f"usually {usual:.3g} mm; missing or uneven at {gaps or 'every slice'}{more} (mm along the slice normal). "
        f"Export the series again if slices are missing; {advice}."
    )


def _thickness(header: Dataset, name: str) -> float:
    value = float(header.get("SliceThickness") or 0)
    if not MIN_MM <= value < MAX_MM:
        raise ValueError(f"Expected SliceThickness in {name}, which has one slice, found none; export more slices.")
    return value


def _warn_about_thickness(header: Dataset, spacing: float, name: str) -> None:
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

"""How the slices of a series are stacked: evenly and upright, or with what has to be resampled."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset

logger = logging.getLogger(__name__)

REFUSE, RESAMPLE = "refuse", "resample"
IRREGULAR = (REFUSE, RESAMPLE)
"""What to do with a gantry tilt and with single missing slices."""

GRID_TOLERANCE = 0.1
"""How far a slice may lie off the regular grid along the normal, in slice spacings: headers may round to 0.1 mm."""

NOTICED_OFF_GRID = 0.01
"""As GRID_TOLERANCE, but worth a line in the log."""

DRIFT_TOLERANCE = 0.1
"""How far the slices may drift within their plane over the whole stack, in pixels; more is a gantry tilt."""

MAX_TILT_DEGREES = 45.0
"""More than any gantry tilts: such a stack is something else, and is refused in any case."""

SAME_POSITION_MM = 1e-3
"""Slices closer than this are two images of one position."""

VARYING_TAGS = ("TriggerTime", "FlipAngle", "RepetitionTime", "AcquisitionNumber", "AcquisitionTime", "ImageType")
"""What may vary from slice to slice of one volume (`dicom_identity` has what may not), but tells two images of one
position apart."""


def check_irregular(irregular: str) -> None:
    """Raises ValueError for a setting that is neither `refuse` nor `resample`."""
    if irregular not in IRREGULAR:
        raise ValueError(f"Expected --irregular to be one of {IRREGULAR}, found {irregular!r}.")


def slice_indices(
    places: np.ndarray, headers: Sequence[Dataset], name: str, irregular: str = REFUSE
) -> tuple[float, np.ndarray]:
    """Returns the slice spacing, mm, and the index on the regular grid of each slice.

    Args:
        places: of the slices along their normal, mm, ascending (n,).
        headers: of the slices, in this order.
        name: of the series in messages.
        irregular: `resample` lets single slices be missing: their indices are left out.

    Raises:
        ValueError: when slices share a position, or are unevenly spaced beyond what `irregular` allows.
    """
    steps = np.diff(places)
    _require_distinct(steps, headers, name)
    indices = np.arange(len(places))
    if irregular == RESAMPLE:
        skipped = np.rint(steps / np.median(steps)).astype(int)
        if skipped.min() == 1 and skipped.max() == 2:
            indices = np.concatenate([[0], np.cumsum(skipped)])
    spacing = float((places[-1] - places[0]) / indices[-1])
    off_grid = float(np.abs(places - places[0] - indices * spacing).max()) / spacing
    if off_grid > GRID_TOLERANCE:
        raise ValueError(_uneven(places, name, irregular))
    if off_grid > NOTICED_OFF_GRID:
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


def slice_drift(
    positions: np.ndarray, plane: np.ndarray, pixel_mm: np.ndarray, name: str, irregular: str = REFUSE
) -> np.ndarray:
    """Returns how far each slice lies from the first within the plane, pixels (n, 2): along rows, along columns.

    Args:
        positions: of the slices' first pixels, LPS mm (n, 3).
        plane: unit vectors along a row and along a column, LPS (2, 3).
        pixel_mm: size of a pixel along a row and along a column, mm (2,).
        name: of the series in messages.
        irregular: `resample` lets slices be sheared by a gantry tilt.

    Returns:
        Zero for an upright stack.

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
            "or resample the series to an upright grid first (dcm2niix does it)."
        )
    logger.warning("%s: slices are sheared by %s; they are resampled to an upright grid.", name, found)
    return inplane / pixel_mm


def _require_distinct(steps: np.ndarray, headers: Sequence[Dataset], name: str) -> None:
    """Refuses two images of one position, and says what tells them apart."""
    repeated = np.flatnonzero(steps < SAME_POSITION_MM)
    if len(repeated):
        pair = headers[repeated[0]], headers[repeated[0] + 1]
        differing = [tag for tag in VARYING_TAGS if pair[0].get(tag) != pair[1].get(tag)]
        raise ValueError(
            f"Expected one image per position in {name}, found {len(repeated)} duplicate positions among "
            f"{len(headers)} images ({'they differ in ' + ', '.join(differing) if differing else 'repeated files'}); "
            "put one volume into a folder of its own."
        )


def _uneven(places: np.ndarray, name: str, irregular: str) -> str:
    """Returns the message about missing or uneven slices, with where they are."""
    steps = np.diff(places)
    usual = float(np.median(steps))
    odd = np.flatnonzero(np.abs(steps - usual) > GRID_TOLERANCE * usual)
    gaps = ", ".join(f"{places[i]:.2f} to {places[i + 1]:.2f}" for i in odd[:5])
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

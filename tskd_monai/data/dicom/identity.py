"""Whether the slices of a series are of one volume: one patient, one acquisition, one kind of image."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence

import numpy as np
from pydicom.dataset import Dataset

logger = logging.getLogger(__name__)

IDENTITY_TAGS = (
    "PatientID",
    "PatientName",
    "StudyInstanceUID",
    "SeriesNumber",
    "Modality",
    "SOPClassUID",
    "EchoNumbers",
    "TemporalPositionIdentifier",
    "TemporalPositionIndex",
    "ComplexImageComponent",
    "ConvolutionKernel",
    "RescaleType",
)
"""Elements that are equal in all slices of one volume.

Elements that scanners vary between slices are excluded: times of acquisition and trigger, exposure, window, rescale.
"""

MEASURED_TAGS = ("EchoTime", "EffectiveEchoTime", "InversionTime", "InversionTimes", "DiffusionBValue")
"""Elements as IDENTITY_TAGS, but with times in ms and b-values in s/mm2, which some scanners measure."""

MEASURED_TOLERANCE = 0.01
"""Largest relative difference of a measured value within one volume."""

TYPE_TAGS = ("ImageType", "FrameType")
"""Elements whose values from the third on are the kind of image. The first two, ORIGINAL or DERIVED and PRIMARY or
SECONDARY, may also distinguish an edited slice, for example a defaced one, from its neighbours."""

KIND_FROM = 2

ACQUISITION_TAGS = ("AcquisitionNumber", "FrameAcquisitionNumber")
"""Elements that may vary along the stack: one value per bed position or rotation, or even per slice."""


def require_one_volume(headers: Sequence[Dataset], name: str) -> None:
    """Raises ValueError when the slices are not of one volume; names the elements in which they differ, not the values.

    Elements that are missing or blank in a slice are not compared. Acquisitions may follow one another along the stack,
    which is logged. Interleaved acquisitions are separate volumes, even if their slices together are evenly spaced.

    Args:
        headers: headers of the slices, in order of their position.
        name: name of the series in messages.
    """
    differing = [tag for tag in IDENTITY_TAGS if _differ([_value(header, tag) for header in headers])]
    differing += [tag for tag in MEASURED_TAGS if _spread(headers, tag) > MEASURED_TOLERANCE]
    differing += [tag for tag in TYPE_TAGS if _differ([_value(header, tag, KIND_FROM) for header in headers])]
    runs = {tag: _runs([_value(header, tag) for header in headers]) for tag in ACQUISITION_TAGS}
    differing += [tag for tag, (number, distinct) in runs.items() if number > distinct]
    if differing:
        raise ValueError(
            f"Expected the {len(headers)} images of one volume in {name}, found images that do not belong together: "
            f"they differ in {', '.join(differing)}; put one volume into a folder of its own."
        )
    for tag, (_, distinct) in runs.items():
        if 1 < distinct < len(headers):
            logger.warning("%s: %d values of %s follow one another; they are one volume.", name, distinct, tag)
    mixed = [tag for tag in TYPE_TAGS if _differ([_value(header, tag) for header in headers])]
    if mixed:
        logger.warning("%s: some of its images are derived from others (%s).", name, ", ".join(mixed))


def _value(header: Dataset, tag: str, start: int = 0) -> str | tuple[str, ...] | None:
    """Returns the values of an element, from index `start` on; None where there is nothing to compare."""
    value = header.get(tag)
    if value is None or value == "":
        return None
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(str(part) for part in value)[start:] or None
    return None if start else str(value).strip()


def _differ(values: Sequence[Hashable]) -> bool:
    return len({value for value in values if value is not None}) > 1


def _spread(headers: Sequence[Dataset], tag: str) -> float:
    """Returns the largest relative difference of an element between slices, infinite if their value counts differ."""
    found = [np.ravel(value).astype(float) for header in headers if (value := header.get(tag)) not in (None, "")]
    if len({len(numbers) for numbers in found}) > 1:
        return np.inf
    if not found or found[0].size == 0:
        return 0.0
    values = np.array(found)
    return float((np.ptp(values, axis=0) / np.maximum(np.abs(values).max(axis=0), np.finfo(float).tiny)).max())


def _runs(values: Sequence[Hashable]) -> tuple[int, int]:
    """Returns the number of runs of equal values along the stack, and the number of distinct values."""
    known = [value for value in values if value is not None]
    starts = sum(value != before for value, before in zip(known[1:], known, strict=False))
    return starts + bool(known), len(set(known))

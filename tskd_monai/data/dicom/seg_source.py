"""The source images of a DICOM SEG: found again by the files that were read, and prepared for highdicom."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import config, dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import UID
from pydicom.valuerep import DA, TM, validate_value

from tskd_monai.data.dicom.frames import frame_headers
from tskd_monai.data.dicom.geometry import SeriesGrid, series_grid
from tskd_monai.data.dicom.header import read_header

logger = logging.getLogger(__name__)

UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
REQUIRED_TEXTS = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID")
REQUIRED_TIMES = ("StudyDate", "StudyTime")
SEXES = ("M", "F", "O")


SEPARATOR = "\0"
"""Separator of `source_files`: no path and no UID contains it."""


def source_files(grid: SeriesGrid, folder: Path) -> str:
    """Returns the files that a series was read from, in order of position, each with its SOPInstanceUID.

    The result is one string for the metadata, which MONAI copies with each transform and collates into batches.

    Args:
        grid: grid of the series.
        folder: folder that the paths are relative to.
    """
    files = {str(header.filename): str(header.get("SOPInstanceUID") or "") for header in grid.headers}
    parts = [part for path, uid in files.items() for part in (str(Path(path).relative_to(folder.absolute())), uid)]
    return SEPARATOR.join(parts)


def read_source(folder: Path, files: str, name: str, irregular: str) -> SeriesGrid:
    """Returns the grid of a series from the files that it was read from; other files of the folder are not opened.

    Args:
        folder: folder of the series.
        files: result of `source_files`.
        name: name of the series in messages.
        irregular: setting with which the series was read.

    Raises:
        FileNotFoundError: when a file is missing.
        ValueError: when a file is another instance now, or the geometry is refused.
    """
    parts = files.split(SEPARATOR)
    headers: list[FileDataset] = []
    for path, uid in zip(map(folder.absolute().joinpath, parts[::2]), parts[1::2], strict=True):
        if not path.is_file():
            raise FileNotFoundError(
                f"Expected {path.name} of {name}, found none; the series changed since it was read."
            )
        header = read_header(path)
        if header is None or str(header.get("SOPInstanceUID") or "") != uid:
            raise ValueError(
                f"Expected {path.name} of {name} as it was read, found another instance; the series changed since."
            )
        headers += frame_headers(header)
    return series_grid(headers, name, irregular)


def _is_sex(value: Any) -> None:
    if str(value) not in SEXES:
        raise ValueError(value)


FORMATS: Mapping[str, Callable[[Any], Any]] = {
    "PatientBirthDate": DA,
    "PatientBirthTime": TM,
    "PatientSex": _is_sex,
    "PatientAge": lambda value: validate_value("AS", value, config.RAISE),
    "PatientSize": float,
    "PatientWeight": float,
    "StudyDate": DA,
    "StudyTime": TM,
}
"""Elements that a SEG copies from its source and may leave blank, with a function that raises on an invalid value.

Texts are not included: one that is too long is copied unchanged, so that the SEG stays with its patient and study.
"""


def check_source(headers: Sequence[Dataset], name: str) -> None:
    """Raises ValueError when a DICOM SEG cannot refer to the images: their UIDs are blank, invalid or repeated.

    Args:
        headers: headers of the slices; those of one enhanced image share its SOPInstanceUID.
        name: name of the series in messages.
    """
    blank = [tag for tag in UIDS if any(not header.get(tag) for header in headers)]
    if blank:
        raise ValueError(
            f"Expected UIDs that a DICOM SEG can refer to in {name}, found {', '.join(blank)} blank; "
            "write .nii.gz instead."
        )
    odd = [tag for tag in UIDS if any(not UID(str(header.get(tag))).is_valid for header in headers)]
    if odd:
        raise ValueError(
            f"Expected UIDs of digits and dots that a DICOM SEG can refer to in {name}, found {', '.join(odd)} "
            "ill-formed; write .nii.gz instead."
        )
    owners = {str(header.filename): str(header.SOPInstanceUID) for header in headers}
    repeated = [uid for uid, count in Counter(owners.values()).items() if count > 1]
    if repeated:
        raise ValueError(
            f"Expected an SOPInstanceUID for each file of {name}, which a DICOM SEG refers to, found "
            f"{len(owners) - len(set(owners.values()))} repeated; write .nii.gz instead, or export the series again."
        )


def source_images(grid: SeriesGrid, segments: np.ndarray, name: str) -> tuple[list[Dataset], np.ndarray]:
    """Returns the source images for highdicom, and the segments (frames, rows, columns) in their order.

    Classic images are one per slice. An enhanced image holds all frames, in its own order.

    Args:
        grid: grid of the series.
        segments: segment numbers (slices, rows, columns).
        name: name of the series in messages.

    Raises:
        ValueError: when the slices are only a part of an enhanced image, or of several.
    """
    frames = [header.get("ReferencedFrameNumber") for header in grid.headers]
    if not any(frames):
        return prepared(grid.headers, name), segments
    paths = {str(header.filename) for header in grid.headers}
    image = dcmread(Path(paths.pop()), stop_before_pixels=True)
    if paths or int(image.NumberOfFrames) != len(frames):
        raise ValueError(
            f"Expected one enhanced image with the {len(frames)} slices of the series, found several or other frames; "
            "write .nii.gz instead."
        )
    return prepared([image], name), segments[np.argsort(frames)]


def prepared(headers: Sequence[Dataset], name: str) -> list[Dataset]:
    """Returns copies with the elements that a result copies: blank where the source has no valid value.

    Args:
        headers: headers of the source images.
        name: name of the series in messages.
    """
    copies = [header.copy() for header in headers]
    blanked = {tag for copy in copies for tag in FORMATS if _blanked(copy, tag)}
    if blanked:
        logger.warning("%s: %s is no valid value; the DICOM SEG leaves it blank.", name, ", ".join(sorted(blanked)))
    for copy in copies:
        for tag in REQUIRED_TEXTS:
            if tag not in copy:
                setattr(copy, tag, "")
        for tag in REQUIRED_TIMES:
            if tag not in copy:
                setattr(copy, tag, None)
    return copies


def _blanked(header: Dataset, tag: str) -> bool:
    """Blanks an element whose value is invalid, and returns whether it did."""
    try:
        value = header.get(tag)
        if value not in (None, ""):
            FORMATS[tag](value)
    except Exception:  # any error of the check
        del header[tag]
        return True
    return False

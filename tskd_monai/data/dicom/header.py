"""Reading a DICOM file's header, with each element that we use decoded and its type checked.

pydicom decodes an element on access and raises arbitrary errors there, without the file's name. Here each element that
a series is read from is accessed once, so that a damaged one is refused with the file's name.
"""

from __future__ import annotations

import codecs
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.misc import is_dicom
from pydicom.sequence import Sequence

from tskd_monai.data.dicom.claims import check_inflation
from tskd_monai.data.dicom.geometry import VARYING_TAGS
from tskd_monai.data.dicom.identity import ACQUISITION_TAGS, IDENTITY_TAGS, MEASURED_TAGS, TYPE_TAGS

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
COMPANIONS = ("LICENSE", "README", "VERSION", "LOCKFILE")
"""Files without suffix, possibly empty, that archives and media software store beside images."""

OTHER_FORMATS = (b"\x7fELF", b"MZ", b"PK\x03\x04", b"%PDF", b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"\x1f\x8b")
"""First bytes of programs, archives, documents and 2D images."""

TEXT_CONTROLS = frozenset(b"\t\n\f\r\x1b")
SNIFFED_BYTES = 4096
WHOLE_NUMBERS = (
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "ReferencedFrameNumber",
)  # fmt: skip
NUMBERS = ("RescaleSlope", "RescaleIntercept", "SliceThickness")
VECTORS = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
TEXTS = ("SOPClassUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality", "PhotometricInterpretation")
SEQUENCES = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ModalityLUTSequence")
LIBRARIES = ("pydicom", "highdicom")
"""Loggers whose records and warnings contain values of elements, such as names, dates and UIDs of patients."""


def keep_values_out_of_logs() -> None:
    """Silences the log records and warnings of these libraries in this process.

    Examples are `Invalid value for VR DA: '1964-02-29'`, `value of argument "patient_name" is potentially invalid: "…"`
    and `copy Patient-related attributes from dataset "1.2.840…"`. Relevant faults are checked and reported here, by the
    names of the elements.
    """
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.CRITICAL)
        warnings.filterwarnings("ignore", module=rf"{name}\.")


def read_header(path: Path, tags: list[str] | None = None) -> FileDataset | None:
    """Returns a DICOM file's header, or None when the file is of another format.

    Files without the 128-byte preamble, which old exports write, are read too if they have a SOP class. Any other file
    without suffix is damaged, unless its first bytes identify another format.

    Args:
        path: path of the file.
        tags: keywords of the elements to read; None: all.

    Raises:
        ValueError: when the name indicates DICOM and the content does not, or an element is damaged.
    """
    if is_no_image(path):
        return None
    looks_like_dicom = may_be_dicom(path)
    try:
        check_inflation(path)
        header: FileDataset | None = dcmread(path, stop_before_pixels=True, specific_tags=tags)
    except InvalidDicomError:
        header = _read_without_preamble(path) if looks_like_dicom else None
    except Exception as error:  # damaged bytes make pydicom fail in many ways
        raise ValueError(damaged(path, str(error))) from error
    if header is None and looks_like_dicom and not (is_text(path) or _is_other_format(path)):
        raise ValueError(damaged(path, "no DICOM header"))
    if header is not None:
        require_elements(header, path)
    return header


def is_dicom_file(path: Path) -> bool:
    """Returns whether a file is DICOM by its suffix or its content."""
    if is_no_image(path):
        return False
    if path.suffix.lower() in DICOM_SUFFIXES or is_dicom(path):
        return True
    return may_be_dicom(path) and _read_without_preamble(path) is not None


def is_no_image(path: Path) -> bool:
    """Returns whether a file is no image by its name: a DICOMDIR, or a file of the operating system."""
    return path.name.upper() in ("DICOMDIR", "THUMBS.DB", "DESKTOP.INI") or path.name.startswith(".")


def may_be_dicom(path: Path) -> bool:
    """Returns whether a file may be DICOM by its suffix; exports omit the suffix, or number files with it."""
    return path.suffix.lower() in DICOM_SUFFIXES or not path.suffix or path.suffix[1:].isdigit()


def is_text(path: Path) -> bool:
    """Returns whether a file without a DICOM suffix is a text, such as a licence or a log."""
    if path.suffix.lower() in DICOM_SUFFIXES:
        return False
    with path.open("rb") as file:
        beginning = file.read(SNIFFED_BYTES)
    if not beginning:
        return path.name.upper() in COMPANIONS
    return beginning.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or all(
        byte >= 0x20 or byte in TEXT_CONTROLS for byte in beginning
    )


def _is_other_format(path: Path) -> bool:
    if path.suffix.lower() in DICOM_SUFFIXES:
        return False
    with path.open("rb") as file:
        return file.read(max(map(len, OTHER_FORMATS))).startswith(OTHER_FORMATS)


def damaged(path: Path, reason: str) -> str:
    """Returns the message about an unreadable DICOM file."""
    return (
        f"Expected a DICOM file, found {path.name} unreadable ({reason}); "
        "export it again, or remove it if it does not belong to the series."
    )


def require_elements(header: Dataset, path: Path) -> None:
    """Raises ValueError when an element that a series is read from cannot be decoded or has another type.

    Args:
        header: header of a file or of one frame.
        path: path of the file.
    """
    for tags, fits in CHECKS.items():
        for tag in tags:
            try:
                value = header.get(tag)
                fitting = value is None or value == "" or fits(value)
            except Exception as error:  # any error of a decoder
                raise ValueError(damaged(path, f"{tag}: {error}")) from error
            if not fitting:
                raise ValueError(damaged(path, f"{tag} is {str(value)[:80]!r}"))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _are_numbers(value: Any) -> bool:
    return np.asarray(value, dtype=float).ndim <= 1


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_texts(value: Any) -> bool:
    return isinstance(value, str) or all(isinstance(part, str) for part in value)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Sequence)


def _is_decoded(value: Any) -> bool:
    return True


CHECKS: Mapping[tuple[str, ...], Callable[[Any], bool]] = {
    WHOLE_NUMBERS: _is_whole,
    NUMBERS: _is_number,
    VECTORS: _are_numbers,
    TEXTS: _is_text,
    TYPE_TAGS: _are_texts,
    MEASURED_TAGS: _are_numbers,
    SEQUENCES: _is_sequence,
    (*VARYING_TAGS, *IDENTITY_TAGS, *ACQUISITION_TAGS): _is_decoded,
}


def _read_without_preamble(path: Path) -> FileDataset | None:
    try:
        header = dcmread(path, stop_before_pixels=True, force=True)
        return header if header.get("SOPClassUID") else None
    except Exception:  # arbitrary bytes make pydicom fail in many ways, each of which means: not DICOM
        return None

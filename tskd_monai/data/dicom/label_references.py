"""Which series a DICOM SEG or RTSTRUCT was drawn on: by UIDs, never by file names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydicom.dataset import Dataset, FileDataset

from tskd_monai.data.dicom.header import DICOM_SUFFIXES, damaged, is_dicom_file, keep_values_out_of_logs, read_header
from tskd_monai.data.dicom.series import series_title

SEG, RTSTRUCT = "DICOM SEG", "RTSTRUCT"
LABEL_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.66.4": SEG,
    "1.2.840.10008.5.1.4.1.1.66.7": SEG,
    "1.2.840.10008.5.1.4.1.1.481.3": RTSTRUCT,
}
"""SOP classes of labels: Segmentation, Label Map Segmentation and RT Structure Set Storage (PS3.4 table B.5-1)."""

REFERENCES = {
    "ReferencedFrameOfReferenceSequence",
    "RTReferencedStudySequence",
    "RTReferencedSeriesSequence",
    "ReferencedSeriesSequence",
}
"""Sequences, one within another, that end at the series."""

INSTANCES = {
    "ReferencedSeriesSequence",
    "ReferencedInstanceSequence",
    "ROIContourSequence",
    "ContourSequence",
    "ContourImageSequence",
    "PerFrameFunctionalGroupsSequence",
    "DerivationImageSequence",
    "SourceImageSequence",
}
"""Sequences, one within another, that end at the images."""


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Replaces errors of damaged elements, which are decoded on access, by a ValueError that names the file."""
    try:
        yield
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # damaged bytes make pydicom fail in many ways
        if isinstance(error, OSError) and error.errno is not None:  # the disk failed; pydicom's own have no number
            raise
        if type(error) is ValueError and str(error).startswith("Expected"):
            raise
        raise ValueError(damaged(path, str(error))) from error


def label_kind(header: Dataset) -> str:
    """Returns `DICOM SEG`, `RTSTRUCT`, or an empty string for any other DICOM object."""
    return LABEL_CLASSES.get(str(header.get("SOPClassUID") or ""), "")


def read_label_header(path: Path) -> FileDataset | None:
    """Returns the header of a DICOM SEG or RTSTRUCT; None for other files.

    Raises:
        ValueError: if the file is a damaged DICOM file.
    """
    if path.suffix and path.suffix.lower() not in DICOM_SUFFIXES and not path.suffix[1:].isdigit():
        return None
    if not path.is_file() or not is_dicom_file(path):
        return None
    keep_values_out_of_logs()
    header = read_header(path)
    return header if header is not None and label_kind(header) else None


def referenced_series(label: Dataset) -> set[str]:
    """Returns the SeriesInstanceUIDs that a label refers to; none in some, which refer to images only."""
    return {str(item.SeriesInstanceUID) for item in _items(label, REFERENCES) if item.get("SeriesInstanceUID")}


def frames_of_reference(label: Dataset) -> set[str]:
    """Returns the FrameOfReferenceUIDs of a label."""
    own = [label, *label.get("ReferencedFrameOfReferenceSequence", ())]
    return {str(item.FrameOfReferenceUID) for item in own if item.get("FrameOfReferenceUID")}


def refers_to(label: Dataset, headers: Sequence[Dataset]) -> bool:
    """Returns whether a label was drawn on a series: by the series, else the images, else the frame of reference."""
    first = headers[0]
    if series := referenced_series(label):
        return str(first.get("SeriesInstanceUID") or "") in series
    images = {str(item.ReferencedSOPInstanceUID) for item in _items(label, INSTANCES) if item.get(
        "ReferencedSOPInstanceUID")}  # fmt: skip
    if images:
        return not images.isdisjoint(str(header.get("SOPInstanceUID") or "") for header in headers)
    return str(first.get("FrameOfReferenceUID") or "") in frames_of_reference(label)


def check_refers_to(label: Dataset, headers: Sequence[Dataset], name: str) -> None:
    """Raises ValueError unless a label is of the patient and was drawn on the images of a series.

    Args:
        label: header of the SEG or RTSTRUCT.
        headers: headers of the slices of the series.
        name: name of the label's file in messages, which contain no header values.
    """
    first = headers[0]
    series = series_title(str(first.get("SeriesInstanceUID") or ""))
    patients = {str(item.get("PatientID") or "").strip() for item in (label, first)} - {""}
    if len(patients) > 1:
        raise ValueError(
            f"Expected a label of the patient of {series}, found one of another patient in {name}; pair each image "
            "with its label."
        )
    if not refers_to(label, headers):
        raise ValueError(
            f"Expected a label that was drawn on {series}, found that {name} refers to another series; pair each image "
            "with its label."
        )
    frames = frames_of_reference(label)
    if frames and first.get("FrameOfReferenceUID") and str(first.FrameOfReferenceUID) not in frames:
        raise ValueError(
            f"Expected the frame of reference of {series} in {name}, found another one, whose positions are not those "
            "of the images; export both again."
        )


def _items(dataset: Dataset, keywords: set[str]) -> Iterator[Dataset]:
    """Yields the items of nested sequences with these keywords."""
    for keyword in keywords:
        for item in dataset.get(keyword) or ():
            yield item
            yield from _items(item, keywords)

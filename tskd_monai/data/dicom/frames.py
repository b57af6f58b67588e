"""Headers of the frames of enhanced multi-frame images (PS3.3 C.7.6.16), as if each frame were a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.tag import BaseTag

from tskd_monai.data.dicom.header import damaged, require_elements

FUNCTIONAL_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
UNFOLDED = (*FUNCTIONAL_GROUPS, "NumberOfFrames")

FRAME_TYPE = ("FrameType", "ComplexImageComponent")
MACROS: Mapping[str, tuple[str, ...]] = {
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness"),
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelValueTransformationSequence": ("RescaleIntercept", "RescaleSlope", "RescaleType"),
    "FrameContentSequence": ("FrameAcquisitionNumber", "TemporalPositionIndex"),
    "CTImageFrameTypeSequence": FRAME_TYPE,
    "MRImageFrameTypeSequence": FRAME_TYPE,
    "PETFrameTypeSequence": FRAME_TYPE,
    "MREchoSequence": ("EffectiveEchoTime",),
    "MRModifierSequence": ("InversionTimes",),
    "MRDiffusionSequence": ("DiffusionBValue",),
    "CTReconstructionSequence": ("ConvolutionKernel",),
}
"""The functional group macros that a series is read from, and their elements (PS3.3 C.7.6.16.2 and C.8).

Other functional groups are ignored: vendors repeat elements of these names, with other values, in private sequences,
and so do the standard's own sequences about other images.
"""


def frame_headers(header: FileDataset) -> list[FileDataset]:
    """Returns the header of each frame of an enhanced multi-frame image; for any other image, its header.

    Elements of the shared and per-frame functional groups are copied to the top level of each header, where classic
    images have them (`ImagePositionPatient`, `RescaleSlope`); `ReferencedFrameNumber`, from 1, identifies the frame.

    Args:
        header: header of a file, without pixels.

    Raises:
        ValueError: when the numbers of functional groups and frames differ, or a group is damaged; names the file.
    """
    if FUNCTIONAL_GROUPS[1] not in header:
        return [header]
    path = Path(str(header.filename))
    try:
        frames = _unfolded(header, path.name)
    except (ValueError, MemoryError):
        raise
    except Exception as error:  # elements are decoded here, and damaged bytes make pydicom fail in many ways
        raise ValueError(damaged(path, str(error))) from error
    for frame in frames:
        require_elements(frame, path)
    return frames


def _unfolded(header: FileDataset, name: str) -> list[FileDataset]:
    groups = header[FUNCTIONAL_GROUPS[1]].value
    count = int(header.get("NumberOfFrames") or 1)
    if len(groups) != count:
        raise ValueError(
            f"Expected functional groups of {count} frames in an enhanced image, found {len(groups)} in {name}; "
            "the header is damaged, export the series again."
        )
    common = Dataset()
    common.update({element.tag: element for element in header if element.keyword not in UNFOLDED})
    for item in header.get(FUNCTIONAL_GROUPS[0]) or ():
        common.update(dict(_elements(item)))
    return [_frame_header(header, common, group, number) for number, group in enumerate(groups, start=1)]


def _frame_header(header: FileDataset, common: Dataset, group: Dataset, number: int) -> FileDataset:
    # Not `copy`, which shares the elements with the original.
    frame = FileDataset(header.filename or "", {}, file_meta=header.file_meta)
    frame.update(common)
    frame.update(dict(_elements(group)))
    frame.ReferencedFrameNumber = number
    return frame


def _elements(group: Dataset) -> Iterator[tuple[BaseTag, DataElement]]:
    """Yields the elements of a functional group's macros, each a sequence of one item."""
    for macro, keywords in MACROS.items():
        items = list(group.get(macro) or [])
        if len(items) == 1:
            for keyword in keywords:
                if keyword in items[0]:
                    yield items[0][keyword].tag, items[0][keyword]

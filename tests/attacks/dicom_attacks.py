"""Attacks by DICOM files: headers and frames with false sizes, and files that unpack to far more than their size."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
    generate_uid,
)

from tests.attacks.attack import Attack, no_op, peak_bytes
from tskd_monai.data.dicom import header as dicom_header
from tskd_monai.data.dicom import reader as dicom_reader
from tskd_monai.data.dicom.reader import read_series

Monkey = pytest.MonkeyPatch
MEGABYTE = 1 << 20
BIG = 50 * MEGABYTE


def _series(rows: int, syntax: UID, pixels: bytes, bits: int = 16) -> Callable[[Path], Path]:
    """Returns a function that writes a series of one square slice."""

    def plant(folder: Path) -> Path:
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, syntax
        meta.MediaStorageSOPInstanceUID = generate_uid()
        slice_ = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
        slice_.SOPClassUID, slice_.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        slice_.SeriesInstanceUID, slice_.Modality = generate_uid(), "CT"
        slice_.Rows = slice_.Columns = rows
        slice_.BitsAllocated = slice_.BitsStored = bits
        slice_.HighBit, slice_.PixelRepresentation, slice_.SamplesPerPixel = bits - 1, 0, 1
        slice_.PhotometricInterpretation = "MONOCHROME2"
        slice_.PixelSpacing, slice_.SliceThickness = [1, 1], 1
        slice_.ImageOrientationPatient, slice_.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 0]
        encapsulated = syntax.is_encapsulated
        slice_.PixelData = encapsulate([pixels]) if encapsulated else pixels
        slice_["PixelData"].VR = "OB" if encapsulated else "OW"
        slice_["PixelData"].is_undefined_length = encapsulated
        slice_.save_as(folder / "slice.dcm", enforce_file_format=True)
        return folder

    return plant


def _coded(kind: str) -> bytes:
    """An image of 16 x 16 whose own header states 6000 x 6000."""
    stream = io.BytesIO()
    options = {"no_jp2": True} if kind == "JPEG2000" else {}
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(stream, kind, **options)
    coded = bytearray(stream.getvalue())
    if kind == "JPEG2000":
        for field in (6, 22):  # of the image and of a tile
            struct.pack_into(">II", coded, coded.find(b"\xff\x51") + field, 6000, 6000)
    else:
        struct.pack_into(">HH", coded, coded.find(b"\xff\xc0") + 5, 6000, 6000)
    return bytes(coded)


RLE = struct.pack("<16I", 2, 64, 68, *[0] * 13) + b"\x81\0\x81\0" * 2


def _unweighed(folder: Path, monkey: Monkey) -> bool:
    for name in ("check_pixel_claims", "check_frame_sizes", "check_voxel_count"):
        monkey.setattr(dicom_reader, name, no_op)
    monkey.setattr(dicom_header, "check_inflation", no_op)
    return peak_bytes(lambda: read_series(folder)) > BIG


def _claims_memory(folder: Path, monkey: Monkey) -> bool:
    """Without the guard 4 GB of pixels are requested."""
    asked: list[Any] = []

    def empty(shape: Any, dtype: Any = float, **options: Any) -> np.ndarray:
        asked.append(shape)
        raise MemoryError(shape)

    for name in ("check_pixel_claims", "check_voxel_count"):
        monkey.setattr(dicom_reader, name, no_op)
    monkey.setattr(np, "empty", empty)
    with pytest.raises(MemoryError):
        read_series(folder)
    return asked == [65535 * 65535]


HELD = "its header states"
ROWS = [
    Attack("RLE DICOM of 65535 x 65535", _series(65535, RLELossless, RLE), read_series, HELD, _claims_memory),
    Attack("RLE DICOM of 6000 x 6000", _series(6000, RLELossless, RLE), read_series, HELD, _unweighed),
    Attack(
        "deflated DICOM bomb",
        _series(16, DeflatedExplicitVRLittleEndian, bytes(128 * MEGABYTE)),
        read_series,
        "it unpacks to more than",
        _unweighed,
    ),
    Attack(
        "JPEG 2000 frame larger than the header",
        _series(16, JPEG2000Lossless, _coded("JPEG2000"), 8),
        read_series,
        r"a compressed frame states \[\(6000, 6000\)\] instead of \(16, 16\)",
        _unweighed,
    ),
    Attack(
        "JPEG frame larger than the header",
        _series(16, JPEGBaseline8Bit, _coded("JPEG"), 8),
        read_series,
        r"a compressed frame states \[\(6000, 6000\)\] instead of \(16, 16\)",
        lambda folder, monkey: _is_decoded(folder, monkey),
    ),
]


def _is_decoded(folder: Path, monkey: Monkey) -> bool:
    """Without the guard the frame reaches a decoder, which raises an error of its own."""
    monkey.setattr(dicom_reader, "check_frame_sizes", no_op)
    with pytest.raises(ValueError, match="Expected readable pixels") as raised:
        read_series(folder)
    return "decode" in str(raised.value) or "6000" in str(raised.value)

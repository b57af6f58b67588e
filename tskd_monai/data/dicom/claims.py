"""Header values of a DICOM file, validated before pydicom or a decoder allocates memory for them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_preamble
from pydicom.tag import BaseTag
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, RLELossless

from tskd_monai.files.limits import check_held, check_voxel_count

MAX_COMPRESSION = 10_000
"""Bytes of pixels per byte of a compressed file; a blank slice of 1024 x 1024 reaches 2000."""

MAX_INFLATION = 100
"""Largest growth of a deflated file above INFLATED_BYTES, as a factor; files of scanners grow by a factor of five."""

INFLATED_BYTES = 2**24
FILE_META_GROUP = 0x0002
JPEG_START, JPEG_2000_START = b"\xff\xd8", b"\xff\x4f\xff\x51"
JPEG_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
"""Markers of a frame header: SOF (ITU T.81 table B.1) and SOF55 (ITU T.87)."""

JPEG_SCAN = 0xDA
JPEG_LS_PARAMETERS, JPEG_LS_OWN_SIZE = 0xF8, 4
"""LSE, which may state a size (ITU T.87 C.2.4.1.4)."""


def check_inflation(path: Path) -> None:
    """Refuses a deflated file that would unpack to more than any scan.

    Args:
        path: path of a file, DICOM or not.

    Raises:
        ValueError: when the file unpacks to more.
    """
    with path.open("rb") as file:
        read_preamble(file, force=True)
        meta = read_dataset(file, False, True, stop_when=_is_behind_file_meta)
        if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
            return
        limit = INFLATED_BYTES + MAX_INFLATION * path.stat().st_size
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        inflater.decompress(file.read(), limit)
        if inflater.unconsumed_tail:
            raise ValueError(f"it unpacks to more than {limit} bytes")


def check_pixel_claims(header: Dataset, frames: int, file_bytes: int, name: str) -> None:
    """Refuses an image whose header states more pixels than its file can hold.

    Args:
        header: header of the file, without pixels.
        frames: number of frames to read.
        file_bytes: size of the file.
        name: name of the file for the message.

    Raises:
        ValueError: when the file cannot hold them.
    """
    pixels = frames * int(header.Rows) * int(header.Columns)
    syntax = _transfer_syntax(header)
    # Without file meta information they may be compressed; decoding detects that.
    compressed = not syntax or (syntax.is_transfer_syntax and syntax.is_compressed)
    claimed = pixels * int(header.get("BitsAllocated") or 8) // 8
    check_held(claimed, file_bytes, MAX_COMPRESSION if compressed else 1, name)
    check_voxel_count(pixels, name)


def check_frame_sizes(dataset: Dataset) -> None:
    """Refuses compressed frames that state another size than the header: a decoder allocates memory for their size.

    Args:
        dataset: data set of a file, with pixels; uncompressed and RLE pixels state no size and are not checked.

    Raises:
        ValueError: when a JPEG, JPEG-LS or JPEG 2000 frame is not of Rows x Columns.
    """
    if "PixelData" not in dataset or _transfer_syntax(dataset) == RLELossless:
        return
    element = dataset["PixelData"]
    if not element.is_undefined_length:
        return
    expected = (int(dataset.Rows), int(dataset.Columns))
    # Not in pydicom 2, with which MONAI Label's server imports this module; it converts DICOM itself.
    from pydicom.encaps import generate_frames

    for frame in generate_frames(element.value, number_of_frames=int(dataset.get("NumberOfFrames") or 1)):
        stated = list(_stated_sizes(frame))
        if not stated or any(size != expected for size in stated):
            raise ValueError(f"a compressed frame states {stated or 'no size'} instead of {expected} rows and columns")


def _transfer_syntax(header: Dataset) -> UID | None:
    return header.file_meta.get("TransferSyntaxUID") if hasattr(header, "file_meta") else None


def _is_behind_file_meta(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag >> 16 != FILE_META_GROUP


def _stated_sizes(frame: bytes) -> Iterator[tuple[int, int]]:
    """Yields each size (rows, columns) in a frame's own headers; none for other formats."""
    start = frame.find(JPEG_2000_START)
    if start >= 0 and len(frame) >= start + 24:
        columns, rows, left, top = struct.unpack_from(">4I", frame, start + 8)
        yield rows - top, columns - left
    elif frame.startswith(JPEG_START):
        yield from _jpeg_sizes(frame)


def _jpeg_sizes(frame: bytes) -> Iterator[tuple[int, int]]:
    """Yields the sizes that the segments of a JPEG or JPEG-LS stream state before its first scan."""
    position = len(JPEG_START)
    while position + 9 <= len(frame) and frame[position] == 0xFF and frame[position + 1] != JPEG_SCAN:
        marker = frame[position + 1]
        if marker == 0xFF:  # padding before a marker
            position += 1
            continue
        if marker in JPEG_FRAMES:
            yield struct.unpack_from(">HH", frame, position + 5)
        elif marker == JPEG_LS_PARAMETERS and frame[position + 4] == JPEG_LS_OWN_SIZE:
            yield -1, -1  # more than 65535 rows or columns, which DICOM headers cannot state
        position += 2 + int(struct.unpack_from(">H", frame, position + 2)[0])

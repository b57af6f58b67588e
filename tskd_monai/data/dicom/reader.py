"""Reading a DICOM series as one volume of physical values."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from tskd_monai.data.dicom.claims import check_frame_sizes, check_pixel_claims
from tskd_monai.data.dicom.geometry import REFUSE, SeriesGrid, series_grid
from tskd_monai.data.dicom.resampling import to_grid
from tskd_monai.data.dicom.series import find_series, series_title
from tskd_monai.files.limits import check_voxel_count

logger = logging.getLogger(__name__)

MAX_RESCALE = 1e25
"""Exponent above which 32-bit pixels exceed the range of float32."""


@dataclass(frozen=True)
class DicomSeries:
    """A series as a volume.

    Attributes:
        voxels: float32, of the grid's shape (columns, rows, slices), rescale applied (HU for CT).
        affine: to RAS mm, float64 (4, 4).
        uid: SeriesInstanceUID; empty where the files leave it blank.
        grid: the grid, with the header of each slice in order.
    """

    voxels: np.ndarray
    affine: np.ndarray
    uid: str
    grid: SeriesGrid


def read_series(folder: str | Path, series_uid: str | None = None, irregular: str = REFUSE) -> DicomSeries:
    """Returns the image series of a folder as a volume, or refuses it.

    Args:
        folder: folder of the series, which may be in subfolders.
        series_uid: SeriesInstanceUID to read from a folder that holds several series.
        irregular: treatment of gantry tilt and single missing slices: `refuse`, or `resample` to a regular orthogonal
            grid by linear interpolation, with a warning. Voxels outside of all slices get the lowest value.

    Raises:
        FileNotFoundError: when the folder is missing or holds no DICOM image.
        ImportError: when the pixels are compressed and no decoder is installed.
        ValueError: when there are several series, the geometry is not a regular grid, the images are not
            single-channel MONOCHROME2, or pixels are damaged.
    """
    uid, grid = read_grid(folder, series_uid, irregular)
    name = series_title(uid)
    first = grid.headers[0]
    for header in grid.headers:
        _require_grey(header, name)
    _require_held(grid.headers, name)
    stack = read_stack(grid.headers)
    if first.get("Modality") == "CT" and first.get("RescaleIntercept") is None:
        logger.warning("%s is CT without RescaleIntercept; its stored values are taken for HU.", name)
    logger.debug("%s: %s, %d slices of %d x %d.", name, first.get("Modality"), *stack.shape)
    voxels = stack.transpose(2, 1, 0)
    return DicomSeries(voxels if grid.is_regular else to_grid(voxels, grid), grid.affine, uid, grid)


def read_grid(folder: str | Path, series_uid: str | None = None, irregular: str = REFUSE) -> tuple[str, SeriesGrid]:
    """Returns the UID and the grid of a series without reading pixels; checks are those of `read_series`, in its order.

    Args:
        folder: folder of the series, which may be in subfolders.
        series_uid: SeriesInstanceUID to read from a folder that holds several series.
        irregular: see `read_series`.

    Raises:
        FileNotFoundError: when the folder is missing or holds no DICOM image.
        ValueError: when there are several series or the geometry is not a regular grid.
    """
    series = find_series(folder, series_uid)
    return series.uid, series_grid(series.headers, series_title(series.uid), irregular)


def _by_file(headers: Sequence[FileDataset]) -> dict[Path, list[int]]:
    """Returns the indices of the slices in each file: one, or the frames of an enhanced image."""
    files: dict[Path, list[int]] = {}
    for index, header in enumerate(headers):
        files.setdefault(Path(str(header.filename)), []).append(index)
    return files


def _require_held(headers: Sequence[FileDataset], name: str) -> None:
    """Refuses a series whose headers state more pixels than the files hold, before allocation."""
    for path, slices in _by_file(headers).items():
        check_pixel_claims(headers[slices[0]], len(slices), path.stat().st_size, path.name)
    check_voxel_count(len(headers) * int(headers[0].Rows) * int(headers[0].Columns), name)


def read_stack(headers: Sequence[FileDataset]) -> np.ndarray:
    """Returns the physical values of all slices, float32 (slices, rows, columns).

    Memory for all slices is allocated after the first file has been decoded and checked against its header.
    """
    stack: np.ndarray | None = None
    for path, slices in _by_file(headers).items():
        frames = _frames(path, headers[slices[0]])
        if stack is None:
            stack = np.empty((len(headers), *frames.shape[1:]), dtype=np.float32)
        for index in slices:
            header = headers[index]
            frame = int(header.get("ReferencedFrameNumber") or 1) - 1
            if not 0 <= frame < len(frames):
                raise ValueError(
                    f"Expected frame {frame + 1} in {path.name}, found {len(frames)} frame(s); export the series again."
                )
            stack[index] = _rescaled(frames[frame], header, path.name)
    assert stack is not None
    return stack


def _frames(path: Path, header: FileDataset) -> np.ndarray:
    """Returns the stored values of a file (frames, rows, columns)."""
    try:
        dataset = dcmread(path, force=True)
        without_syntax = not dataset.file_meta.get("TransferSyntaxUID")
    except Exception as error:  # damaged bytes make pydicom fail in many ways
        raise ValueError(
            f"Expected a whole DICOM file, found {path.name} unreadable ({error}); export the series again."
        ) from error
    if without_syntax:
        dataset.file_meta.TransferSyntaxUID = _syntax_as_found(dataset, path.name)
    pixels = _decoded(dataset, path.name)
    frames = pixels if pixels.ndim == 3 else pixels[None]
    expected = (int(header.Rows), int(header.Columns))
    if frames.shape[1:] != expected:
        raise ValueError(f"Expected {expected} pixels in {path.name}, found {pixels.shape}; export the series again.")
    return frames


def _syntax_as_found(dataset: FileDataset, name: str) -> UID:
    """Returns the transfer syntax of a data set without file meta information, which states it otherwise.

    pydicom infers the value representation (implicit or explicit) and the byte order from the first element.
    """
    if "PixelData" in dataset and dataset["PixelData"].is_undefined_length:
        raise ValueError(
            f"Expected a TransferSyntaxUID in {name}, whose pixels are compressed, found no file meta information; "
            "export the series again."
        )
    implicit, little_endian = dataset.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little_endian else ExplicitVRBigEndian


def _require_grey(header: Dataset, name: str) -> None:
    """Refuses colour, MONOCHROME1, lookup tables and pixels that do not start at the lowest bit."""
    samples = int(header.get("SamplesPerPixel") or 1)
    photometric = str(header.get("PhotometricInterpretation") or "MONOCHROME2")
    if samples != 1 or photometric != "MONOCHROME2":
        raise ValueError(
            f"Expected single-channel MONOCHROME2 images in {name}, found {photometric} with {samples} sample(s) per "
            "pixel; convert colour series to 2D image files, and MONOCHROME1 to MONOCHROME2."
        )
    if not header.get("BitsAllocated"):
        raise ValueError(f"Expected BitsAllocated in {name}, found none; export the series again.")
    if header.get("ModalityLUTSequence"):
        raise ValueError(f"Expected RescaleSlope and RescaleIntercept in {name}, found a lookup table; convert it.")
    stored = int(header.get("BitsStored") or header.BitsAllocated)
    high = header.get("HighBit")
    if high not in (None, "", stored - 1):  # pydicom reads the low bits regardless of HighBit
        raise ValueError(f"Expected HighBit {stored - 1} in {name}, found {high}; export the series again.")


def _rescaled(pixels: np.ndarray, header: Dataset, name: str) -> np.ndarray:
    """Returns the physical values of one slice, float64 (rows, columns)."""
    slope, intercept = (
        default if header.get(tag) in (None, "") else float(header.get(tag))
        for tag, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))
    )
    if slope == 0 or not np.abs([slope, intercept]).max() < MAX_RESCALE:
        raise ValueError(f"Expected a finite rescale other than zero in {name}, found {slope} and {intercept}.")
    return pixels * slope + intercept


def _decoded(dataset: Dataset, name: str) -> np.ndarray:
    """Returns the stored values of a file, (rows, columns) or (frames, rows, columns)."""
    try:
        check_frame_sizes(dataset)
        return dataset.pixel_array
    except MemoryError:
        raise
    except Exception as error:  # each decoder plugin raises its own types
        syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
        compressed = syntax is not None and syntax.is_transfer_syntax and syntax.is_compressed
        if (
            syntax is not None
            and compressed
            and (isinstance(error, NotImplementedError) or "missing dependencies" in str(error))
        ):
            raise ImportError(
                f"Decoding {syntax.name} in {name} needs a decoder that is not installed; "
                "install the extra `dicom`: pip install 'tskd-monai[dicom]'."
            ) from error
        advice = " (or install the extra `dicom`, which decodes more kinds)" if compressed else ""
        raise ValueError(
            f"Expected readable pixels in {name}, found them truncated or damaged ({error}); "
            f"export the series again{advice}."
        ) from error

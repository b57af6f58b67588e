"""A DICOM series as one volume of physical values."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset

from tskd_monai.data.dicom_geometry import SeriesGrid, series_grid
from tskd_monai.data.dicom_series import find_series

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DicomSeries:
    """A series as a volume.

    Attributes:
        voxels: float32 (columns, rows, slices), rescale slope and intercept applied (HU for CT).
        affine: to RAS mm, float64 (4, 4).
        uid: SeriesInstanceUID; empty where the files leave it blank.
        grid: the grid, with the header of each slice in order.
    """

    voxels: np.ndarray
    affine: np.ndarray
    uid: str
    grid: SeriesGrid


def read_series(folder: str | Path, series_uid: str | None = None) -> DicomSeries:
    """Returns the image series in a folder as a volume, or refuses it.

    Args:
        folder: holds the series, perhaps in subfolders.
        series_uid: SeriesInstanceUID to read where there are several.

    Raises:
        FileNotFoundError: when the folder is missing or holds no DICOM image.
        ImportError: when the pixels are compressed and no decoder is installed.
        ValueError: when there are several series, the geometry is no regular grid, the images are not single-channel
            MONOCHROME2, or pixels are damaged; the message says which.
    """
    uid, grid = read_grid(folder, series_uid)
    name = Path(folder).absolute().name
    columns, rows, count = grid.shape
    stack = np.empty((count, rows, columns), dtype=np.float32)
    for index, header in enumerate(grid.headers):
        _require_grey(header, name)
        path = Path(str(header.filename))
        try:
            dataset = dcmread(path, force=True)
        except (OSError, EOFError, ValueError) as error:
            raise ValueError(
                f"Expected a whole DICOM file, found {path.name} unreadable ({error}); export the series again."
            ) from error
        stack[index] = _rescaled(dataset, path.name)
    first = grid.headers[0]
    if first.get("Modality") == "CT" and first.get("RescaleIntercept") is None:
        logger.warning("%s is CT without RescaleIntercept; its stored values are taken for HU.", name)
    logger.info("%s: %s, %d slices of %d x %d.", name, first.get("Modality"), count, rows, columns)
    return DicomSeries(stack.transpose(2, 1, 0), grid.affine, uid, grid)


def read_grid(folder: str | Path, series_uid: str | None = None) -> tuple[str, SeriesGrid]:
    """Returns the series' UID and grid without reading a pixel: what `read_series` goes by, in the same order.

    Args:
        folder: holds the series, perhaps in subfolders.
        series_uid: SeriesInstanceUID to read where there are several.

    Raises:
        FileNotFoundError: when the folder is missing or holds no DICOM image.
        ValueError: when there are several series or the geometry is no regular grid.
    """
    series = find_series(folder, series_uid)
    return series.uid, series_grid(series.headers, Path(folder).absolute().name)


def _require_grey(header: Dataset, name: str) -> None:
    """Refuses colour, inverted grey, lookup tables and pixels that do not start at the lowest bit."""
    samples = int(header.get("SamplesPerPixel") or 1)
    photometric = str(header.get("PhotometricInterpretation") or "MONOCHROME2")
    if samples != 1 or photometric != "MONOCHROME2":
        raise ValueError(
            f"Expected single-channel MONOCHROME2 images in {name}, found {photometric} with {samples} sample(s) per "
            "pixel; convert colour series to 2D image files, and MONOCHROME1 to MONOCHROME2."
        )
    if header.get("ModalityLUTSequence"):
        raise ValueError(f"Expected RescaleSlope and RescaleIntercept in {name}, found a lookup table; convert it.")
    stored = int(header.get("BitsStored") or header.BitsAllocated)
    if int(header.get("HighBit", stored - 1)) != stored - 1:  # pydicom takes the low bits whatever HighBit says
        raise ValueError(f"Expected HighBit {stored - 1} in {name}, found {header.HighBit}; export the series again.")


def _rescaled(dataset: Dataset, name: str) -> np.ndarray:
    """Returns the physical values of one slice, float64 (rows, columns)."""
    slope, intercept = (
        default if dataset.get(tag) is None else float(dataset.get(tag))
        for tag, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))
    )
    if not np.isfinite([slope, intercept]).all() or slope == 0:
        raise ValueError(f"Expected a finite rescale other than zero in {name}, found {slope} and {intercept}.")
    pixels = _decoded(dataset, name)
    expected = (int(dataset.Rows), int(dataset.Columns))
    if pixels.shape != expected:
        raise ValueError(f"Expected {expected} pixels in {name}, found {pixels.shape}; export the series again.")
    return pixels * slope + intercept


def _decoded(dataset: Dataset, name: str) -> np.ndarray:
    """Returns the stored values of one slice, (rows, columns)."""
    try:
        return dataset.pixel_array
    except Exception as error:  # each decoder plugin raises its own kind
        syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
        compressed = syntax is not None and syntax.is_compressed
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

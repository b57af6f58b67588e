"""Reading the segments of a DICOM SEG onto the grid of the series that it was drawn on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset

from tskd_monai.data.dicom.claims import check_pixel_claims
from tskd_monai.data.dicom.frames import frame_headers
from tskd_monai.data.dicom.geometry import LPS_TO_RAS, SeriesGrid
from tskd_monai.data.dicom.header import damaged
from tskd_monai.data.grid import places_on
from tskd_monai.data.structures import Structure

READ_TYPES = ("BINARY", "LABELMAP", "FRACTIONAL")


def seg_structures(header: FileDataset, grid: SeriesGrid) -> list[Structure]:
    """Returns the segments of a SEG; their voxels are read when they are asked for.

    Args:
        header: header of the SEG, without pixels.
        grid: grid of the series.

    Raises:
        ValueError: if the SEG is of a type that cannot be read, or damaged.
    """
    path = Path(str(header.filename))
    kind = str(header.get("SegmentationType") or "")
    if kind not in READ_TYPES:
        raise ValueError(f"Expected a SEG of type {', '.join(READ_TYPES)}, found {kind or 'none'} in {path.name}.")
    frames = frame_headers(header)
    check_pixel_claims(header, len(frames), path.stat().st_size, path.name)
    numbers = [_segment_number(header, group) for group in header.get("PerFrameFunctionalGroupsSequence") or ()]
    structures = []
    for segment in header.get("SegmentSequence") or ():
        number = int(segment.SegmentNumber)
        if number == 0:  # the background of a label map
            continue
        indices = [i for i in range(len(frames)) if kind == "LABELMAP" or numbers[i] == number]
        read = partial(_mask, path, frames, indices, _inside(header, kind, number, path.name), grid)
        structures.append(Structure(str(segment.get("SegmentLabel") or f"segment {number}"), codes_of(
            segment.get("SegmentedPropertyTypeCodeSequence")), read))  # fmt: skip
    return structures


def codes_of(sequence: Any) -> tuple[str, ...]:
    """Returns the codes of a structure's type, such as `SCT:64033007`, and with its modifier, such as a side."""
    codes = []
    for item in sequence or ():
        own = _code(item)
        modifiers = [_code(one) for one in item.get("SegmentedPropertyTypeModifierCodeSequence") or ()]
        codes += [own, *(f"{own}+{modifier}" for modifier in modifiers)]
    return tuple(codes)


def _code(item: Dataset) -> str:
    return f"{item.get('CodingSchemeDesignator', '')}:{item.get('CodeValue', '')}"


def _segment_number(header: Dataset, group: Dataset) -> int:
    """Returns the segment of a frame, from its own or the shared functional groups; 0 in a label map."""
    for item in (group, *(header.get("SharedFunctionalGroupsSequence") or ())):
        for reference in item.get("SegmentIdentificationSequence") or ():
            return int(reference.ReferencedSegmentNumber)
    return 0


def _inside(header: Dataset, kind: str, number: int, name: str) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the function from stored values of a frame to the pixels of a segment."""
    if kind == "LABELMAP":
        return lambda pixels: pixels == number
    if kind == "BINARY":
        return lambda pixels: pixels != 0
    highest = int(header.get("MaximumFractionalValue") or 0)

    def binary(pixels: np.ndarray) -> np.ndarray:
        if not np.isin(pixels, (0, highest)).all():
            raise ValueError(
                f"Expected voxels that are of a segment or not in {name}, found fractions (a FRACTIONAL SEG); export "
                "it as BINARY."
            )
        return pixels != 0

    return binary


def _mask(
    path: Path,
    frames: list[FileDataset],
    indices: list[int],
    inside: Callable[[np.ndarray], np.ndarray],
    grid: SeriesGrid,
) -> np.ndarray:
    mask = np.zeros(grid.shape, bool)
    for index, pixels in _pixels(path, indices):
        place_frame(mask, inside(pixels), frames[index], grid, path.name)
    return mask


def _pixels(path: Path, indices: list[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the stored values (rows, columns) of frames."""
    from pydicom.pixels import iter_pixels

    if not indices:
        return
    try:
        yield from zip(indices, iter_pixels(path, indices=indices, raw=True), strict=True)
    except MemoryError:
        raise
    except Exception as error:  # each decoder plugin raises its own types
        raise ValueError(damaged(path, str(error))) from error


def place_frame(mask: np.ndarray, pixels: np.ndarray, frame: Dataset, grid: SeriesGrid, name: str) -> None:
    """Adds the pixels of one frame to a mask on the grid of a series; the frame may lie along any of its axes.

    Args:
        mask: bool, of the grid's shape; changed.
        pixels: bool (rows, columns).
        frame: header of the frame: ImagePositionPatient, ImageOrientationPatient, PixelSpacing.
        grid: grid of the series.
        name: name of the file in messages.

    Raises:
        ValueError: if the pixels are not voxels of the grid: nothing is interpolated.
    """
    affine = _frame_affine(frame, name)
    # The third axis of a frame is the one of the grid that its two do not run along.
    steps = np.linalg.inv(grid.affine) @ affine
    affine[:3, 2] = grid.affine[:3, int(np.argmin(np.abs(steps[:3, :2]).sum(axis=1)))]
    mask[tuple(places_on(pixels.T[:, :, None], affine, grid.shape, grid.affine, name))] = True


def _frame_affine(frame: Dataset, name: str) -> np.ndarray:
    """Returns the affine of the columns and rows of a frame to RAS mm; its third column is zero."""
    sizes = {"ImagePositionPatient": 3, "ImageOrientationPatient": 6, "PixelSpacing": 2}
    values = {tag: np.array([] if frame.get(tag) is None else frame.get(tag), float).ravel() for tag in sizes}
    for tag, size in sizes.items():
        if values[tag].size != size or not np.isfinite(values[tag]).all():
            raise ValueError(f"Expected {size} numbers as {tag} of every frame in {name}; export it again.")
    row, column = values["ImageOrientationPatient"].reshape(2, 3)
    spacing = values["PixelSpacing"]
    affine = np.zeros((4, 4))
    affine[:3, 0], affine[:3, 1], affine[:3, 3] = row * spacing[1], column * spacing[0], values["ImagePositionPatient"]
    affine[3, 3] = 1
    return LPS_TO_RAS @ affine

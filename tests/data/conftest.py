"""DICOM series of random voxels in any geometry, for tests of readers and writers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

Edit = Callable[[FileDataset, int], None]
AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
"""Row and column direction, LPS."""


@dataclass(frozen=True)
class WrittenSeries:
    """A series on disk and the stored values it was written from, (columns, rows, slices) in order of position."""

    folder: Path
    uid: str
    stored: np.ndarray


def orthonormal(directions: Sequence[Sequence[float]]) -> np.ndarray:
    """Returns the row direction as a unit vector and the column direction made orthogonal to it."""
    row = np.array(directions[0]) / np.linalg.norm(directions[0])
    column = np.array(directions[1]) - row * np.dot(row, directions[1])
    return np.array([row, column / np.linalg.norm(column)])


@pytest.fixture
def write_series() -> Callable[..., WrittenSeries]:
    """Returns the function that writes a series."""
    return _write_series


def _write_series(
    folder: Path,
    *,
    positions: Sequence[float] = (0, 2.5, 5, 7.5, 10),
    directions: Sequence[Sequence[float]] = AXIAL,
    shape: tuple[int, int] = (10, 14),
    modality: str = "CT",
    edit: Edit | None = None,
    seed: int = 0,
) -> WrittenSeries:
    """Writes one slice per position (mm along the normal), with shuffled names and InstanceNumbers.

    Args:
        folder: folder of the files, created if missing.
        positions: positions of the slices along the normal, mm, ascending.
        directions: row and column direction, LPS.
        shape: rows, columns.
        modality: Modality tag.
        edit: changes the dataset of the slice with the given index before it is written.
        seed: seed of the voxels and the shuffle.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    row, column = orthonormal(directions)
    stored = rng.integers(-500, 1500, (shape[1], shape[0], len(positions)), dtype=np.int16)
    uid, study, frame = generate_uid(), generate_uid(), generate_uid()
    names = rng.permutation(len(positions))
    for index, offset in enumerate(positions):
        dataset = _slice(stored[:, :, index].T, modality)
        dataset.SeriesInstanceUID, dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = uid, study, frame
        dataset.InstanceNumber = int(names[index]) + 1
        position = np.array([-31.5, 17.25, 101.0]) + offset * np.cross(row, column)
        dataset.ImagePositionPatient = [f"{value:.8g}" for value in position]
        dataset.ImageOrientationPatient = [f"{value:.8f}" for value in (*row, *column)]
        if edit:
            edit(dataset, index)
        dataset.save_as(folder / f"IM{names[index]:04d}.dcm", enforce_file_format=True)
    return WrittenSeries(folder, uid, stored)


def _slice(pixels: np.ndarray, modality: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.Modality, dataset.PatientName, dataset.PatientID = modality, "Secret^Name", "secret-id"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.PixelSpacing, dataset.SliceThickness = [0.75, 1.25], 2.5
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.PixelData = np.ascontiguousarray(pixels).tobytes()
    return dataset

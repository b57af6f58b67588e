"""Volumes as DICOM MR series: classic single-frame instances with exactly known geometry, for readers and writers.

All header values are fictitious and state so; unique identifiers are derived from the seed (UUIDs under 2.25,
PS3.5 annex B.2), so the same call writes the same series again.
"""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage
from pydicom.valuerep import format_number_as_ds

from tskd_monai.files.atomic import atomic_path

SHEAR_TOLERANCE = 1e-4  # cosine between array axes; PS3.3 C.7.6.2.1.1 requires orthogonal rows and columns
UID_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "phantom.tskd-monai")
STUDY_DATE, STUDY_TIME = "20000101", "120000"


def write_dicom_series(
    folder: str | Path,
    volume: np.ndarray,
    affine: np.ndarray,
    *,
    seed: int,
    slice_axis: int = -1,
    series_number: int = 1,
    series_description: str = "T2 phantom",
    patient_id: str = "PHANTOM",
    shuffle: bool = False,
) -> tuple[Path, ...]:
    """Writes a volume as a series of MR Image Storage instances, uncompressed, explicit VR little endian.

    Of the two array axes besides the slice axis, the first is the row index and the second the column index, without
    flips: in an instance, pixel (row, column) is `volume[row, column, slice]` for the default slice axis. The direction
        of
    the second is therefore the first triplet of ImageOrientationPatient, that of the first the second triplet. So any
    affine without shear is represented exactly, including oblique and left-handed ones; a volume with axes `PLS`
    appears in the usual radiological orientation.

    Args:
        folder: folder of the instances; must contain no files yet.
        volume: integers in [0, 65535], three axes.
        affine: (4, 4), from voxel indices to RAS mm.
        seed: seed of the identifiers. Series of the same seed share study, patient and frame of reference.
        slice_axis: array axis that runs over the instances.
        series_number: number of the series in the study; part of its UID.
        series_description: value of Series Description.
        patient_id: Patient ID and name of the imaginary patient.
        shuffle: whether InstanceNumber and file names are in an order unrelated to position.

    Returns:
        The files in the order of the slice index.

    Raises:
        ValueError: if volume or affine cannot be represented.
        FileExistsError: if the folder already contains files.
    """
    folder = Path(folder)
    slices, matrix = _in_slice_order(np.asarray(volume), np.asarray(affine, dtype=np.float64), slice_axis)
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(f"Expected an empty folder for the series, found files in {folder}; choose another one.")
    numbers = np.arange(1, len(slices) + 1)
    if shuffle:
        numbers = np.random.default_rng(seed).permutation(numbers)
    template = _series_header(seed, series_number, series_description, patient_id)
    _describe_plane(template, matrix, slices.shape[1:])
    paths = []
    for index, (pixels, number) in enumerate(zip(slices, numbers.tolist(), strict=True)):
        instance = Dataset()
        instance.update(template)
        instance.SOPInstanceUID = _make_uid("instance", seed, series_number, index)
        instance.InstanceNumber = number
        instance.ImagePositionPatient = _decimals((matrix[:3, 3] + index * matrix[:3, 0]) * (-1, -1, 1))
        instance.PixelData = np.ascontiguousarray(pixels).tobytes()
        path = folder / f"MR{number:04d}.dcm"
        _save(instance, path)
        paths.append(path)
    return tuple(paths)


def _in_slice_order(volume: np.ndarray, affine: np.ndarray, slice_axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pixels as (slice, row, column) uint16 and the affine of these axes, after checking both."""
    if volume.ndim != 3 or volume.size == 0 or not -3 <= slice_axis < 3:
        raise ValueError(
            f"Expected voxels along three array axes, the slice axis among them, found {volume.shape} and {slice_axis}."
        )
    if volume.dtype.kind not in "iu" or volume.min() < 0 or volume.max() > 65535:
        raise ValueError(
            f"Expected integers in [0, 65535], found {volume.dtype} in [{volume.min()}, {volume.max()}]; "
            "rescale and round the volume first."
        )
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise ValueError(f"Expected a finite affine of shape (4, 4), found {affine.tolist()}.")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if lengths.min() <= 0:
        raise ValueError(f"Expected voxels with an extent along each axis, found spacings {lengths.tolist()} mm.")
    directions = affine[:3, :3] / lengths
    cosines = np.abs(directions.T @ directions - np.eye(3)).max()
    if cosines > SHEAR_TOLERANCE:
        raise ValueError(
            f"Expected array axes at right angles, found an affine with shear (cosine {cosines:.4f}); "
            "resample the volume to an orthogonal grid first."
        )
    order = [slice_axis % 3, *(axis for axis in range(3) if axis != slice_axis % 3)]
    return volume.transpose(order).astype("<u2"), affine[:, [*order, 3]]


def _series_header(seed: int, series_number: int, series_description: str, patient_id: str) -> Dataset:
    """Returns the attributes that all instances share: patient, study, series, frame of reference, equipment."""
    header = Dataset()
    header.SOPClassUID = MRImageStorage
    header.PatientName = f"Phantom^{patient_id}"
    header.PatientID = patient_id
    header.PatientBirthDate = ""
    header.PatientSex = "O"
    header.PatientIdentityRemoved = "YES"
    header.DeidentificationMethod = "Synthetic image of no patient"
    header.StudyInstanceUID = _make_uid("study", seed)
    header.StudyID = str(seed % 10**9)
    header.StudyDate = header.SeriesDate = header.AcquisitionDate = header.ContentDate = STUDY_DATE
    header.StudyTime = header.SeriesTime = header.AcquisitionTime = header.ContentTime = STUDY_TIME
    header.StudyDescription = "Synthetic abdomen"
    header.AccessionNumber = ""
    header.ReferringPhysicianName = ""
    header.Modality = "MR"
    header.SeriesInstanceUID = _make_uid("series", seed, series_number)
    header.SeriesNumber = series_number
    header.SeriesDescription = series_description
    header.BodyPartExamined = "ABDOMEN"
    header.PatientPosition = "HFS"
    header.FrameOfReferenceUID = _make_uid("frame of reference", seed)
    header.PositionReferenceIndicator = ""
    header.Manufacturer = "tskd-monai"
    header.ManufacturerModelName = "phantom"
    header.DeviceSerialNumber = "0"
    header.SoftwareVersions = "0"
    _describe_acquisition(header)
    return header


def _describe_acquisition(header: Dataset) -> None:
    """Adds the attributes of the MR Image module (PS3.3 C.8.3.1), of a T2-weighted spin echo."""
    header.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    header.AcquisitionNumber = 1
    header.ScanningSequence = "SE"
    header.SequenceVariant = "NONE"
    header.ScanOptions = "FS"
    header.MRAcquisitionType = "2D"
    header.RepetitionTime = "2000"
    header.EchoTime = "80"
    header.EchoTrainLength = 1
    header.MagneticFieldStrength = "1.5"


def _describe_plane(header: Dataset, matrix: np.ndarray, shape: tuple[int, ...]) -> None:
    """Adds the pixel format and the shared plane attributes, from an affine of (slice, row, column) to RAS mm."""
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    directions = matrix[:3, :3] / spacing * np.array([[-1], [-1], [1]])  # RAS to LPS
    header.ImageOrientationPatient = _decimals(np.concatenate([directions[:, 2], directions[:, 1]]))
    header.PixelSpacing = _decimals(spacing[1:])
    header.SliceThickness = header.SpacingBetweenSlices = _decimals(spacing[:1])[0]
    header.Rows, header.Columns = shape
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME2"
    header.BitsAllocated = header.BitsStored = 16
    header.HighBit = 15
    header.PixelRepresentation = 0


def _save(instance: Dataset, path: Path) -> None:
    """Writes one instance in the DICOM file format, atomically."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = instance.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    with atomic_path(path) as temporary:
        FileDataset(temporary, instance, file_meta=meta, preamble=b"\0" * 128).save_as(
            temporary, enforce_file_format=True
        )


def _decimals(values: np.ndarray) -> list[str]:
    """Returns numbers as decimal strings of at most 16 characters, the maximum in DICOM."""
    return [format_number_as_ds(float(value) + 0.0) for value in values]


def _make_uid(*parts: object) -> UID:
    """Returns the UID derived from these parts, the same each time."""
    return UID(f"2.25.{uuid.uuid5(UID_NAMESPACE, '/'.join(map(str, parts))).int}")

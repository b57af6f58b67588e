"""What the writers of DICOM objects share: the source series, the labels with their codes, and refusals."""

from __future__ import annotations

import datetime
import logging
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from monai.config import DtypeLike, PathLike
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from tskd_monai.data.dicom.geometry import REFUSE, SeriesGrid, to_slices
from tskd_monai.data.dicom.header import keep_values_out_of_logs
from tskd_monai.data.dicom.series import series_title
from tskd_monai.data.grid import corner_distance, same_grid
from tskd_monai.data.segmentation_writers import LabelMapWriter, checked_output_path, log_written
from tskd_monai.data.task import Label
from tskd_monai.files.atomic import atomic_path

logger = logging.getLogger(__name__)

UTF_8 = "ISO_IR 192"
"""UTF-8 encodes any name; the source's character set may be blank or a combination, which highdicom refuses."""


Coding = tuple[str, str, str]
"""Code value, scheme, meaning."""

ANATOMICAL_STRUCTURE: Coding = ("123037004", "SCT", "Anatomical Structure")
"""Category, with the code that 3D Slicer writes."""

TISSUE = "Tissue"
"""Category and type of any other name, as in 3D Slicer."""

ORGANS = (
    "liver", "spleen", "kidney", "pancreas", "gallbladder", "stomach", "duodenum", "esophagus", "adrenal gland",
    "bladder", "prostate", "aorta", "inferior vena cava", "portal vein", "heart", "lung", "brain", "femur",
)  # fmt: skip
"""Names that equal those of SNOMED CT concepts."""

SIDES = ("right", "left")


COLOURS = ((220, 80, 60), (70, 130, 220), (80, 180, 90), (240, 190, 60), (160, 90, 200), (60, 190, 190))
"""Of labels, RGB, in their order."""

FROM_SOURCE = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientSize", "PatientWeight",
    "PatientIdentityRemoved", "DeidentificationMethod", "StudyInstanceUID", "StudyID", "StudyDate", "StudyTime",
    "StudyDescription", "AccessionNumber", "ReferringPhysicianName", "FrameOfReferenceUID",
    "PositionReferenceIndicator",
)  # fmt: skip
"""Elements of patient, study and frame of reference that a result copies from its source."""


class DicomResultWriter(LabelMapWriter):
    """Base class of the writers of DICOM objects that refer to the series a label map was made from.

    The metadata list the files that the series was read from: their headers are read again in this order. The label map
    of a resampled series (`irregular`) is resampled back to the slices as scanned, by nearest neighbour.

    For `SaveImaged(writer=...)` bind the labels: `functools.partial(DicomSegWriter, labels=...)`, in a bundle's
    config `_mode_: partial`.

    Args:
        output_dtype: part of `SaveImaged`'s interface.
        scale: part of `SaveImaged`'s interface; label maps are not scaled.
        labels: `Label`, its fields as a mapping, or a tuple `(value, name)` or `(value, name, snomed)`; value 0 is
            ignored. `snomed` may hold `category`, `type` and `laterality`, each `[value, scheme, meaning]`; missing
            ones are derived from the name (`right kidney`), or are Tissue.
        algorithm_name: name of the model.
        algorithm_version: version of the model; None: version of this package.

    Raises:
        ImportError: when highdicom is needed and not installed.
        ValueError: when there is no label, or two have the same value.
    """

    needs_highdicom: ClassVar[str] = ""
    """What cannot be written without highdicom; empty: nothing."""

    def __init__(
        self,
        output_dtype: DtypeLike = np.uint8,
        scale: int | None = None,
        *,
        labels: Sequence[Label | Mapping[str, Any] | Sequence[Any]],
        algorithm_name: str = "tskd-monai",
        algorithm_version: str | None = None,
    ) -> None:
        super().__init__(None, scale)
        if self.needs_highdicom:
            require_highdicom(self.needs_highdicom)
        self.labels = [label for label in map(_as_label, labels) if label.value != 0]
        values = [label.value for label in self.labels]
        if not values or len(set(values)) != len(values):
            raise ValueError(f"Expected labels with distinct values above 0, found {values}; see labels in task.json.")
        self.algorithm_name = algorithm_name
        self.algorithm_version = algorithm_version or package_version()

    @abstractmethod
    def result(self, grid: SeriesGrid) -> Dataset:
        """Returns the DICOM object, complete with its file meta information.

        Args:
            grid: grid of the source series.
        """

    def write(self, filename: PathLike, verbose: bool = True, **kwargs: Any) -> None:
        """Writes the file.

        Args:
            filename: ends in `.dcm`.
            verbose: log the file's name.
            kwargs: part of MONAI's interface; no option is supported.

        Raises:
            FileNotFoundError: when a file of the source series is missing.
            TypeError: when an option is given.
            ValueError: when the source is not a DICOM series, has another grid, or has blank or repeated UIDs; when the
                map has a value without a label; or when the source cannot be described.
        """
        path = checked_output_path(filename, (".dcm",), kwargs)
        keep_values_out_of_logs()
        grid = self._source_grid()
        with _refusals_explained(), atomic_path(path) as temporary:
            self.result(grid).save_as(temporary, enforce_file_format=True)
        log_written(path, verbose)

    def _source_grid(self) -> SeriesGrid:
        """Returns the grid of the source series, or refuses a source with another grid than the label map."""
        from tskd_monai.data.dicom.seg_source import check_source, read_source

        folder = Path(str(self.metadata.get("filename_or_obj", "")))
        if not self.metadata.get("series_hash"):
            raise ValueError(
                f"Expected a label map made from a DICOM series, found {folder if folder.name else 'no source'}; "
                "write .nii.gz for other images."
            )
        name = series_title(str(self.metadata.get("series_uid") or ""))
        grid = read_source(folder, self.metadata["series_files"], name, self.metadata.get("irregular", REFUSE))
        if grid.shape != self.labels_array.shape or not same_grid(grid.shape, grid.affine, self.affine):
            distance = corner_distance(grid.shape, grid.affine, self.affine)
            raise ValueError(
                f"Expected the grid of {folder}, {grid.shape}, found a label map of {self.labels_array.shape}, "
                f"{distance:.3g} mm off; the series changed since it was read."
            )
        check_source(grid.headers, str(folder))
        return grid

    def segment_numbers(self, grid: SeriesGrid) -> np.ndarray:
        """Returns segment numbers, (slices, rows, columns): the index of each value among the labels, from 1."""
        numbers = np.zeros(65536, np.uint16)
        for number, label in enumerate(self.labels, start=1):
            numbers[label.value] = number
        segments = numbers[self.labels_array]
        unknown = np.unique(self.labels_array[(segments == 0) & (self.labels_array != 0)])
        if unknown.size:
            raise ValueError(
                f"Expected the label values {[label.value for label in self.labels]}, found {unknown.tolist()} too; "
                "give every value of the label map a label."
            )
        return np.ascontiguousarray(to_slices(segments, grid).transpose(2, 1, 0))


def segment_codings(label: Label) -> dict[str, Coding]:
    """Returns the codes of a label: `category`, `type` and, for one of a pair, `laterality`.

    Codes that `label.snomed` lacks are derived from the words of the name (`right kidney`, `kidney_left`); names
    outside of ORGANS get Tissue for both.

    Args:
        label: label of the task.

    Raises:
        ValueError: when a code is not `[value, scheme, meaning]`.
    """
    words = label.name.lower().replace("_", " ").replace("-", " ").split()
    name = " ".join(word for word in words if word not in SIDES)
    sides = [word for word in words if word in SIDES]
    if name in ORGANS:
        codings = {"category": ANATOMICAL_STRUCTURE, "type": _snomed(name)}
    else:
        codings = {"category": _snomed(TISSUE), "type": _snomed(TISSUE)}
    if len(sides) == 1:
        codings["laterality"] = _snomed(sides[0])
    for key, coding in (label.snomed or {}).items():
        if key not in ("category", "type", "laterality") or len(coding) != 3 or isinstance(coding, (str, Mapping)):
            raise ValueError(
                f"Expected [value, scheme, meaning] for category, type or laterality of {label.name}, "
                f"found {key}: {coding}; see labels in task.json."
            )
        value, scheme, meaning = coding
        codings[key] = (str(value), str(scheme), str(meaning))
    return codings


def _snomed(name: str) -> Coding:
    """Returns the SNOMED CT code of a concept; its keyword in pydicom's dictionary is its name without blanks."""
    from pydicom.sr.codedict import codes

    code = getattr(codes.SCT, name.title().replace(" ", ""))
    return code.value, code.scheme_designator, code.meaning


def coded(coding: Coding) -> Dataset:
    """Returns the item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = coding
    return item


def result_header(
    writer: DicomResultWriter, grid: SeriesGrid, sop_class: str, modality: str, series_number: int, description: str
) -> FileDataset:
    """Returns a DICOM object of the patient and study of a series, in a series of its own, without its content.

    Args:
        writer: writer of the object.
        grid: grid of the source series.
        sop_class: SOP class of the object.
        modality: modality of the object.
        series_number: number of its series.
        description: description of its series.
    """
    from tskd_monai.data.dicom.seg_source import prepared

    (source,) = prepared(grid.headers[:1], series_title(str(writer.metadata.get("series_uid") or "")))
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class)
    meta.MediaStorageSOPInstanceUID = generate_uid(prefix=None)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    dataset.SpecificCharacterSet = UTF_8
    for tag in FROM_SOURCE:
        if tag in source:
            setattr(dataset, tag, source.get(tag))
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.SeriesInstanceUID = generate_uid(prefix=None)
    dataset.Modality, dataset.SeriesNumber, dataset.SeriesDescription = modality, series_number, description
    dataset.InstanceNumber = 1
    now = datetime.datetime.now()
    dataset.InstanceCreationDate = dataset.SeriesDate = now.strftime("%Y%m%d")
    dataset.InstanceCreationTime = dataset.SeriesTime = now.strftime("%H%M%S")
    dataset.Manufacturer, dataset.ManufacturerModelName = "tskd-monai", writer.algorithm_name[:64]
    dataset.SoftwareVersions, dataset.DeviceSerialNumber = writer.algorithm_version[:64], "0"
    if "ReferringPhysicianName" not in dataset:
        dataset.ReferringPhysicianName = ""
    return dataset


@contextmanager
def _refusals_explained() -> Iterator[None]:
    """Replaces errors of highdicom and pydicom about a source by a message without the values that theirs contain."""
    try:
        yield
    except (OSError, ImportError, MemoryError):
        raise
    except Exception as error:
        if str(error).startswith("Expected"):
            raise
        raise ValueError(
            f"Expected a series that a DICOM object can refer to, found one whose headers are refused "
            f"({type(error).__name__}); write .nii.gz instead."
        ) from error


def _as_label(label: Label | Mapping[str, Any] | Sequence[Any]) -> Label:
    if isinstance(label, Label):
        return label
    try:
        return Label(**label) if isinstance(label, Mapping) else Label(*label)
    except TypeError as error:
        raise ValueError(f"Expected value, name and perhaps snomed for a label, found {label}.") from error


def package_version() -> str:
    """Returns the version of this package."""
    try:
        return version("tskd-monai")
    except PackageNotFoundError:
        from tskd_monai import __version__

        return __version__


def require_highdicom(purpose: str) -> None:
    """Raises ImportError, naming the extra, when highdicom is not installed."""
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"Writing {purpose} needs highdicom; install the extra `dicom`: pip install 'tskd-monai[dicom]'."
        ) from error

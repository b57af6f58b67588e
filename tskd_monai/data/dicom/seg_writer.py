"""Writing label maps as DICOM SEG objects that refer to their source series."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from monai.config import DtypeLike, PathLike

from tskd_monai.data.dicom.geometry import REFUSE
from tskd_monai.data.dicom.header import keep_values_out_of_logs
from tskd_monai.data.dicom.series import series_title
from tskd_monai.data.grid import corner_distance, same_grid
from tskd_monai.data.segmentation_writers import LabelMapWriter, checked_output_path, log_written
from tskd_monai.data.task import Label
from tskd_monai.files.atomic import atomic_path

if TYPE_CHECKING:
    from highdicom.seg import Segmentation, SegmentDescription

    from tskd_monai.data.dicom.geometry import SeriesGrid


logger = logging.getLogger(__name__)

UTF_8 = "ISO_IR 192"
"""UTF-8 encodes any name; the source's character set may be blank or a combination, which highdicom refuses."""

SEGMENTATION_TYPES = ("BINARY", "LABELMAP")

SERIES_NUMBER = 300
"""Number of the SEG's own series; scanners count from 1."""


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


class DicomSegWriter(LabelMapWriter):
    """Writes a label map as one DICOM SEG with a segment per label.

    The metadata list the files that the series was read from: their headers are read again in this order, and each
    frame refers to its source instance. The label map of a resampled series (`irregular`) is resampled back to the
    slices as scanned, by nearest neighbour.

    Only frames with foreground are stored (highdicom's `omit_empty_frames`): a slice without a frame is background, so
    a viewer of only the segmentation shows fewer slices than the image has. A label that is absent from the map keeps
    its description.

    For `SaveImaged(writer=...)` bind the labels: `functools.partial(DicomSegWriter, labels=...)`, in a bundle's
    config `_mode_: partial`.

    Args:
        output_dtype: part of `SaveImaged`'s interface; a segment has one bit per voxel.
        scale: part of `SaveImaged`'s interface; label maps are not scaled.
        labels: `Label`, its fields as a mapping, or a tuple `(value, name)` or `(value, name, snomed)`; value 0 is
            ignored. `snomed` may hold `category`, `type` and `laterality`, each `[value, scheme, meaning]`; missing
            ones are derived from the name (`right kidney`), or are Tissue.
        algorithm_name: name of the model, for the description of the segments.
        algorithm_version: version of the model; None: version of this package.
        segmentation_type: `BINARY`, one bit per voxel and segment, which all viewers read; or `LABELMAP` (DICOM 2024e),
            one number per voxel, smaller and newer.

    Raises:
        ImportError: when highdicom is not installed.
        ValueError: when there is no label, two have the same value, or the type is unknown.
    """

    def __init__(
        self,
        output_dtype: DtypeLike = np.uint8,
        scale: int | None = None,
        *,
        labels: Sequence[Label | Mapping[str, Any] | Sequence[Any]],
        algorithm_name: str = "tskd-monai",
        algorithm_version: str | None = None,
        segmentation_type: str = "BINARY",
    ) -> None:
        super().__init__(None, scale)
        _require_highdicom()
        self.labels = [label for label in map(_as_label, labels) if label.value != 0]
        values = [label.value for label in self.labels]
        if not values or len(set(values)) != len(values):
            raise ValueError(f"Expected labels with distinct values above 0, found {values}; see labels in task.json.")
        if segmentation_type not in SEGMENTATION_TYPES:
            raise ValueError(f"Expected a segmentation_type among {SEGMENTATION_TYPES}, found {segmentation_type!r}.")
        self.segmentation_type = segmentation_type
        self.algorithm_name = algorithm_name
        self.algorithm_version = algorithm_version or _package_version()

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
                map has a value without a label; or when highdicom refuses the source.
        """
        path = checked_output_path(filename, (".dcm",), kwargs)
        keep_values_out_of_logs()
        grid = self._source_grid()
        with _refusals_explained(), atomic_path(path) as temporary:
            self._segmentation(grid).save_as(temporary, enforce_file_format=True)
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

    def _segmentation(self, grid: SeriesGrid) -> Segmentation:
        import highdicom as hd

        from tskd_monai.data.dicom.seg_source import source_images

        descriptions = [self._description(number, label) for number, label in enumerate(self.labels, start=1)]
        name = series_title(str(self.metadata.get("series_uid") or ""))
        images, pixels = source_images(grid, self._segment_numbers(grid), name)
        return hd.seg.Segmentation(
            source_images=images,
            pixel_array=pixels,
            segmentation_type=hd.seg.SegmentationTypeValues(self.segmentation_type),
            segment_descriptions=descriptions,
            series_instance_uid=hd.UID(),
            series_number=SERIES_NUMBER,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="tskd-monai",
            manufacturer_model_name=self.algorithm_name,
            software_versions=self.algorithm_version,
            device_serial_number="0",
            content_label="SEGMENTATION",
            content_description="Automatic segmentation, not for clinical use",
            series_description="Segmentation",
            specific_character_set=UTF_8,
            omit_empty_frames=bool(self.labels_array.any()),
        )

    def _segment_numbers(self, grid: SeriesGrid) -> np.ndarray:
        """Returns segment numbers, (slices, rows, columns): the index of each value among the labels, from 1."""
        from tskd_monai.data.dicom.resampling import to_slices

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

    def _description(self, number: int, label: Label) -> SegmentDescription:
        import highdicom as hd
        from pydicom.sr.codedict import codes

        codings = segment_codings(label)
        description = hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=label.name[:64],
            segmented_property_category=hd.sr.CodedConcept(*codings["category"]),
            segmented_property_type=hd.sr.CodedConcept(*codings["type"]),
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=hd.AlgorithmIdentificationSequence(
                name=self.algorithm_name,
                version=self.algorithm_version,
                family=codes.cid7162.ArtificialIntelligence,
            ),
        )
        if "laterality" in codings:
            kind = description.SegmentedPropertyTypeCodeSequence[0]
            kind.SegmentedPropertyTypeModifierCodeSequence = [hd.sr.CodedConcept(*codings["laterality"])]
        return description


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
            f"Expected a series that a DICOM SEG can be made of, found one whose headers highdicom refuses "
            f"({type(error).__name__}); write .nii.gz instead."
        ) from error


def _as_label(label: Label | Mapping[str, Any] | Sequence[Any]) -> Label:
    if isinstance(label, Label):
        return label
    try:
        return Label(**label) if isinstance(label, Mapping) else Label(*label)
    except TypeError as error:
        raise ValueError(f"Expected value, name and perhaps snomed for a label, found {label}.") from error


def _require_highdicom() -> None:
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "Writing DICOM SEG needs highdicom; install the extra `dicom`: pip install 'tskd-monai[dicom]'."
        ) from error


def _package_version() -> str:
    try:
        return version("tskd-monai")
    except PackageNotFoundError:
        from tskd_monai import __version__

        return __version__

"""Writing label maps as DICOM SEG objects that refer to their source series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from monai.config import DtypeLike

from tskd_monai.data.dicom.result_writer import UTF_8, DicomResultWriter, segment_codings
from tskd_monai.data.dicom.series import series_title
from tskd_monai.data.task import Label

if TYPE_CHECKING:
    from highdicom.seg import Segmentation, SegmentDescription

    from tskd_monai.data.dicom.geometry import SeriesGrid

SEGMENTATION_TYPES = ("BINARY", "LABELMAP")

SERIES_NUMBER = 300
"""Number of the SEG's own series; scanners count from 1."""


class DicomSegWriter(DicomResultWriter):
    """Writes a label map as one DICOM SEG with a segment per label; each frame refers to its source instance.

    Only frames with foreground are stored (highdicom's `omit_empty_frames`): a slice without a frame is background, so
    a viewer of only the segmentation shows fewer slices than the image has. A label that is absent from the map keeps
    its description.

    Args:
        output_dtype: part of `SaveImaged`'s interface; a segment has one bit per voxel.
        scale: part of `SaveImaged`'s interface; label maps are not scaled.
        labels: see `DicomResultWriter`.
        algorithm_name: name of the model, for the description of the segments.
        algorithm_version: version of the model; None: version of this package.
        segmentation_type: `BINARY`, one bit per voxel and segment, which all viewers read; or `LABELMAP` (DICOM 2024e),
            one number per voxel, smaller and newer.

    Raises:
        ImportError: when highdicom is not installed.
        ValueError: when there is no label, two have the same value, or the type is unknown.
    """

    needs_highdicom = "DICOM SEG"

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
        super().__init__(
            output_dtype, scale, labels=labels, algorithm_name=algorithm_name, algorithm_version=algorithm_version
        )
        if segmentation_type not in SEGMENTATION_TYPES:
            raise ValueError(f"Expected a segmentation_type among {SEGMENTATION_TYPES}, found {segmentation_type!r}.")
        self.segmentation_type = segmentation_type

    def result(self, grid: SeriesGrid) -> Segmentation:
        """Returns the SEG."""
        import highdicom as hd

        from tskd_monai.data.dicom.seg_source import source_images

        descriptions = [self._description(number, label) for number, label in enumerate(self.labels, start=1)]
        name = series_title(str(self.metadata.get("series_uid") or ""))
        images, pixels = source_images(grid, self.segment_numbers(grid), name)
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

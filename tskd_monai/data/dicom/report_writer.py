"""Writing the volumes of a label map as a structured report (TID 1500, Measurement Report).

Source: PS3.16 TID 1500 and TID 1501; units are of UCUM.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tskd_monai.data.dicom.geometry import SeriesGrid
from tskd_monai.data.dicom.result_writer import UTF_8, DicomResultWriter, segment_codings
from tskd_monai.data.dicom.seg_source import prepared
from tskd_monai.data.dicom.series import series_title
from tskd_monai.data.task import Label

if TYPE_CHECKING:
    from highdicom.sr import Comprehensive3DSR, MeasurementReport, MeasurementsAndQualitativeEvaluations

SERIES_NUMBER = 303
MM3_PER_ML = 1000.0
TITLE = ("126000", "DCM", "Imaging Measurement Report")
VOLUME = ("118565006", "SCT", "Volume")
MILLILITRE = ("mL", "UCUM", "milliliter")


class ReportWriter(DicomResultWriter):
    """Writes the volume of each label in mL as a structured report that refers to the images.

    A label without voxels has the volume 0. The report states the model as the device that observed, and that its
    result is automatic and not verified.
    """

    needs_highdicom = "a structured report"

    def result(self, grid: SeriesGrid) -> Comprehensive3DSR:
        """Returns the report."""
        import highdicom as hd

        name = series_title(str(self.metadata.get("series_uid") or ""))
        images = {str(header.SOPInstanceUID): header for header in grid.headers}
        return hd.sr.Comprehensive3DSR(
            evidence=prepared(list(images.values()), name),
            content=self._content(grid)[0],
            series_instance_uid=hd.UID(),
            series_number=SERIES_NUMBER,
            sop_instance_uid=hd.UID(),
            instance_number=1,
            manufacturer="tskd-monai",
            is_complete=True,
            is_verified=False,
            series_description="Volumes of the segmentation",
            specific_character_set=UTF_8,
        )

    def _content(self, grid: SeriesGrid) -> MeasurementReport:
        import highdicom as hd

        device = hd.sr.ObserverContext(
            observer_type=hd.sr.CodedConcept("121007", "DCM", "Device"),
            observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
                uid=hd.UID(), name=self.algorithm_name, manufacturer_name="tskd-monai"
            ),
        )
        return hd.sr.MeasurementReport(
            observation_context=hd.sr.ObservationContext(observer_device_context=device),
            procedure_reported=hd.sr.CodedConcept("363679005", "SCT", "Imaging procedure"),
            imaging_measurements=[self._measurement(label, ml) for label, ml in self.volumes(grid)],
            title=hd.sr.CodedConcept(*TITLE),
        )

    def volumes(self, grid: SeriesGrid) -> list[tuple[Label, float]]:
        """Returns the volume of each label, mL, on the grid that was segmented.

        Args:
            grid: grid of the source series.
        """
        counts = np.bincount(self.labels_array.ravel(), minlength=65536)
        voxel_ml = abs(float(np.linalg.det(grid.affine[:3, :3]))) / MM3_PER_ML
        return [(label, float(counts[label.value] * voxel_ml)) for label in self.labels]

    def _measurement(self, label: Label, volume: float) -> MeasurementsAndQualitativeEvaluations:
        import highdicom as hd

        codings = segment_codings(label)
        kind = hd.sr.CodedConcept(*codings["type"])
        side = hd.sr.CodedConcept(*codings["laterality"]) if "laterality" in codings else None
        site = hd.sr.FindingSite(anatomic_location=kind, laterality=side)
        return hd.sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=hd.sr.TrackingIdentifier(uid=hd.UID(), identifier=label.name[:64]),
            finding_type=kind,
            finding_sites=[site],
            algorithm_id=hd.sr.AlgorithmIdentification(name=self.algorithm_name, version=self.algorithm_version),
            measurements=[
                hd.sr.Measurement(
                    name=hd.sr.CodedConcept(*VOLUME),
                    value=round(volume, 3),
                    unit=hd.sr.CodedConcept(*MILLILITRE),
                )
            ],
        )

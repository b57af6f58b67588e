"""Writing label maps as RTSTRUCT: closed contours on the slices of their series, for planning systems.

Contours run half-way between the centres of pixels inside and outside, so that filling them by the rule of pixel
centres gives the label map again. A hole is joined to its outer contour by a keyhole, as CLOSED_PLANAR requires.

Source: PS3.3 A.19 (RT Structure Set IOD), C.8.8.5, C.8.8.6 and C.8.8.8.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator

import numpy as np
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.valuerep import format_number_as_ds

from tskd_monai.data.contours import filled, traced
from tskd_monai.data.dicom.geometry import SeriesGrid
from tskd_monai.data.dicom.result_writer import COLOURS, DicomResultWriter, coded, result_header, segment_codings
from tskd_monai.data.task import Label

RTSTRUCT_CLASS = "1.2.840.10008.5.1.4.1.1.481.3"
STUDY_CLASS = "1.2.840.10008.3.1.2.3.1"
"""Detached Study Management, retired: what RT objects of other systems state for the study that they refer to."""

SERIES_NUMBER = 301
DECIMALS = 4
"""Of coordinates in mm."""

FEWEST_DICE = 0.98


class RtStructWriter(DicomResultWriter):
    """Writes a label map as RTSTRUCT with a region per label; a label without voxels is a region without contours."""

    def result(self, grid: SeriesGrid) -> FileDataset:
        """Returns the RTSTRUCT.

        Raises:
            ValueError: when its contours, filled again, are not the label map.
        """
        numbers = self.segment_numbers(grid)
        first = grid.headers[0]
        dataset = result_header(self, grid, RTSTRUCT_CLASS, "RTSTRUCT", SERIES_NUMBER, "Segmentation as contours")
        now = datetime.datetime.now()
        dataset.StructureSetLabel = "SEGMENTATION"
        dataset.StructureSetDescription = "Automatic segmentation, not for clinical use"
        dataset.StructureSetDate, dataset.StructureSetTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
        dataset.OperatorsName = ""
        dataset.ApprovalStatus = "UNAPPROVED"
        dataset.ReferencedFrameOfReferenceSequence = DicomSequence([_frame_of_reference(grid)])
        regions, contours, observations = [], [], []
        for number, label in enumerate(self.labels, start=1):
            region, observation, contour = Dataset(), _observation(number, label), Dataset()
            region.ROINumber, region.ROIName = number, label.name[:64]
            region.ReferencedFrameOfReferenceUID = first.FrameOfReferenceUID
            region.ROIGenerationAlgorithm = "AUTOMATIC"
            region.ROIGenerationDescription = f"{self.algorithm_name} {self.algorithm_version}"[:64]
            contour.ROIDisplayColor = list(COLOURS[(number - 1) % len(COLOURS)])
            contour.ReferencedROINumber = number
            if found := list(_contours(numbers == number, grid, label.name)):
                contour.ContourSequence = DicomSequence(found)
            regions.append(region)
            contours.append(contour)
            observations.append(observation)
        dataset.StructureSetROISequence = DicomSequence(regions)
        dataset.ROIContourSequence = DicomSequence(contours)
        dataset.RTROIObservationsSequence = DicomSequence(observations)
        return dataset


def _contours(mask: np.ndarray, grid: SeriesGrid, name: str) -> Iterator[Dataset]:
    """Yields the contours of a label, (slices, rows, columns), and checks that filling them gives the label again."""
    number = 0
    for header, plane in zip(grid.headers, mask, strict=True):
        if not plane.any():
            continue
        row, column = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
        down, across = (float(value) for value in header.PixelSpacing)
        to_mm = np.column_stack([row * across, column * down])
        origin = np.array(header.ImagePositionPatient, float)
        written = []
        for polygon in traced(plane.T):
            number += 1
            points = np.round(polygon @ to_mm.T + origin, DECIMALS) + 0.0
            written.append((points - origin) @ np.linalg.pinv(to_mm).T)
            yield _contour(points, header, number)
        again = filled(written, plane.T.shape, name)
        dice = 2 * np.count_nonzero(again & plane.T) / (np.count_nonzero(again) + np.count_nonzero(plane))
        if dice < FEWEST_DICE:
            raise ValueError(
                f"Expected contours of {name} that enclose its pixels, found a Dice of {dice:.3f} on a slice; write "
                "a DICOM SEG instead."
            )


def _contour(points: np.ndarray, header: Dataset, number: int) -> Dataset:
    contour = Dataset()
    contour.ContourImageSequence = DicomSequence([_image(header)])
    contour.ContourGeometricType = "CLOSED_PLANAR"
    contour.NumberOfContourPoints = len(points)
    contour.ContourNumber = number
    contour.ContourData = [format_number_as_ds(float(value)) for value in points.ravel()]
    return contour


def _image(header: Dataset) -> Dataset:
    image = Dataset()
    image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    if frame := header.get("ReferencedFrameNumber"):
        image.ReferencedFrameNumber = int(frame)
    return image


def _frame_of_reference(grid: SeriesGrid) -> Dataset:
    first = grid.headers[0]
    frame, study, series = Dataset(), Dataset(), Dataset()
    images = {str(header.SOPInstanceUID): header for header in grid.headers}
    series.SeriesInstanceUID = first.SeriesInstanceUID
    series.ContourImageSequence = DicomSequence([])
    for header in images.values():
        image = _image(header)
        if "ReferencedFrameNumber" in image:
            del image.ReferencedFrameNumber
        series.ContourImageSequence.append(image)
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = STUDY_CLASS, first.StudyInstanceUID
    study.RTReferencedSeriesSequence = DicomSequence([series])
    frame.FrameOfReferenceUID = first.FrameOfReferenceUID
    frame.RTReferencedStudySequence = DicomSequence([study])
    return frame


def _observation(number: int, label: Label) -> Dataset:
    codings = segment_codings(label)
    observation = Dataset()
    observation.ObservationNumber = observation.ReferencedROINumber = number
    observation.RTROIInterpretedType = "ORGAN"
    observation.ROIInterpreter = ""
    kind = coded(codings["type"])
    if "laterality" in codings:
        kind.SegmentedPropertyTypeModifierCodeSequence = DicomSequence([coded(codings["laterality"])])
    observation.RTROIIdentificationCodeSequence = DicomSequence([kind])
    return observation

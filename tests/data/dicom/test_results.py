"""RTSTRUCT, secondary capture and structured report: of the patient and study, complete, and with the right content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from pydicom import dcmread
from pydicom.dataset import Dataset

from tskd_monai.data.dicom.overlay_writer import OverlayWriter, outline
from tskd_monai.data.dicom.report_writer import ReportWriter
from tskd_monai.data.dicom.rtstruct_writer import RtStructWriter
from tskd_monai.data.volume_reader import load_image_transform

pytest.importorskip("highdicom")

LABELS = [(1, "liver"), (2, "right kidney"), (3, "left kidney")]


def written(kind: Any, folder: Path, path: Path, irregular: str = "refuse") -> tuple[Dataset, np.ndarray]:
    """Writes two boxes, of which the first has a hole; the third label is absent."""
    image = load_image_transform("image", irregular=irregular)({"image": folder})["image"]
    labels = np.zeros(image.shape, np.uint8)
    labels[2:9, 1:6, 1:4] = 1
    labels[4:6, 3:5, 2] = 0
    labels[10:12, 7:9, 3:] = 2
    writer = kind(labels=LABELS, algorithm_name="liver model", algorithm_version="7")
    writer.set_data_array(MetaTensor(torch.from_numpy(labels[None]), meta=image.meta))
    writer.set_metadata(image.meta)
    writer.write(path)
    return dcmread(path), labels


@pytest.mark.parametrize("kind", [RtStructWriter, OverlayWriter, ReportWriter])
def test_results_join_the_study_in_a_series_of_their_own(tmp_path, write_series, kind) -> None:
    series = write_series(tmp_path / "series")
    source = dcmread(next(series.folder.iterdir()))
    result, _ = written(kind, series.folder, tmp_path / "a.dcm")
    for tag in ("PatientID", "PatientName", "StudyInstanceUID"):
        assert result.get(tag) == source.get(tag)
    assert result.SeriesInstanceUID != source.SeriesInstanceUID and result.SOPInstanceUID.is_valid
    assert result.file_meta.MediaStorageSOPInstanceUID == result.SOPInstanceUID
    other, _ = written(kind, series.folder, tmp_path / "b.dcm")
    assert other.SOPInstanceUID != result.SOPInstanceUID


def test_regions_are_closed_contours_on_their_images_with_a_keyhole(tmp_path, write_series) -> None:
    result, _ = written(RtStructWriter, write_series(tmp_path / "series").folder, tmp_path / "a.dcm")
    assert [item.ROIName for item in result.StructureSetROISequence] == ["liver", "right kidney", "left kidney"]
    contours = [list(item.get("ContourSequence", [])) for item in result.ROIContourSequence]
    assert [len(found) for found in contours] == [3, 2, 0]
    assert {contour.ContourGeometricType for found in contours for contour in found} == {"CLOSED_PLANAR"}
    assert [contour.NumberOfContourPoints for contour in contours[0]] == [8, 18, 8]  # 8 + 8 of the hole + 2 joints
    images = {item.SOPInstanceUID: item for item in map(dcmread, (tmp_path / "series").iterdir())}
    for contour in contours[0]:
        image = images[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
        assert float(contour.ContourData[2]) == pytest.approx(float(image.ImagePositionPatient[2]))


def test_frames_show_the_outlines_in_colour(tmp_path, write_series) -> None:
    result, labels = written(OverlayWriter, write_series(tmp_path / "series").folder, tmp_path / "a.dcm")
    pixels = result.pixel_array
    rows = labels.shape[1]
    assert pixels.shape == (labels.shape[2], rows + 14, labels.shape[0], 3)
    colourful = np.ptp(pixels[:, :rows].astype(int), axis=-1) > 60
    edges = np.stack([outline(plane.T) for plane in np.moveaxis(labels, -1, 0)])
    assert colourful[edges].mean() > 0.8 and not colourful[0].any() and result.BurnedInAnnotation == "NO"


def test_the_outline_is_inside_the_label() -> None:
    plane = np.zeros((6, 6), np.uint8)
    plane[1:5, 1:5] = 1
    plane[2, 2] = 2
    assert outline(plane).sum() == 12 + 1 + 2 and not outline(plane)[3, 3]


def measured(report: Dataset) -> dict[str, tuple[float, str]]:
    """Returns value and unit of each measurement by its tracking identifier."""
    found = {}

    def look(item: Dataset, name: str = "") -> None:
        children = item.get("ContentSequence", [])
        for child in children:
            concept = child.ConceptNameCodeSequence[0].CodeMeaning if "ConceptNameCodeSequence" in child else ""
            name = str(child.TextValue) if concept == "Tracking Identifier" else name
            if child.ValueType == "NUM":
                value = child.MeasuredValueSequence[0]
                unit = value.MeasurementUnitsCodeSequence[0]
                assert unit.CodingSchemeDesignator == "UCUM"
                found[name] = (float(value.NumericValue), str(unit.CodeValue))
            look(child, name)

    look(report)
    return found


@pytest.mark.parametrize("positions", [(0, 2.5, 5, 7.5, 10), (0, 2.5, 7.5, 10, 12.5)])
def test_the_report_has_the_volume_of_each_label(tmp_path, write_series, positions) -> None:
    """A missing slice is in the volume, interpolated, as in `volumes.csv`."""
    folder = write_series(tmp_path / "series", positions=positions).folder
    report, labels = written(ReportWriter, folder, tmp_path / "a.dcm", "resample")
    voxel = 0.75 * 1.25 * 2.5 / 1000
    expected = {name: (round(np.count_nonzero(labels == value) * voxel, 3), "mL") for value, name in LABELS}
    assert measured(report) == expected and expected["left kidney"][0] == 0
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert report.VerificationFlag == "UNVERIFIED"

"""DICOM SEG and RTSTRUCT are read on the grid of their series; those of another series or patient are refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import EnsureChannelFirstd
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from tskd_monai.data.dicom.label_reader import read_dicom_label
from tskd_monai.data.dicom.label_references import damage_named
from tskd_monai.data.dicom.reader import read_grid
from tskd_monai.data.dicom.rtstruct_writer import RtStructWriter
from tskd_monai.data.dicom.seg_writer import DicomSegWriter
from tskd_monai.data.structures import label_map, wanted_of_datalist
from tskd_monai.data.volume_reader import load_image_transform

pytest.importorskip("highdicom")

LABELS = [(1, "liver"), (2, "right kidney"), (3, "left kidney")]
WANTED = wanted_of_datalist({str(value): name for value, name in LABELS}, None, "a")
OBLIQUE = ((0.936293, 0.289629, -0.198669), (-0.301247, 0.952, -0.054))
WRITERS: dict[str, Callable[..., Any]] = {
    "seg": DicomSegWriter,
    "label map": partial(DicomSegWriter, segmentation_type="LABELMAP"),
    "rtstruct": RtStructWriter,
}


def written(folder: Path, path: Path, kind: str, voxels: np.ndarray | None = None) -> tuple[Path, np.ndarray]:
    """Writes random labels (or given ones) of a series; 3 is absent, and so are labels on the first slice."""
    image = EnsureChannelFirstd("image")(load_image_transform("image")({"image": folder}))["image"]
    values = np.random.default_rng(0).choice([0, 1, 2], image.shape) if voxels is None else voxels[None]
    values[..., 0] = 0
    writer = WRITERS[kind](labels=LABELS)
    writer.set_data_array(MetaTensor(torch.from_numpy(values), meta=image.meta))
    writer.set_metadata(image.meta)
    writer.write(path)
    return path, values[0]


def read(path: Path, folder: Path) -> np.ndarray:
    grid = read_grid(folder)[1]
    return label_map(read_dicom_label(path, grid), WANTED, grid.shape, path.name)


def edit(path: Path, change: Callable[[Dataset], Any]) -> Path:
    dataset = dcmread(path)
    change(dataset)
    dataset.save_as(path)
    return path


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("directions", [((1, 0, 0), (0, 1, 0)), OBLIQUE])
def test_labels_return(tmp_path, write_series, directions, kind) -> None:
    """Random voxels have holes, islands and corners: every one returns."""
    folder = write_series(tmp_path / "series", directions=directions).folder
    path, values = written(folder, tmp_path / "label.dcm", kind)
    np.testing.assert_array_equal(read(path, folder), values)


@pytest.mark.parametrize("kind", ["seg", "rtstruct"])
def test_codes_choose_a_structure(tmp_path, write_series, kind) -> None:
    folder = write_series(tmp_path / "series").folder
    path, _ = written(folder, tmp_path / "label.dcm", kind)
    found = {one.name: one.codes for one in read_dicom_label(path, read_grid(folder)[1])}
    assert found["liver"] == ("SCT:10200004",)
    assert found["right kidney"] == ("SCT:64033007", "SCT:64033007+SCT:24028007")


def test_a_seg_with_planes_along_other_axes_is_read(tmp_path, write_series) -> None:
    """As a converter writes it from a volume in another order of axes."""
    folder = write_series(tmp_path / "series").folder
    path, values = written(folder, tmp_path / "label.dcm", "seg")

    def flip(dataset: Dataset) -> None:
        shared = dataset.SharedFunctionalGroupsSequence[0]
        row, column = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
        down, across = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
        frames = dataset.pixel_array
        for frame in dataset.PerFrameFunctionalGroupsSequence:
            position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
            last = position + row * across * (dataset.Columns - 1)
            frame.PlanePositionSequence[0].ImagePositionPatient = [f"{value:.8g}" for value in last]
        turned = [np.packbits(frames[:, :, ::-1].transpose(0, 2, 1).ravel(), bitorder="little").tobytes()]
        shared.PlaneOrientationSequence[0].ImageOrientationPatient = [*column, *-row]
        shared.PixelMeasuresSequence[0].PixelSpacing = [across, down]
        dataset.Rows, dataset.Columns = dataset.Columns, dataset.Rows
        dataset.PixelData = turned[0] + b"\0" * (len(turned[0]) % 2)

    np.testing.assert_array_equal(read(edit(path, flip), folder), values)


def moved(dataset: Dataset) -> None:
    for frame in dataset.PerFrameFunctionalGroupsSequence:
        frame.PlanePositionSequence[0].ImagePositionPatient[0] += 0.5


def fraction(dataset: Dataset) -> None:
    dataset.SegmentationType, dataset.MaximumFractionalValue = "FRACTIONAL", 255
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelData = b"\x40" * (int(dataset.NumberOfFrames) * dataset.Rows * dataset.Columns)


def other_frame(dataset: Dataset) -> None:
    dataset.FrameOfReferenceUID = generate_uid()
    for item in dataset.get("ReferencedFrameOfReferenceSequence", ()):
        item.FrameOfReferenceUID = dataset.FrameOfReferenceUID


def first_contour(dataset: Dataset) -> Dataset:
    return dataset.ROIContourSequence[0].ContourSequence[0]


def shift_contour(step: tuple[float, float, float]) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        contour = first_contour(dataset)
        points = np.array(contour.ContourData, float).reshape(-1, 3) + step
        contour.ContourData = [f"{value:.6g}" for value in points.ravel()]

    return change


def tilt(dataset: Dataset) -> None:
    contour = first_contour(dataset)
    points = np.array(contour.ContourData, float).reshape(-1, 3)
    points[:, 2] += 0.5 * (points[:, 0] - points[0, 0])
    contour.ContourData = [f"{value:.6g}" for value in points.ravel()]


def duplicate(dataset: Dataset) -> None:
    dataset.ROIContourSequence[0].ContourSequence.append(first_contour(dataset))


def cut(dataset: Dataset) -> None:
    first_contour(dataset).ContourData = first_contour(dataset).ContourData[:-1]


FAULTS = {
    "another patient": (None, lambda d: setattr(d, "PatientID", "other"), "of another patient in label.dcm"),
    "frame of reference": (None, other_frame, "frame of reference of series .* found another one"),
    "moved": ("seg", moved, "on the voxels of its image in label.dcm, found one between them"),
    "fractions": ("seg", fraction, "found fractions"),
    "open": (
        "rtstruct",
        lambda d: setattr(first_contour(d), "ContourGeometricType", "OPEN_PLANAR"),
        r"Expected closed contours \(CLOSED_PLANAR\) in liver of label.dcm, found OPEN_PLANAR",
    ),
    "overlapping": ("rtstruct", duplicate, "beside or within one another in liver of label.dcm, slice 2"),
    "between slices": ("rtstruct", shift_contour((0, 0, 1.2)), "found one between two slices"),
    "outside": ("rtstruct", shift_contour((0, 0, 250)), "found one outside of them"),
    "tilted": ("rtstruct", tilt, "found one that is tilted"),
    "cut": ("rtstruct", cut, "three coordinates for each point of liver"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named(tmp_path, write_series, fault) -> None:
    only, change, message = FAULTS[fault]
    folder = write_series(tmp_path / "series").folder
    blob = np.zeros((14, 10, 5), int)
    blob[3:9, 2:7, 1:4] = 1
    for kind in ("seg", "rtstruct") if only is None else (only,):
        path, _ = written(folder, tmp_path / "label.dcm", kind, blob)
        with pytest.raises(ValueError, match=message) as raised:
            read(edit(path, change), folder)
        assert "\n" not in str(raised.value) and "Secret" not in str(raised.value)


@pytest.mark.parametrize("kind", ["seg", "rtstruct"])
def test_a_label_of_another_series_is_refused(tmp_path, write_series, kind) -> None:
    path, _ = written(write_series(tmp_path / "one").folder, tmp_path / "label.dcm", kind)
    other = write_series(tmp_path / "two").folder
    with pytest.raises(ValueError, match="found that label.dcm refers to another series; pair each image"):
        read(path, other)


def test_images_stand_for_a_series_that_is_not_named(tmp_path, write_series) -> None:
    folder = write_series(tmp_path / "series").folder
    path, values = written(folder, tmp_path / "label.dcm", "seg")
    edit(path, lambda dataset: dataset.__delitem__("ReferencedSeriesSequence"))
    np.testing.assert_array_equal(read(path, folder), values)


def test_a_gap_between_contours_is_warned_of(tmp_path, write_series, caplog) -> None:
    folder = write_series(tmp_path / "series").folder
    blob = np.zeros((14, 10, 5), int)
    blob[3:9, 2:7, [1, 3, 4]] = 1
    path, _ = written(folder, tmp_path / "label.dcm", "rtstruct", blob)
    np.testing.assert_array_equal(read(path, folder), blob)
    assert "has no contour on 1 of the 4 slices" in caplog.text and "label.dcm" not in caplog.text


def test_damage_is_named_and_a_failing_disk_is_not_taken_for_it(tmp_path: Path) -> None:
    path = tmp_path / "label.dcm"
    with pytest.raises(ValueError, match=r"label\.dcm unreadable \(No tag to read"), damage_named(path):
        raise OSError("No tag to read at file position 6B")  # as pydicom does
    with pytest.raises(OSError, match="Input/output error"), damage_named(path):
        raise OSError(5, "Input/output error")

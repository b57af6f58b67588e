from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from pydicom.dataset import Dataset

from tskd_monai.data.dicom.identity import require_one_volume
from tskd_monai.data.dicom.reader import read_series


def stack(tag: str, *values: object) -> list[Dataset]:
    """Returns the headers of a stack that differ in one element; None leaves it out."""
    headers = []
    for value in values:
        header = Dataset()
        header.Modality, header.ImageType = "MR", ["ORIGINAL", "PRIMARY", "M", "ND"]
        if value is not None:
            setattr(header, tag, value)
        headers.append(header)
    return headers


@pytest.mark.parametrize(
    ("tag", "values"),
    [
        ("PatientID", ("7", "8")),
        ("PatientName", ("Doe^Jane", "Roe^Ann")),
        ("StudyInstanceUID", ("1.2.3", "1.2.4")),
        ("SeriesNumber", (1000, 1001)),
        ("Modality", ("MR", "PT")),
        ("EchoTime", (2.3, 4.6)),
        ("EchoNumbers", (1, 2)),
        ("InversionTimes", ([100.0], [100.0, 200.0])),
        ("TemporalPositionIdentifier", (200, 201)),
        ("DiffusionBValue", (0.0, 800.0)),
        ("ConvolutionKernel", ("B30f", "B70f")),
        ("ComplexImageComponent", ("MAGNITUDE", "PHASE")),
        ("ImageType", (["ORIGINAL", "PRIMARY", "M"], ["ORIGINAL", "PRIMARY", "P"])),
        ("FrameType", (["ORIGINAL", "PRIMARY", "WATER", "NONE"], ["ORIGINAL", "PRIMARY", "FAT", "NONE"])),
    ],
)
def test_what_one_volume_has_in_common_is_named_without_its_values(tag: str, values: tuple[object, object]) -> None:
    with pytest.raises(ValueError, match=f"they differ in {tag}; put one volume into a folder") as raised:
        require_one_volume(stack(tag, values[0], values[0], values[1]), "series 1")
    assert str(values[1]) not in str(raised.value) and "Roe" not in str(raised.value)


@pytest.mark.parametrize(
    ("tag", "values"),
    [
        ("AcquisitionTime", ("101010", "101012", "101014")),
        ("TriggerTime", ("12", "24", "36")),
        ("WindowCenter", (40, 45, 50)),
        ("EchoTime", (4.60, 4.61, 4.60)),
        ("EchoTime", ("4.6", None, "4.6")),
        ("PatientID", ("7", None, "7 ")),
        ("AcquisitionNumber", (3, 1, 2)),
        ("AcquisitionNumber", (1, None, 1)),
    ],
)
def test_what_scanners_vary_from_slice_to_slice_is_no_difference(
    tag: str, values: tuple[object, ...], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    require_one_volume(stack(tag, *values), "series 1")
    assert not caplog.records


@pytest.mark.parametrize("tag", ["AcquisitionNumber", "FrameAcquisitionNumber"])
def test_acquisitions_follow_one_another_or_are_refused(tag: str, caplog: pytest.LogCaptureFixture) -> None:
    require_one_volume(stack(tag, 2, 2, 1, 1, 3), "series 1")
    assert f"series 1: 3 values of {tag} follow one another" in caplog.text
    with pytest.raises(ValueError, match=f"they differ in {tag}"):
        require_one_volume(stack(tag, 1, 2, 1, 2), "series 1")


def test_edited_slice_among_originals_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    types = (["ORIGINAL", "PRIMARY", "AXIAL"], ["DERIVED", "SECONDARY", "AXIAL"], ["ORIGINAL", "PRIMARY", "AXIAL"])
    require_one_volume(stack("ImageType", *types), "series 1")
    assert "some of its images are derived from others (ImageType)" in caplog.text


def test_evenly_spaced_passes_are_not_one_volume(tmp_path, write_series: Callable) -> None:
    folder = write_series(
        tmp_path / "series", edit=lambda dataset, index: setattr(dataset, "AcquisitionNumber", index % 2)
    ).folder
    with pytest.raises(ValueError, match="Expected the 5 images of one volume in series .* they differ in Acquisition"):
        read_series(folder)

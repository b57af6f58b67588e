"""A damaged element is rejected by its file's name, and no header value is trusted."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset

from tskd_monai.data.dicom.header import require_elements
from tskd_monai.data.dicom.reader import read_series


def first_file(folder: Path) -> Path:
    return sorted(folder.iterdir())[0]


def replace(path: Path, old: bytes, new: bytes) -> None:
    """Replaces bytes of a file by as many others."""
    content = path.read_bytes()
    assert content.count(old) == 1 and len(old) == len(new)
    path.write_bytes(content.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "tag"),
    [
        (b"\x28\x00\x10\x00US", b"\x28\x00\x10\x00TS", "Rows"),  # no such representation
        (b"\x28\x00\x11\x00US\x02\x00", b"\x28\x00\x11\x00UL\x02\x00", "Columns"),  # four bytes in two
        (b"\x28\x00\x10\x00US", b"\x28\x00\x10\x00LO", "Rows"),  # a string
        (b"DS\x0a\x000.75\\1.25 ", b"DS\x0a\x000.7x\\1.25 ", "PixelSpacing"),  # not a number
        (b"CS\x02\x00CT", b"SQ\x02\x00CT", "Modality"),
    ],
)
def test_damaged_element_is_named_with_its_file(
    tmp_path: Path, write_series: Callable[..., Any], old: bytes, new: bytes, tag: str
) -> None:
    path = first_file(write_series(tmp_path / "series").folder)
    replace(path, old, new)
    with pytest.raises(ValueError, match=rf"Expected a DICOM file, found {path.name} unreadable \(.*") as raised:
        read_series(path.parent)
    assert type(raised.value) is ValueError
    assert tag in str(raised.value) or "Value Representation" in str(raised.value)


@pytest.mark.parametrize(
    ("tag", "value"), [("Rows", [10, 12]), ("SliceThickness", [1.0, 2.0]), ("ImageType", 3), ("Modality", ["CT", "MR"])]
)
def test_element_of_another_type_is_refused(tag: str, value: Any) -> None:
    header = Dataset()
    header.add_new(tag, {"ImageType": "US", "Rows": "US", "SliceThickness": "DS", "Modality": "CS"}[tag], value)
    with pytest.raises(ValueError, match=rf"found a\.dcm unreadable \({tag}"):
        require_elements(header, Path("a.dcm"))
    require_elements(Dataset(), Path("a.dcm"))


def test_damaged_meta_information_is_named(tmp_path: Path, write_series: Callable[..., Any]) -> None:
    def edit(dataset: FileDataset, index: int) -> None:
        del dataset.SOPClassUID  # so that it is taken from the meta information

    path = first_file(write_series(tmp_path / "series", edit=edit).folder)
    replace(path, b"\x02\x00\x02\x00UI", b"\x02\x00\x02\x00U\xff")
    with pytest.raises(ValueError, match=rf"found {path.name} unreadable \(Unknown Value Representation"):
        read_series(path.parent)


def test_transfer_syntax_that_is_none_is_named(tmp_path: Path, write_series: Callable[..., Any]) -> None:
    def edit(dataset: FileDataset, index: int) -> None:
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"

    folder = write_series(tmp_path / "series", edit=edit).folder
    replace(first_file(folder), b"1.2.840.10008.1.2.1\x00", b"1.2.840.10008.1.2.Z\x00")
    with pytest.raises(ValueError, match="found them truncated or damaged"):
        read_series(folder)


def test_a_size_stated_in_a_header_allocates_no_memory(tmp_path: Path, write_series: Callable[..., Any]) -> None:
    def edit(dataset: FileDataset, index: int) -> None:
        dataset.Rows = dataset.Columns = 65535

    folder = write_series(tmp_path / "series", edit=edit).folder
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"found IM\d+\.dcm truncated or damaged \(its header states"):
        read_series(folder)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6


@pytest.mark.parametrize(
    ("tag", "value", "message"),
    [
        ("RescaleSlope", "1e300", "Expected a finite rescale other than zero"),
        ("RescaleIntercept", "-1e26", "Expected a finite rescale other than zero"),
        (
            "ImagePositionPatient",
            ["1e7", "0", "0"],
            r"for ImagePositionPatient in every image of series \w+, below 1e\+06",
        ),
        ("PixelSpacing", ["1e-5", "1"], "Expected a positive PixelSpacing of at least 0.0001 mm in series"),
        ("BitsAllocated", None, r"Expected BitsAllocated in series \w+, found none"),
        ("ReferencedFrameNumber", "2", r"Expected frame 2 in IM\d+\.dcm, found 1 frame"),
        ("ReferencedFrameNumber", "-3", r"Expected frame -3 in IM\d+\.dcm, found 1 frame"),
    ],
)
def test_values_beyond_reason_are_refused(
    tmp_path: Path, write_series: Callable[..., Any], tag: str, value: Any, message: str
) -> None:
    series = write_series(tmp_path / "series")
    for path in series.folder.iterdir():
        dataset = dcmread(path)
        setattr(dataset, tag, value)
        if value is None:
            dataset.BitsStored = None
        dataset.save_as(path)
    with pytest.raises(ValueError, match=message):
        read_series(series.folder)

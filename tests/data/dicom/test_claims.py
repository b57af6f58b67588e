"""Header values written by scanners and encoders pass validation; attacks on it are in tests/attacks."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from tskd_monai.data.dicom.claims import check_frame_sizes, check_inflation, check_pixel_claims
from tskd_monai.datasets.phantom.dicom import write_dicom_series


@pytest.fixture
def instance(tmp_path: Path) -> Path:
    """Returns a file of a series of 16 x 20 pixels."""
    voxels = np.random.default_rng(0).integers(0, 255, (16, 20, 1))
    return write_dicom_series(tmp_path / "series", voxels, np.eye(4), seed=0)[0]


def test_deflated_file_as_scanners_write_it_passes(instance: Path) -> None:
    dataset = dcmread(instance)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(instance)
    check_inflation(instance)


def test_file_that_is_not_dicom_passes(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no DICOM")
    check_inflation(tmp_path / "notes.txt")


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_frames_of_the_headers_size_pass(instance: Path, syntax: str) -> None:
    dataset = dcmread(instance)
    dataset.compress(syntax, generate_instance_uid=False)
    check_frame_sizes(dataset)
    check_pixel_claims(dataset, 1, instance.stat().st_size, "a.dcm")


def test_jpeg_frame_passes_and_one_of_another_size_does_not(instance: Path) -> None:
    dataset, stream = dcmread(instance), io.BytesIO()
    Image.fromarray(np.zeros((16, 20), np.uint8)).save(stream, "JPEG")
    dataset.PixelData = encapsulate([stream.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    check_frame_sizes(dataset)
    dataset.Rows = 17
    with pytest.raises(ValueError, match=r"states \[\(16, 20\)\] instead of \(17, 20\)"):
        check_frame_sizes(dataset)


def test_header_that_states_more_than_an_uncompressed_file_is_refused(instance: Path) -> None:
    dataset = dcmread(instance, stop_before_pixels=True)
    check_pixel_claims(dataset, 1, instance.stat().st_size, "a.dcm")
    dataset.Rows = 1000
    with pytest.raises(ValueError, match=r"a.dcm .*its header states 40000 bytes"):
        check_pixel_claims(dataset, 1, instance.stat().st_size, "a.dcm")

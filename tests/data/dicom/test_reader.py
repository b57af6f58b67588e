from __future__ import annotations

import logging
from pathlib import Path

import itk
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import JPEGLSLossless, RLELossless, SecondaryCaptureImageStorage, generate_uid

from tskd_monai.data.dicom.geometry import series_grid
from tskd_monai.data.dicom.reader import read_grid, read_series

TILTED = ((0.936293, 0.289629, -0.198669), (-0.301247, 0.952, -0.054))
SAGITTAL = ((0, 1, 0), (0, 0, -1))
CORONAL = ((1, 0, 0), (0, 0, -1))
UPSIDE_DOWN = ((-1, 0, 0), (0, 1, 0))


def read_with_itk(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns voxels (columns, rows, slices) and the affine to RAS, from an independent implementation."""
    names = itk.GDCMSeriesFileNames.New()
    names.SetDirectory(str(folder))
    reader = itk.ImageSeriesReader[itk.Image[itk.F, 3]].New()
    reader.SetImageIO(itk.GDCMImageIO.New())
    reader.SetFileNames(names.GetFileNames(names.GetSeriesUIDs()[0]))
    reader.Update()
    image = reader.GetOutput()
    lps = np.eye(4)
    lps[:3, :3] = itk.array_from_matrix(image.GetDirection()) * np.array(image.GetSpacing())
    lps[:3, 3] = np.array(image.GetOrigin())
    return itk.array_from_image(image).transpose(2, 1, 0), np.diag([-1, -1, 1, 1]) @ lps


@pytest.mark.parametrize("directions", [((1, 0, 0), (0, 1, 0)), TILTED, SAGITTAL, CORONAL, UPSIDE_DOWN])
def test_voxels_and_affine_are_those_of_itk(tmp_path, write_series, directions):
    series = write_series(tmp_path / "series", directions=directions)
    ours = read_series(series.folder)
    voxels, affine = read_with_itk(series.folder)
    assert ours.voxels.shape == (14, 10, 5) and ours.voxels.dtype == np.float32
    np.testing.assert_array_equal(ours.voxels, voxels)
    np.testing.assert_array_equal(ours.voxels, series.stored - 1024.0)
    np.testing.assert_allclose(ours.affine, affine, atol=1e-4)
    assert ours.uid == series.uid


def test_every_slice_origin_is_where_its_header_says(tmp_path, write_series):
    series = read_series(write_series(tmp_path / "series", directions=TILTED).folder)
    for index, header in enumerate(series.grid.headers):
        ras = np.array(header.ImagePositionPatient, float) * [-1, -1, 1]
        np.testing.assert_allclose(series.affine @ [0, 0, index, 1], [*ras, 1], atol=1e-4)


def test_rescale_is_that_of_each_slice(tmp_path, write_series):
    def edit(dataset: FileDataset, index: int) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = f"{0.37 + index}", -index

    series = write_series(tmp_path / "series", edit=edit)
    expected = series.stored * (0.37 + np.arange(5)) - np.arange(5)
    np.testing.assert_allclose(read_series(series.folder).voxels, expected, rtol=1e-6)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_compressed_pixels_are_decoded(tmp_path, write_series, syntax):
    def edit(dataset: FileDataset, index: int) -> None:
        if syntax == JPEGLSLossless:
            pytest.importorskip("jpeg_ls")
        dataset.compress(syntax, generate_instance_uid=False)

    series = write_series(tmp_path / "series", edit=edit)
    np.testing.assert_array_equal(read_series(series.folder).voxels, series.stored - 1024.0)


def test_ct_without_rescale_gives_a_warning(tmp_path, write_series, caplog):
    series = write_series(tmp_path / "series", edit=lambda d, _: delattr(d, "RescaleIntercept"))
    np.testing.assert_array_equal(read_series(series.folder).voxels, series.stored)
    assert " is CT without RescaleIntercept" in caplog.text


def test_missing_decoder_names_the_extra(tmp_path, write_series, monkeypatch):
    series = write_series(tmp_path / "series", edit=lambda d, _: d.compress(RLELossless, generate_instance_uid=False))

    def no_plugin(self: Dataset) -> np.ndarray:
        raise RuntimeError("Unable to decompress because all plugins are missing dependencies:")

    monkeypatch.setattr(Dataset, "pixel_array", property(no_plugin))
    with pytest.raises(ImportError, match=r"Decoding RLE Lossless in IM\d+.dcm .*tskd-monai\[dicom\]"):
        read_series(series.folder)


def test_overlay_in_unused_bits_is_left_out(tmp_path, write_series):
    def edit(dataset: FileDataset, index: int) -> None:
        pixels = np.arange(140, dtype=np.uint16) | 0x4000
        dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit = 0, 12, 11
        dataset.PixelData = pixels.tobytes()

    voxels = read_series(write_series(tmp_path / "series", edit=edit).folder).voxels
    np.testing.assert_array_equal(voxels[:, :, 0].T.ravel(), np.arange(140) - 1024.0)


def test_files_without_preamble_and_in_subfolders_are_read(tmp_path, write_series, caplog):
    series = write_series(tmp_path / "study" / "DICOM" / "S0001")
    for path in series.folder.iterdir():
        content = path.read_bytes()
        path.with_suffix("").write_bytes(content[132:])
        path.unlink()
    with caplog.at_level("DEBUG"):
        np.testing.assert_array_equal(read_series(tmp_path / "study").voxels, series.stored - 1024.0)
    assert "1 subfolder" in caplog.text


@pytest.mark.parametrize(("implicit", "little_endian"), [(True, True), (False, True), (False, False)])
@pytest.mark.parametrize("suffix", [".dcm", ""])
def test_data_sets_without_file_meta_are_read_as_they_are_encoded(
    tmp_path, write_series, implicit, little_endian, suffix
):
    series = write_series(tmp_path / "series")
    for path in list(series.folder.iterdir()):
        dataset = dcmread(path)
        if not little_endian:
            dataset.PixelData = dataset.pixel_array.astype(">i2").tobytes()
        buffer = DicomBytesIO()
        buffer.is_implicit_VR, buffer.is_little_endian = implicit, little_endian
        write_dataset(buffer, dataset)
        path.unlink()
        path.with_suffix(suffix).write_bytes(buffer.getvalue())
    np.testing.assert_array_equal(read_series(series.folder).voxels, series.stored - 1024.0)


def test_compressed_data_set_without_file_meta_is_refused_for_what_it_is(tmp_path, write_series):
    series = write_series(tmp_path / "series", shape=(64, 64), edit=lambda d, _: d.compress(RLELossless))
    for path in series.folder.iterdir():
        buffer = DicomBytesIO()
        buffer.is_implicit_VR, buffer.is_little_endian = False, True
        write_dataset(buffer, dcmread(path))
        path.write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match="Expected a TransferSyntaxUID in IM.*, whose pixels are compressed"):
        read_series(series.folder)


def test_single_slice_takes_its_thickness_from_the_header(tmp_path, write_series, caplog):
    series = read_series(write_series(tmp_path / "series", positions=[0]).folder)
    assert series.voxels.shape == (14, 10, 1)
    assert np.linalg.norm(series.affine[:3, 2]) == pytest.approx(2.5)
    assert "one slice" in caplog.text
    write_series(tmp_path / "bare", positions=[0], edit=lambda d, _: delattr(d, "SliceThickness"))
    with pytest.raises(ValueError, match="Expected SliceThickness in series"):
        read_series(tmp_path / "bare")


def test_positions_win_over_slice_thickness(tmp_path, write_series, caplog):
    caplog.set_level(logging.INFO)
    series = read_series(write_series(tmp_path / "series", positions=[0, 2, 4, 6]).folder)
    assert np.linalg.norm(series.affine[:3, 2]) == pytest.approx(2)
    assert "SliceThickness is 2.5 mm, the slices lie 2 mm apart" in caplog.text


def test_rounded_positions_are_snapped_to_the_grid_with_a_warning(tmp_path, write_series, caplog):
    positions = np.round(np.arange(12) * 1.25, 1)
    affine = read_series(write_series(tmp_path / "series", positions=positions).folder).affine
    assert affine[2, 2] == pytest.approx(1.25, abs=0.01)
    assert "off a regular grid" in caplog.text


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ((0, 2.5, 5, 10, 12.5), r"steps of 2.5 to 5 mm.*at \d+\.\d\d to \d+\.\d\d"),
        ((0, 2.5, 7.5), "Expected evenly spaced slices in series"),
        ((0, 1, 3, 4, 6, 7), "Expected evenly spaced slices in series"),
        ((0, 1.0, 2.1, 3.3, 4.6, 6.0, 7.5), "Expected evenly spaced slices in series"),
        ((0, 2.5, 2.5, 5), r"found 1 duplicate positions among 4 images \(repeated files\)"),
    ],
)
def test_gaps_and_repeats_are_refused(tmp_path, write_series, positions, message):
    with pytest.raises(ValueError, match=message):
        read_series(write_series(tmp_path / "series", positions=positions).folder)


def test_gap_is_named_where_it_is(tmp_path, write_series):
    series = write_series(tmp_path / "series", positions=(0, 2.5, 5, 10, 12.5, 15, 17.5))
    with pytest.raises(ValueError, match=r"missing or uneven at 106\.00 to 111\.00 \(mm"):
        read_series(series.folder)


def test_several_echoes_are_distinguished_from_repeated_files(tmp_path, write_series):
    series = write_series(
        tmp_path / "series", positions=(0, 0, 2, 2), edit=lambda d, index: setattr(d, "EchoTime", index % 2)
    )
    with pytest.raises(ValueError, match="differ in EchoTime"):
        read_series(series.folder)


def _tilt(dataset: FileDataset, index: int) -> None:
    x, y, z = dataset.ImagePositionPatient
    dataset.ImagePositionPatient = [x, y + 2.5 * index * np.tan(np.radians(12)), z]


def _turn_last(dataset: FileDataset, index: int) -> None:
    if index == 4:
        dataset.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]


def _resize_last(dataset: FileDataset, index: int) -> None:
    if index == 4:
        dataset.Rows, dataset.Columns = 14, 10


def _respace_last(dataset: FileDataset, index: int) -> None:
    if index == 4:
        dataset.PixelSpacing = [0.75, 1.3]


def _colour(dataset: FileDataset, index: int) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0


def _truncate(dataset: FileDataset, index: int) -> None:
    dataset.PixelData = dataset.PixelData[:100]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_tilt, r"sheared by 12\.0 degrees, as a gantry tilt"),
        (_turn_last, r"Expected one ImageOrientationPatient in series.* in 4, .* in 1"),
        (_resize_last, r"Expected slices of one size in series .*, found \[10, 14\] in 4, \[14, 10\] in 1"),
        (_respace_last, "Expected one PixelSpacing in series"),
        (_colour, "found RGB with 3 sample"),
        (_truncate, r"Expected readable pixels in IM\d+.dcm, found them truncated"),
        (lambda d, _: setattr(d, "PhotometricInterpretation", "MONOCHROME1"), "found MONOCHROME1"),
        (lambda d, _: setattr(d, "NumberOfFrames", 5), "found 5 frames without functional groups"),
        (lambda d, _: setattr(d, "ImageType", ["ORIGINAL", "PRIMARY", "MOSAIC"]), "found a Siemens mosaic"),
        (lambda d, _: setattr(d, "HighBit", 14), "Expected HighBit 15 in series .*, found 14"),
        (lambda d, _: delattr(d, "ImagePositionPatient"), "Expected 3 numbers for ImagePositionPatient"),
        (lambda d, _: setattr(d, "RescaleSlope", 0), "Expected a finite rescale other than zero"),
        (lambda d, _: setattr(d, "ImageOrientationPatient", [1, 0, 0, 0.5, 1, 0]), "Expected orthogonal unit vectors"),
        (lambda d, i: setattr(d, "FrameOfReferenceUID", f"1.2.{i}"), "Expected one FrameOfReferenceUID"),
    ],
)
def test_what_is_no_plain_volume_is_refused(tmp_path, write_series, edit, message):
    with pytest.raises(ValueError, match=message):
        read_series(write_series(tmp_path / "series", edit=edit).folder)


def test_several_series_are_listed_and_one_can_be_chosen(tmp_path, write_series):
    first = write_series(tmp_path / "7" / "a")
    second = write_series(tmp_path / "7" / "b", positions=(0, 1), modality="MR", seed=1)
    message = rf"found 2 \(CT 5 slices, MR 2\); leave one .* choose one .*\.\n  {first.uid} .*\n  {second.uid} "
    with pytest.raises(ValueError, match=message):
        read_series(tmp_path / "7")
    np.testing.assert_array_equal(read_series(tmp_path / "7", second.uid).voxels, second.stored - 1024.0)
    with pytest.raises(ValueError, match="Expected the DICOM series 1.2.3"):
        read_series(tmp_path / "7", "1.2.3")


def test_objects_that_are_no_images_are_left_out_with_a_warning(tmp_path, write_series, caplog):
    series = write_series(tmp_path / "series")
    other = dcmread(series.folder / "IM0000.dcm")
    other.SOPClassUID, other.SeriesInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    other.save_as(series.folder / "screenshot.dcm")
    (series.folder / "notes.txt").write_text("export log")
    (series.folder / "DICOMDIR").write_bytes(b"index")
    np.testing.assert_array_equal(read_series(series.folder).voxels, series.stored - 1024.0)
    assert "ignored 1 text file, 1 secondary capture." in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("LICENSE", b"Creative Commons Attribution 3.0\n", "text file"),
        ("README", "Zürich\n".encode("utf-16"), "text file"),
        ("LOCKFILE", b"", "text file"),
        ("export.7", "Série d'images\n".encode("latin-1"), "text file"),
        ("preview.jpg", b"\xff\xd8\xff\xe0", "image file"),
        ("Doe_Jane.nii.gz", b"\x1f\x8b", "NIfTI file"),
        ("viewer.exe", b"MZ\x00\x01", "other file"),
        ("viewer", b"\x7fELF\x02\x01\x01\x00", "other file"),
        ("REPORT", b"%PDF-1.7\n\x00\x01", "other file"),
    ],
)
def test_files_of_other_formats_are_counted_and_spoil_no_series(tmp_path, write_series, caplog, name, content, kind):
    series = write_series(tmp_path / "series")
    (series.folder / name).write_bytes(content)
    np.testing.assert_array_equal(read_series(series.folder).voxels, series.stored - 1024.0)
    assert f"ignored 1 {kind}." in caplog.text and "Doe" not in caplog.text


@pytest.mark.parametrize(
    ("name", "content"),
    [("IM9.dcm", b""), ("IM9.dcm", b"%PDF"), ("IM9.dcm", b"<html>404</html>"), ("IM9", b""), ("IM9", b"\x00\x01\x02")],
)
def test_dicom_file_whose_content_is_none_is_no_companion(tmp_path, write_series, name, content):
    series = write_series(tmp_path / "series")
    (series.folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"Expected a DICOM file, found {name} unreadable"):
        read_series(series.folder)


def _is_localizer(dataset: FileDataset, index: int) -> None:
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]


def test_localizer_beside_or_within_a_series_is_left_out(tmp_path, write_series, caplog):
    series = write_series(tmp_path / "7" / "a")
    other = write_series(tmp_path / "7" / "b", positions=(0, 650), edit=_is_localizer, seed=1)
    within = dcmread(other.folder / "IM0000.dcm")
    within.SeriesInstanceUID = series.uid
    within.save_as(series.folder / "IM0005.dcm")
    np.testing.assert_array_equal(read_series(tmp_path / "7").voxels, series.stored - 1024.0)
    assert "ignored 3 localizers." in caplog.text


def test_a_single_localizer_is_read_if_named(tmp_path, write_series, caplog):
    series = write_series(tmp_path / "series", positions=(0,), edit=_is_localizer)
    with pytest.raises(ValueError, match=r"found only localizers, .* give --series_uid .*\n  1\.2\..*CT 1 slice"):
        read_series(series.folder)
    assert read_series(series.folder, series.uid).voxels.shape == (14, 10, 1)
    assert "is a localizer." in caplog.text


def test_unreadable_dicom_file_is_refused_not_skipped(tmp_path, write_series):
    series = write_series(tmp_path / "series")
    (series.folder / "IM0004.dcm").write_bytes(b"")
    with pytest.raises(ValueError, match=r"Expected a DICOM file, found IM0004\.dcm unreadable"):
        read_series(series.folder)


@pytest.mark.parametrize("cut", [0, 64, 140, 200, 300, 400, 500, 600, -150, -20])
def test_truncated_file_is_refused_wherever_it_ends(tmp_path, write_series, cut):
    series = write_series(tmp_path / "series")
    last = max(series.folder.iterdir(), key=lambda path: dcmread(path).ImagePositionPatient[2])  # leaves no gap
    last.write_bytes(last.read_bytes()[:cut])
    with pytest.raises(ValueError, match=rf"found {last.name} unreadable|pixels in {last.name}"):
        read_series(series.folder)


def test_folder_without_images_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="found no DICOM file"):
        read_series(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="Expected a folder"):
        read_series(tmp_path / "absent")


def test_log_names_no_patient_and_no_path(tmp_path, write_series, caplog):
    caplog.set_level(logging.INFO)
    read_series(write_series(tmp_path / "series", positions=[0]).folder)
    assert "series" in caplog.text
    assert not any(word in caplog.text for word in ("Secret", "secret", str(tmp_path)))


def test_grid_without_pixels_has_the_order_of_the_volume(tmp_path, write_series):
    series = write_series(tmp_path / "series", directions=SAGITTAL)
    uid, grid = read_grid(series.folder)
    volume = read_series(series.folder)
    assert uid == volume.uid
    assert [h.SOPInstanceUID for h in grid.headers] == [h.SOPInstanceUID for h in volume.grid.headers]
    np.testing.assert_array_equal(grid.affine, volume.affine)


def test_order_of_the_files_does_not_matter(tmp_path, write_series):
    _, grid = read_grid(write_series(tmp_path / "series").folder)
    again = series_grid(grid.headers[::-1], "series")
    assert again.headers == grid.headers
    np.testing.assert_array_equal(again.affine, grid.affine)


@pytest.mark.parametrize("name", ["ct_jpeg2000", "ct_liver_seg/ct-3slice"])
def test_real_series_are_read_as_by_itk(real_data, name):
    series = read_series(real_data / "dicom" / name)
    if series.uid:  # ITK groups by UID
        voxels, affine = read_with_itk(real_data / "dicom" / name)
        np.testing.assert_array_equal(series.voxels, voxels)
        np.testing.assert_allclose(series.affine, affine, atol=1e-4)
    spacing = np.linalg.norm(series.affine[:3, :3], axis=0)
    assert spacing[2] == pytest.approx(2 if name == "ct_jpeg2000" else 1)
    assert series.voxels[:20, :20].max() < -900  # air in the corners of a CT

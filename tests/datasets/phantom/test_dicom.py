"""DICOM series of the phantom, read back by an independent reader (ITK with GDCM)."""

from __future__ import annotations

import itk
import numpy as np
import pydicom
import pytest

from tskd_monai.datasets.phantom.dicom import write_dicom_series
from tskd_monai.datasets.phantom.render import make_grid

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def _volume(shape=(6, 5, 4)):
    return np.random.default_rng(0).integers(0, 4096, shape).astype(np.int16)


def _read_with_itk(folder):
    """Returns (row, column, slice) pixels and their affine to RAS mm."""
    names = itk.GDCMSeriesFileNames.New()
    names.SetUseSeriesDetails(False)
    names.SetDirectory(str(folder))
    (series,) = names.GetSeriesUIDs()
    image = itk.imread(list(names.GetFileNames(series)))
    affine = np.eye(4)
    affine[:3, :3] = itk.array_from_matrix(image.GetDirection()) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    pixels = itk.array_from_image(image).transpose(1, 2, 0)
    return pixels, (LPS_TO_RAS @ affine)[:, [1, 0, 2, 3]]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("rotation", [(0.0, 0.0, 0.0), (12.0, -17.0, 23.0)])
@pytest.mark.parametrize(("axcodes", "slice_axis"), [("PLS", -1), ("LAS", 2), ("RAS", 2), ("SPL", 0), ("LIP", 1)])
def test_itk_reads_the_same_voxels_at_the_same_positions(tmp_path, axcodes, slice_axis, rotation, shuffle):
    grid = make_grid((6, 5, 4), (1.1, 2.3, 5.7), axcodes, (12.3, -45.6, 78.9), rotation)
    volume = _volume()
    write_dicom_series(tmp_path, volume, grid.matrix, seed=1, slice_axis=slice_axis, shuffle=shuffle)
    pixels, affine = _read_with_itk(tmp_path)

    order = [axis for axis in range(3) if axis != slice_axis % 3] + [slice_axis % 3]
    expected, expected_affine = volume.transpose(order), grid.matrix[:, [*order, 3]]
    if affine[:3, 2] @ expected_affine[:3, 2] < 0:  # ITK sorts along the normal; the slices may run backwards
        affine[:3, 3] += affine[:3, 2] * (pixels.shape[2] - 1)
        affine[:3, 2] *= -1
        pixels = pixels[:, :, ::-1]
    np.testing.assert_array_equal(pixels, expected)
    np.testing.assert_allclose(affine, expected_affine, atol=1e-3)


def test_headers_hold_what_a_seg_writer_needs(tmp_path):
    volume = _volume()
    paths = write_dicom_series(tmp_path / "a", volume, make_grid((6, 5, 4), (1, 1, 5), "PLS").matrix, seed=2)
    instances = [pydicom.dcmread(path) for path in paths]
    for index, instance in enumerate(instances):
        assert instance.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
        assert instance.SOPClassUID == instance.file_meta.MediaStorageSOPClassUID == "1.2.840.10008.5.1.4.1.1.4"
        assert instance.file_meta.MediaStorageSOPInstanceUID == instance.SOPInstanceUID
        assert (instance.BitsAllocated, instance.PixelRepresentation) == (16, 0)
        np.testing.assert_array_equal(instance.pixel_array, volume[:, :, index])
        for keyword in ("StudyDate", "AccessionNumber", "ReferringPhysicianName", "PatientBirthDate", "StudyID"):
            assert keyword in instance
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        assert len({getattr(instance, keyword) for instance in instances}) == 1
    uids = [instance.SOPInstanceUID for instance in instances]
    assert len(set(uids)) == 4 and all(uid.is_valid and uid.startswith("2.25.") for uid in uids)


def test_highdicom_accepts_the_series(tmp_path):
    highdicom = pytest.importorskip("highdicom")
    paths = write_dicom_series(tmp_path, _volume(), make_grid((6, 5, 4), (1, 1, 5), "PLS").matrix, seed=2)
    sources = [pydicom.dcmread(path) for path in paths]
    code = highdicom.sr.CodedConcept("10200004", "SCT", "Liver")
    description = highdicom.seg.SegmentDescription(1, "liver", code, code, "MANUAL")
    segmentation = highdicom.seg.Segmentation(
        sources,
        np.ones((4, 6, 5), np.uint8),
        "BINARY",
        [description],
        highdicom.UID(),
        1,
        highdicom.UID(),
        1,
        "m",
        "n",
        "v",
        "0",
    )
    assert segmentation.FrameOfReferenceUID == sources[0].FrameOfReferenceUID


def test_the_same_seed_writes_the_same_bytes_and_another_one_another_study(tmp_path):
    affine = make_grid((6, 5, 4), (1, 1, 5), "PLS", rotation_deg=(3.0, 4.0, 5.0)).matrix
    series = [
        write_dicom_series(tmp_path / name, _volume(), affine, seed=seed)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert [path.read_bytes() for path in series[0]] == [path.read_bytes() for path in series[1]]
    first, other = pydicom.dcmread(series[0][0]), pydicom.dcmread(series[2][0])
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPInstanceUID"):
        assert first[keyword].value != other[keyword].value


def test_a_second_series_shares_study_and_frame_of_reference(tmp_path):
    affine = make_grid((6, 5, 4), (1, 1, 5), "PLS").matrix
    first, second = (
        pydicom.dcmread(write_dicom_series(tmp_path / str(n), _volume(), affine, seed=1, series_number=n)[0])
        for n in (1, 2)
    )
    assert first.StudyInstanceUID == second.StudyInstanceUID
    assert first.FrameOfReferenceUID == second.FrameOfReferenceUID
    assert first.SeriesInstanceUID != second.SeriesInstanceUID
    assert first.SOPInstanceUID != second.SOPInstanceUID


def test_shuffled_numbers_do_not_follow_position(tmp_path):
    affine = make_grid((4, 4, 12), (1, 1, 5), "PLS").matrix
    paths = write_dicom_series(tmp_path, _volume((4, 4, 12)), affine, seed=1, shuffle=True)
    instances = [pydicom.dcmread(path) for path in paths]
    heights = [float(instance.ImagePositionPatient[2]) for instance in instances]
    numbers = [int(instance.InstanceNumber) for instance in instances]
    assert heights == sorted(heights)
    assert numbers != sorted(numbers) and sorted(numbers) == list(range(1, 13))


@pytest.mark.parametrize(
    ("volume", "match"),
    [
        (np.zeros((4, 4), np.int16), "three array axes"),
        (np.zeros((4, 4, 0), np.int16), "three array axes"),
        (np.zeros((4, 4, 4), np.float32), r"integers in \[0, 65535\], found float32"),
        (np.full((4, 4, 4), -1, np.int16), r"integers in \[0, 65535\], found int16 in \[-1, -1\]"),
    ],
)
def test_volumes_that_do_not_fit_are_refused(tmp_path, volume, match):
    with pytest.raises(ValueError, match=match):
        write_dicom_series(tmp_path, volume, np.eye(4), seed=0)


def test_shear_is_refused(tmp_path):
    affine = np.eye(4)
    affine[0, 1] = 0.1
    with pytest.raises(ValueError, match="found an affine with shear"):
        write_dicom_series(tmp_path, _volume(), affine, seed=0)


def test_a_folder_with_files_is_refused(tmp_path):
    (tmp_path / "old.dcm").touch()
    with pytest.raises(FileExistsError, match="Expected an empty folder"):
        write_dicom_series(tmp_path, _volume(), np.eye(4), seed=0)

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset

from tskd_monai.data.dicom_frames import frame_headers
from tskd_monai.data.dicom_reader import read_series
from tskd_monai.data.phantom import make_grid
from tskd_monai.data.phantom_dicom import write_dicom_series

hd = pytest.importorskip("highdicom")

GRID = make_grid((10, 14, 5), (1.5, 2.0, 4.0), "PLS", rotation_deg=(5.0, 10.0, 15.0))
VOXELS = np.random.default_rng(0).integers(0, 4000, GRID.shape, dtype=np.uint16)


@pytest.fixture
def enhanced(tmp_path: Path) -> Path:
    """Returns an enhanced MR of frames in shuffled order, made of a classic series by highdicom."""
    paths = write_dicom_series(tmp_path / "classic", VOXELS, GRID.matrix, seed=1, shuffle=True)
    legacy = [dcmread(path) for path in sorted(paths)]
    for number, dataset in enumerate(legacy):
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 0.5, 10 * number, "US"
    image = hd.legacy.LegacyConvertedEnhancedMRImage(legacy, hd.UID(), 7, hd.UID(), 1)
    (tmp_path / "enhanced").mkdir()
    image.save_as(tmp_path / "enhanced" / "image.dcm")
    return tmp_path / "enhanced"


def test_frames_lie_where_the_classic_slices_do(tmp_path: Path, enhanced: Path) -> None:
    classic, series = read_series(tmp_path / "classic"), read_series(enhanced)
    np.testing.assert_allclose(series.affine, classic.affine)
    assert [header.ImagePositionPatient for header in series.grid.headers] == [
        header.ImagePositionPatient for header in classic.grid.headers
    ]


def test_each_frame_has_its_own_rescale(enhanced: Path) -> None:
    series = read_series(enhanced)
    frames = [int(header.ReferencedFrameNumber) for header in series.grid.headers]
    intercepts = np.array([float(header.RescaleIntercept) for header in series.grid.headers])
    assert sorted(frames) == [1, 2, 3, 4, 5] and frames != sorted(frames)
    assert sorted(intercepts) == [0, 10, 20, 30, 40] and list(intercepts) != sorted(intercepts)
    np.testing.assert_array_equal(series.voxels.transpose(1, 0, 2), VOXELS * 0.5 + intercepts)


def test_other_images_are_their_own_only_frame() -> None:
    header = FileDataset("a.dcm", {})
    assert frame_headers(header) == [header]


def test_header_with_too_few_functional_groups_is_refused() -> None:
    header = FileDataset("a.dcm", {})
    header.NumberOfFrames, header.PerFrameFunctionalGroupsSequence = 3, [Dataset(), Dataset()]
    with pytest.raises(
        ValueError, match="Expected functional groups of 3 frames in an enhanced image, found 2 in a.dcm"
    ):
        frame_headers(header)


def test_headers_of_frames_do_not_share_what_differs(enhanced: Path) -> None:
    header = dcmread(enhanced / "image.dcm", stop_before_pixels=True)
    frames = frame_headers(header)
    assert len({tuple(frame.ImagePositionPatient) for frame in frames}) == 5
    assert "ImagePositionPatient" not in header


def test_damaged_functional_groups_name_their_file(tmp_path: Path) -> None:
    header = FileDataset("b.dcm", {})
    header.NumberOfFrames, header.PerFrameFunctionalGroupsSequence = 1, [Dataset()]
    group, place = header.PerFrameFunctionalGroupsSequence[0], Dataset()
    place.add_new("ImagePositionPatient", "LO", "here")
    group.PlanePositionSequence = [place]
    with pytest.raises(ValueError, match=r"found b\.dcm unreadable \(ImagePositionPatient"):
        frame_headers(header)

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence

from tskd_monai.data.dicom.frames import frame_headers
from tskd_monai.data.dicom.reader import read_series
from tskd_monai.datasets.phantom.dicom import write_dicom_series
from tskd_monai.datasets.phantom.render import make_grid

hd = pytest.importorskip("highdicom")

GRID = make_grid((10, 14, 5), (1.5, 2.0, 4.0), "PLS", rotation_deg=(5.0, 10.0, 15.0))
VOXELS = np.random.default_rng(0).integers(0, 4000, GRID.shape, dtype=np.uint16)


@pytest.fixture
def enhanced(tmp_path: Path) -> Path:
    """Returns an enhanced MR with shuffled frames, converted from a classic series by highdicom."""
    paths = write_dicom_series(tmp_path / "classic", VOXELS, GRID.matrix, seed=1, shuffle=True)
    legacy = [dcmread(path) for path in sorted(paths)]
    for number, dataset in enumerate(legacy):
        dataset.RescaleSlope, dataset.RescaleIntercept, dataset.RescaleType = 0.5, 10 * number, "US"
    image = hd.legacy.LegacyConvertedEnhancedMRImage(legacy, hd.UID(), 7, hd.UID(), 1)
    (tmp_path / "enhanced").mkdir()
    image.save_as(tmp_path / "enhanced" / "image.dcm")
    return tmp_path / "enhanced"


def test_frames_have_the_positions_of_the_classic_slices(tmp_path: Path, enhanced: Path) -> None:
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


def edited(folder: Path, edit: Callable[[Dataset, Dataset, int], None]) -> None:
    """Changes the shared group and the group of each frame of the image in a folder."""
    image = dcmread(folder / "image.dcm")
    for index, group in enumerate(image.PerFrameFunctionalGroupsSequence):
        edit(image.SharedFunctionalGroupsSequence[0], group, index)
    image.save_as(folder / "image.dcm")


def misleading() -> Dataset:
    """Returns a dataset with unrelated elements of the same names as those that position an image."""
    item = Dataset()
    item.ImagePositionPatient, item.ImageOrientationPatient = [7, 11, 2], [0, 1, 0, 0, 0, 1]
    item.PixelSpacing, item.RescaleSlope, item.RescaleIntercept = [9, 9], 3, 1000
    return item


def private(item: Dataset) -> None:
    block = item.private_block(0x2005, "Philips MR Imaging DD 005", create=True)
    block.add_new(0x0F, "SQ", Sequence([misleading()]))


def in_each_private_place(shared: Dataset, group: Dataset, index: int) -> None:
    private(shared)
    private(group)
    private(group.PlanePositionSequence[0])


def in_another_sequence(shared: Dataset, group: Dataset, index: int) -> None:
    group.ReferencedImageSequence = [misleading()]
    group.DerivationImageSequence = [misleading()]
    shared.UnassignedSharedConvertedAttributesSequence = [misleading()]


@pytest.mark.parametrize("edit", [in_each_private_place, in_another_sequence])
def test_only_the_macros_of_the_standard_position_and_rescale_frames(
    enhanced: Path, edit: Callable[[Dataset, Dataset, int], None]
) -> None:
    before = read_series(enhanced)
    edited(enhanced, edit)
    after = read_series(enhanced)
    np.testing.assert_array_equal(after.affine, before.affine)
    np.testing.assert_array_equal(after.voxels, before.voxels)


def test_frames_of_two_echoes_are_not_one_volume(enhanced: Path) -> None:
    def edit(shared: Dataset, group: Dataset, index: int) -> None:
        echo = Dataset()
        echo.EffectiveEchoTime = 2.3 * (1 + index % 2)
        group.MREchoSequence = [echo]

    edited(enhanced, edit)
    with pytest.raises(ValueError, match="they differ in EffectiveEchoTime"):
        read_series(enhanced)

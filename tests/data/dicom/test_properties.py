"""Slices of a DICOM series are sorted and positioned correctly in any orientation and file order."""

from __future__ import annotations

import shutil
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydicom.dataset import FileDataset

from tskd_monai.data.dicom.geometry import RESAMPLE, SeriesGrid, series_grid, to_slices
from tskd_monai.data.dicom.reader import read_series
from tskd_monai.data.dicom.resampling import to_grid
from tskd_monai.datasets.phantom.dicom import write_dicom_series
from tskd_monai.datasets.phantom.render import Grid, make_grid

AXCODES = ["".join(letters) for pairs in permutations(("RL", "AP", "SI")) for letters in product(*pairs)]
ANGLES = st.tuples(*[st.floats(-180, 180)] * 3)
SPACINGS = st.tuples(*[st.floats(0.2, 8.0)] * 3)
CENTRES = st.tuples(*[st.floats(-500, 500)] * 3)
TOLERANCE_MM = 1e-4
"""DICOM's decimal strings have at most 16 characters."""


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    shape = tuple(draw(st.integers(2, 6)) for _ in range(3))
    return make_grid(shape, draw(SPACINGS), draw(st.sampled_from(AXCODES)), draw(CENTRES), draw(ANGLES))


def voxels_of(shape: tuple[int, ...]) -> np.ndarray:
    """Returns voxels with distinct values."""
    return np.arange(np.prod(shape)).reshape(shape).astype(np.uint16)


def corners(shape: tuple[int, ...]) -> np.ndarray:
    return np.array([[*at, 1] for at in product(*[(0, size - 1) for size in shape])]).T


@settings(max_examples=10)
@given(grid=grids(), slice_axis=st.integers(0, 2), seed=st.integers(0, 99))
def test_every_voxel_returns_to_its_position(
    tmp_path_factory: pytest.TempPathFactory, grid: Grid, slice_axis: int, seed: int
) -> None:
    folder = tmp_path_factory.getbasetemp() / "series"
    shutil.rmtree(folder, ignore_errors=True)
    volume = voxels_of(grid.shape)
    write_dicom_series(folder, volume, grid.matrix, seed=seed, slice_axis=slice_axis, shuffle=True)
    series = read_series(folder)
    to_volume = np.linalg.inv(grid.matrix) @ series.affine
    positions = to_volume @ corners(series.voxels.shape)
    np.testing.assert_allclose(positions, np.rint(positions), atol=TOLERANCE_MM / 0.2)
    found = [series.voxels[tuple(at)] for at in corners(series.voxels.shape)[:3].T]
    assert found == [volume[tuple(at)] for at in np.rint(positions[:3]).astype(int).T]
    assert sorted(series.voxels.ravel()) == list(range(volume.size))


@st.composite
def stacks(draw: st.DrawFn) -> tuple[list[FileDataset], np.ndarray]:
    """Returns headers of an orthogonal stack in order of position, and its affine to LPS mm (columns, rows, slices)."""
    rotation = make_grid((2, 2, 2), (1, 1, 1), "LPS", (0, 0, 0), draw(ANGLES)).matrix[:3, :3] * [[-1], [-1], [1]]
    across, down, through = draw(SPACINGS)
    start = np.array(draw(CENTRES))
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = rotation * [across, down, through], start
    headers = [_header(affine, index) for index in range(draw(st.integers(2, 12)))]
    return headers, affine


def _header(affine: np.ndarray, index: int) -> FileDataset:
    header = FileDataset(f"{index}.dcm", {})
    header.Rows, header.Columns = 7, 5
    columns = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    header.ImageOrientationPatient = [*columns[:, 0], *columns[:, 1]]
    header.PixelSpacing = [np.linalg.norm(affine[:3, 1]), np.linalg.norm(affine[:3, 0])]
    header.ImagePositionPatient = list(affine[:3, 3] + index * affine[:3, 2])
    header.InstanceNumber = 1
    return header


@given(stack=stacks(), data=st.data())
def test_the_order_of_files_means_nothing(stack: tuple[list[FileDataset], np.ndarray], data: st.DataObject) -> None:
    headers, affine = stack
    grid = series_grid(data.draw(st.permutations(headers)), "series")
    assert [header.filename for header in grid.headers] == [header.filename for header in headers]
    np.testing.assert_allclose(np.diag([-1, -1, 1, 1]) @ grid.affine, affine, atol=1e-6)
    assert grid.shape == (5, 7, len(headers)) and grid.is_regular


@given(stack=stacks(), data=st.data())
def test_a_stack_seen_from_its_other_side_is_the_same_slices(
    stack: tuple[list[FileDataset], np.ndarray], data: st.DataObject
) -> None:
    headers, _ = stack
    forwards = series_grid(headers, "series")
    for header in headers:  # reversed column direction: the normal points the other way
        row, column = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
        header.ImageOrientationPatient = [*row, *-column]
    backwards = series_grid(headers, "series")
    assert list(backwards.headers) == list(reversed(forwards.headers))
    np.testing.assert_allclose(backwards.affine[:3, 2], -forwards.affine[:3, 2], atol=1e-6)


@given(stack=stacks(), at=st.integers(0, 11), share=st.floats(0.15, 0.8))
def test_a_slice_off_the_grid_is_refused(stack: tuple[list[FileDataset], np.ndarray], at: int, share: float) -> None:
    headers, affine = stack
    assume(len(headers) > 2)
    inner = headers[1 + at % (len(headers) - 2)]
    inner.ImagePositionPatient = list(np.array(inner.ImagePositionPatient, float) + share * affine[:3, 2])
    with pytest.raises(ValueError, match="Expected evenly spaced slices in series, found steps of"):
        series_grid(headers, "series")


@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(2, 5)),
    shear=st.tuples(st.integers(-2, 2), st.integers(-2, 2)),
)
def test_slices_shifted_by_whole_pixels_come_back_from_the_grid(
    shape: tuple[int, int, int], shear: tuple[int, int]
) -> None:
    columns, rows, count = shape
    drift = np.arange(count)[:, None] * np.array(shear)
    offsets = (drift - drift.min(axis=0)).astype(float)
    header = FileDataset("a.dcm", {})
    header.Columns, header.Rows = columns, rows
    extent = offsets.max(axis=0).astype(int)
    grid = SeriesGrid(
        (header,) * count, (columns + extent[0], rows + extent[1], count), np.eye(4), np.arange(count), offsets
    )
    voxels = 1 + voxels_of(shape).astype(np.float32)
    np.testing.assert_array_equal(to_slices(to_grid(voxels, grid), grid), voxels)


@given(stack=stacks(), gap=st.integers(1, 10))
def test_a_missing_slice_keeps_its_position_on_the_grid(stack: tuple[list[FileDataset], np.ndarray], gap: int) -> None:
    headers, affine = stack
    assume(len(headers) > 4)  # else as many steps are of two slices as of one
    missing = 1 + gap % (len(headers) - 2)
    left = [header for index, header in enumerate(headers) if index != missing]
    grid = series_grid(left, "series", RESAMPLE)
    assert grid.shape[2] == len(headers)
    assert list(grid.indices) == [index for index in range(len(headers)) if index != missing]
    np.testing.assert_allclose(np.diag([-1, -1, 1, 1]) @ grid.affine, affine, atol=1e-6)


def test_slices_that_do_not_overlap_are_no_tilt(tmp_path: Path) -> None:
    affine = np.diag([0.001, 0.001, 2.0, 1.0])
    headers = [_header(affine, index) for index in range(4)]
    for index, header in enumerate(headers):
        header.ImagePositionPatient = [0.5 * index, 0, 2.0 * index]
    with pytest.raises(ValueError, match="Expected slices of series to overlap, found them sheared by 1500 pixels"):
        series_grid(headers, "series", RESAMPLE)

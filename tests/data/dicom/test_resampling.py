from __future__ import annotations

import numpy as np
import pytest

from tskd_monai.data.dicom.geometry import check_irregular, to_slices
from tskd_monai.data.dicom.reader import read_series
from tskd_monai.data.dicom.resampling import to_grid

TILT = np.tan(np.radians(15))
POSITIONS = (0, 2.5, 5, 10, 12.5)


def tilt(dataset, index):
    x, y, z = dataset.ImagePositionPatient
    dataset.ImagePositionPatient = [x, y - 2.5 * index * TILT, z]


def ramp(dataset, index):
    """Voxels that encode their position: 10 times the posterior coordinate of their centre, mm."""
    _, y, _ = (float(value) for value in dataset.ImagePositionPatient)
    rows = np.rint(10 * (y + 0.75 * np.arange(dataset.Rows)))
    pixels = np.repeat(rows[:, None], dataset.Columns, axis=1).astype(np.int16)
    dataset.PixelData, dataset.RescaleIntercept = pixels.tobytes(), 0


def test_tilted_slices_land_where_their_voxels_were(tmp_path, write_series, caplog):
    def edit(dataset, index):
        tilt(dataset, index)
        ramp(dataset, index)

    series = read_series(write_series(tmp_path / "series", edit=edit).folder, irregular="resample")
    assert "sheared by 15.0 degrees" in caplog.text and "resampled to an orthogonal grid" in caplog.text
    assert series.voxels.shape == series.grid.shape == (14, 14, 5)
    np.testing.assert_allclose(series.affine[:3, 2], [0, 0, 2.5], atol=1e-6)
    rows = np.arange(14)
    posterior = -(series.affine @ np.array([np.zeros(14), rows, np.zeros(14), np.ones(14)]))[1]
    inside = series.voxels[4] > series.voxels.min()
    expected = np.repeat(10 * posterior[:, None], 5, axis=1)
    whole = inside & np.roll(inside, 1, axis=0) & np.roll(inside, -1, axis=0)
    assert whole.sum() >= 5 * 7
    np.testing.assert_allclose(series.voxels[4][whole], expected[whole], atol=1.0)


def test_missing_slice_is_the_mean_of_its_neighbours(tmp_path, write_series, caplog):
    written = write_series(tmp_path / "series", positions=POSITIONS)
    series = read_series(written.folder, irregular="resample")
    assert "1 missing slice(s) are interpolated" in caplog.text
    assert series.voxels.shape == (14, 10, 6) and list(series.grid.indices) == [0, 1, 2, 4, 5]
    np.testing.assert_array_equal(series.voxels[:, :, series.grid.indices], written.stored - 1024.0)
    np.testing.assert_array_equal(series.voxels[:, :, 3], (written.stored[..., 2] + written.stored[..., 3]) / 2 - 1024)


@pytest.mark.parametrize(("positions", "edit"), [(POSITIONS, None), (POSITIONS, tilt), ((0, 2.5, 5), None)])
def test_label_maps_return_to_the_slices(tmp_path, write_series, positions, edit):
    grid = read_series(
        write_series(tmp_path / "series", positions=positions, edit=edit).folder, irregular="resample"
    ).grid
    labels = np.zeros((14, 10, len(positions)), np.float32)
    labels[4:10, 3:7] = 1 + np.arange(len(positions))
    sharp = to_slices(np.rint(to_grid(labels, grid)), grid)
    assert sharp.shape == labels.shape
    inner = (slice(5, 9), slice(4, 6))
    np.testing.assert_array_equal(sharp[inner], labels[inner])


@pytest.mark.parametrize(
    ("positions", "edit", "message"),
    [
        ((0, 2.5, 10, 12.5, 15), None, "only single missing slices are interpolated"),
        ((0, 1.0, 2.1, 3.3, 4.6, 6.0, 7.5), None, "Expected evenly spaced slices"),
        (
            (0, 2.5, 5),
            lambda d, i: setattr(d, "ImagePositionPatient", [5 * i, 0, 2.5 * i]),
            "takes at most 45 degrees",
        ),
    ],
)
def test_what_resampling_cannot_repair_is_refused(tmp_path, write_series, positions, edit, message):
    folder = write_series(tmp_path / "series", positions=positions, edit=edit).folder
    with pytest.raises(ValueError, match=message):
        read_series(folder, irregular="resample")


def test_regular_series_is_read_the_same_either_way(tmp_path, write_series, caplog):
    folder = write_series(tmp_path / "series").folder
    refused, resampled = read_series(folder), read_series(folder, irregular="resample")
    np.testing.assert_array_equal(refused.voxels, resampled.voxels)
    np.testing.assert_array_equal(refused.affine, resampled.affine)
    assert resampled.grid.is_regular and "WARNING" not in caplog.text


def test_other_settings_are_refused():
    with pytest.raises(ValueError, match=r"Expected --irregular to be one of \('refuse', 'resample'\), found 'repair'"):
        check_irregular("repair")

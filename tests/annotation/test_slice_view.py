from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tskd_monai.annotation.slice_view import SlicedImage, read_sliced_image
from tskd_monai.data.nifti import write_nifti
from tskd_monai.data.planning.rules import VIEWS
from tskd_monai.data.task import Intensity, Label, Task
from tskd_monai.datasets.phantom.render import make_grid
from tskd_monai.transforms.pipelines import preprocessing

SHAPES = {"LAS": (8, 10, 5), "RPI": (8, 10, 5), "PLS": (8, 10, 5), "SRA": (10, 8, 5), "ASL": (10, 8, 5)}
VOXEL = (6, 2, 3)


def scan(folder: Path, axcodes: str) -> SlicedImage:
    """Returns a scan with thick slices along its third array axis and one bright voxel."""
    volume = np.zeros(SHAPES[axcodes], np.float32)
    volume[VOXEL] = 100
    write_nifti(folder / "scan.nii.gz", volume, make_grid(SHAPES[axcodes], (2.0, 2.0, 6.0), axcodes).matrix)
    return read_sliced_image(folder / "scan.nii.gz")


@pytest.mark.parametrize("axcodes", SHAPES)
def test_a_viewers_voxel_is_found_on_its_slice_and_comes_back(tmp_path: Path, axcodes: str) -> None:
    image = scan(tmp_path, axcodes)
    volume = np.zeros(SHAPES[axcodes])
    volume[VOXEL] = 1
    slices = image.view.to_slices(volume)
    row, column, index = np.rint(image.view.positions([VOXEL])[0]).astype(int)
    assert slices.shape == tuple(image.values.shape[1:]) and slices.shape[2] == 5
    assert tuple(np.argwhere(slices)[0]) == (row, column, index)
    np.testing.assert_array_equal(image.view.from_slices(slices), volume)


@pytest.mark.parametrize("axcodes", SHAPES)
def test_slices_are_numbered_as_in_training(tmp_path: Path, axcodes: str) -> None:
    """The numbers of confirmed slices become a datalist's `slices`, which count along the task's slice axis."""
    image = scan(tmp_path, axcodes)
    task = Task(
        "tiny", (Label(0, "background"), Label(1, "spot")), 1, (16, 16), (2.0, 2.0), VIEWS[image.view.slice_axis],
        Intensity("percentile", 0, 100),
    )  # fmt: skip
    trained = np.asarray(preprocessing(task)({"image": str(tmp_path / "scan.nii.gz")})["image"])
    assert np.argwhere(trained[0] == trained.max())[0, 2] == image.view.positions([VOXEL])[0, 2]


def test_x_of_a_2d_image_is_its_column(tmp_path: Path) -> None:
    pixels = np.zeros((6, 9, 3), np.uint8)
    pixels[4, 7] = 255
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    image = read_sliced_image(tmp_path / "photo.png")
    assert image.view.viewer_shape == (9, 6, 1) and tuple(image.values.shape) == (3, 6, 9, 1)
    row, column, index = image.view.positions([(7, 4, 0)])[0].astype(int)
    assert (row, column, index) == (4, 7, 0) and image.values[:, row, column, index].min() == 1


def test_a_ct_is_shown_in_its_window(tmp_path: Path) -> None:
    volume = np.linspace(-1000, 1000, 400, dtype=np.float32).reshape(10, 10, 4)
    write_nifti(tmp_path / "ct.nii.gz", volume, np.diag([1.0, 1.0, 5.0, 1.0]))
    values = read_sliced_image(tmp_path / "ct.nii.gz", "CT").values
    assert (values == 0).sum() == (volume <= -160).sum() and (values == 1).sum() == (volume >= 240).sum()

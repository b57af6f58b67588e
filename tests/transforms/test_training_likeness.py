"""An image that is unlike the training images is warned of before it is segmented, or refused."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from tskd_monai.data.image_ranges import UNLIKE_TRAINING
from tskd_monai.data.task import Intensity, Task, TrainingImages
from tskd_monai.datasets.phantom.dicom import write_dicom_series
from tskd_monai.transforms.pipelines import preprocessing, training_preprocessing
from tskd_monai.transforms.training_likeness import value_range

MakeTask = Callable[..., Task]
WriteNifti = Callable[..., Path]
KNOWN = TrainingImages((300.0, 400.0), (9.0, 11.0), (4.0, 8.0), (0.0, 400.0))
SHAPE, SPACING = (30, 36, 5), (10.0, 10.0, 6.0)
CROP = (1.0, 1.0, 6.0)


@pytest.fixture
def task(make_task: MakeTask) -> Task:
    return make_task(pixdim=(10.0, 10.0), training_images=KNOWN)


def scan(write_nifti: WriteNifti, spacing: tuple[float, float, float] = SPACING, axcodes: str = "RAS") -> Path:
    values = np.random.default_rng(0).integers(0, 400, SHAPE).astype(np.int16)
    return write_nifti("scan.nii.gz", values, spacing, axcodes)


@pytest.mark.parametrize("axcodes", ["RAS", "SPL", "IRA"])
def test_image_like_the_training_images_passes_without_a_word(
    task: Task, write_nifti: WriteNifti, axcodes: str, caplog: pytest.LogCaptureFixture
) -> None:
    image = preprocessing(task)({"image": scan(write_nifti, axcodes=axcodes)})["image"]
    assert image.meta[UNLIKE_TRAINING] == ""
    assert not [record for record in caplog.records if record.name.startswith("tskd_monai")]


def test_crop_is_warned_of_by_name_and_kept(
    make_task: MakeTask, write_nifti: WriteNifti, caplog: pytest.LogCaptureFixture
) -> None:
    task = make_task(training_images=KNOWN)
    image = preprocessing(task)({"image": scan(write_nifti, CROP), "name": "case.7"})["image"]
    expected = "field of view 36 mm, in training 300 to 400 mm; pixel spacing 1 mm, in training 9 to 11 mm"
    assert image.meta[UNLIKE_TRAINING] == expected
    (record,) = [record for record in caplog.records if record.name.startswith("tskd_monai")]
    assert record.levelno == logging.WARNING
    assert record.getMessage() == f"case.7 is unlike the images that the model was trained on: {expected}."


@pytest.mark.parametrize("pipeline", [preprocessing, training_preprocessing])
def test_crop_is_refused_where_the_task_says_so(
    make_task: MakeTask, write_nifti: WriteNifti, pipeline: Callable[..., Callable]
) -> None:
    transform = pipeline(make_task(training_images=KNOWN, unlike_training="refuse"), ["image"])
    with pytest.raises(RuntimeError) as raised:
        transform({"image": scan(write_nifti, CROP)})
    assert "Expected an image like those that the model was trained on in scan, found field of view 36 mm" in str(
        raised.value.__cause__
    )
    assert transform({"image": write_nifti("b.nii.gz", np.zeros(SHAPE, np.int16), SPACING)})


def test_folder_of_a_series_is_not_named(make_task: MakeTask, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_dicom_series(tmp_path / "Doe^Jane", np.ones((12, 12, 3), np.uint16), np.diag([2.0, 2.0, 5.0, 1.0]), seed=0)
    preprocessing(make_task(training_images=KNOWN))({"image": tmp_path / "Doe^Jane"})
    assert "is unlike the images" in caplog.text and "Doe" not in caplog.text


def test_values_outside_the_window_are_warned_of_without_training_images(
    make_task: MakeTask, write_nifti: WriteNifti, caplog: pytest.LogCaptureFixture
) -> None:
    task = make_task(intensity=Intensity("hu_window", 40, 300))
    scaled = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
    preprocessing(task)({"image": write_nifti("unit.nii.gz", scaled)})
    assert "lie outside the intensity window 40 to 300" in caplog.text


def test_value_range_is_of_the_finite_values_and_of_a_sample_of_many() -> None:
    image = MetaTensor(torch.arange(10000.0).reshape(1, 100, 100, 1))
    image[0, 0, :3, 0] = torch.tensor([float("nan"), float("inf"), float("-inf")])
    assert value_range(image) == pytest.approx((52.0, 9949.0), abs=2)
    assert value_range(MetaTensor(torch.full((1, 2, 2, 1), float("nan")))) is None
    large = MetaTensor(torch.rand(1, 1200, 1200, 3, generator=torch.Generator().manual_seed(0)))
    assert value_range(large) == pytest.approx((0.005, 0.995), abs=0.001)

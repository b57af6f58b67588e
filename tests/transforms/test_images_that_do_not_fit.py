from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from tskd_monai.data.fitness import UNLIKE_TRAINING, CheckImageFitsTaskd, NameOutputd, value_range
from tskd_monai.data.task import Intensity, Task, TrainingImages
from tskd_monai.datasets.phantom.dicom import write_dicom_series
from tskd_monai.transforms.pipelines import preprocessing, training_preprocessing


def item(modality: str = "", channels: int = 1, unit: str = "mm") -> dict[str, MetaTensor]:
    meta = {"modality": modality, "filename_or_obj": "/data/Doe/a.nii", "unit": unit}
    return {"image": MetaTensor(torch.zeros(channels, 4, 4, 2), meta=meta)}


@pytest.mark.parametrize(("mode", "modality"), [("hu_window", "CT"), ("percentile", "MR"), ("percentile", "US")])
def test_image_of_the_tasks_kind_passes_unchanged(mode: str, modality: str) -> None:
    data = item(modality)
    assert CheckImageFitsTaskd("image", 1, mode)(data) is data


@pytest.mark.parametrize("mode", ["hu_window", "percentile"])
def test_image_that_does_not_say_its_modality_passes(mode: str) -> None:
    assert CheckImageFitsTaskd("image", 1, mode)(item())
    assert CheckImageFitsTaskd("image", 1, mode)({"image": torch.zeros(1, 4, 4, 2)})


def test_other_modality_is_refused_by_the_files_name() -> None:
    with pytest.raises(ValueError, match=r"Expected CT for this model, found MR in a\.nii; choose a model for MR"):
        CheckImageFitsTaskd("image", 1, "hu_window")(item("MR"))
    with pytest.raises(ValueError, match=r"Expected another modality than CT for this model, found CT in a\.nii"):
        CheckImageFitsTaskd("image", 1, "percentile")(item("CT"))


def test_colour_for_a_grey_task_is_refused_and_the_other_way_round() -> None:
    with pytest.raises(ValueError, match=r"Expected 1 channel\(s\) in a\.nii, found 3"):
        CheckImageFitsTaskd("image", 1, "percentile")(item(channels=3))
    with pytest.raises(ValueError, match=r"Expected 3 channel\(s\) in a\.nii, found 1"):
        CheckImageFitsTaskd("image", 3, "rgb")(item())


@pytest.mark.parametrize("channels", [1, 3])
def test_image_file_for_a_model_of_volumes_is_refused_for_what_it_is(channels: int) -> None:
    with pytest.raises(ValueError, match=r"Expected a volume .*found the 2D image file a\.nii, .* no spacing"):
        CheckImageFitsTaskd("image", 1, "percentile")(item(channels=channels, unit="pixels"))


def test_volume_for_a_model_of_image_files_is_refused_and_an_image_file_is_not() -> None:
    fits = CheckImageFitsTaskd("image", 1, "percentile", flat=True)
    with pytest.raises(ValueError, match=r"Expected a 2D image file.*found the volume a\.nii.*model of volumes"):
        fits(item())
    assert fits(item(unit="pixels"))


def test_name_of_the_item_goes_into_the_images_metadata() -> None:
    image = MetaTensor(torch.zeros(1, 2, 2, 1), meta={"filename_or_obj": "scan.nii"})
    named = NameOutputd("image")({"image": image, "name": 7})["image"]
    assert named.meta["output_name"] == "7"
    assert named.meta["filename_or_obj"] == "scan.nii"
    assert named.shape == (1, 2, 2, 1)


def test_item_without_a_name_is_left_as_it_is() -> None:
    image = MetaTensor(torch.zeros(1, 2, 2, 1))
    before = dict(image.meta)
    assert NameOutputd("image")({"image": image})["image"].meta == before


def test_item_without_the_image_is_refused() -> None:
    with pytest.raises(KeyError, match="image"):
        NameOutputd("image")({"name": "a"})


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

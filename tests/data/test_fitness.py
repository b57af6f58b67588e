"""An image that a task's network was not trained for is recognised by its header and its intensity range."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from tests.support.paths import ROOT
from tskd_monai.data.fitness import ImageExtent, image_extent, ranges_over, unlike_most, unlike_training
from tskd_monai.data.task import Intensity, Task, TrainingImages, load_task

MakeTask = Callable[..., Task]
ABDOMEN = TrainingImages((320.0, 380.0), (1.25, 1.5), (5.0, 7.7), (0.0, 995.0))
CT = TrainingImages((350.0, 500.0), (0.7, 0.98), (1.0, 5.0), (-3024.0, 1500.0))
SCAN = ImageExtent(340.0, (1.3, 1.3), 6.0, (2.0, 1200.0))
CT_SCAN = ImageExtent(400.0, (0.8, 0.8), 2.0, (-1000.0, 900.0))


@pytest.fixture
def task(make_task: MakeTask) -> Task:
    return make_task(training_images=ABDOMEN)


@pytest.fixture
def ct(make_task: MakeTask) -> Task:
    return make_task(training_images=CT, intensity=Intensity("hu_window", -160.0, 240.0))


def test_extent_is_of_the_plane_and_of_the_slices() -> None:
    extent = image_extent((256, 200, 30), (1.25, 1.5, 7.0), (0.0, 9.0), 2)
    assert extent == ImageExtent(320.0, (1.25, 1.5), 7.0, (0.0, 9.0))
    assert image_extent((30, 200, 256), (7.0, 1.5, 1.25), (0.0, 9.0), 0) == replace(extent, pixels=(1.5, 1.25))
    assert image_extent((256, 200, 1), (1.25, 1.5, 7.0), (0.0, 9.0), 2).slices is None
    assert image_extent((540, 800, 1), (1.0, 1.0, 1.0), (0.0, 255.0), None) == ImageExtent(
        800.0, (1.0, 1.0), None, (0.0, 255.0)
    )


def test_ranges_hold_the_images_that_they_are_over() -> None:
    images = [SCAN, ImageExtent(300.0, (0.9, 1.4), None, (-5.0, 800.0))]
    assert ranges_over(images) == TrainingImages((300.0, 340.0), (0.9, 1.4), (6.0, 6.0), (-5.0, 1200.0))
    assert ranges_over(images[1:]).slice_mm is None


@pytest.mark.parametrize(
    "image",
    [
        SCAN,
        replace(SCAN, field_of_view=450.0, pixels=(0.65, 0.65)),
        replace(SCAN, field_of_view=220.0, slices=2.0),
        replace(SCAN, values=(20.0, 60000.0)),  # another scanner's scale
        replace(SCAN, values=(-1.5, 5.0)),  # normalised
        replace(SCAN, slices=None),
    ],
    ids=["usual", "large patient", "child", "another scale", "normalised", "one slice"],
)
def test_ordinary_variation_is_not_remarked_on(task: Task, image: ImageExtent) -> None:
    assert unlike_training(image, task) == []


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (replace(SCAN, field_of_view=40.0), "field of view 40 mm, in training 320 to 380 mm"),
        (replace(SCAN, field_of_view=1800.0), "field of view 1800 mm, in training"),
        (replace(SCAN, pixels=(1.3, 12.5)), "pixel spacing 1.3 to 12.5 mm, in training 1.25 to 1.5 mm"),
        (replace(SCAN, slices=5000.0), "slice distance 5000 mm, in training 5 to 7.7 mm"),
        (replace(SCAN, values=(-1000.0, 1500.0)), "values -1000 to 1500, in training 0 to 995"),
    ],
)
def test_an_image_of_another_kind_is_reported_by_what_differs(task: Task, image: ImageExtent, message: str) -> None:
    (found,) = unlike_training(image, task)
    assert message in found


@pytest.mark.parametrize(
    "values", [(-1000.0, 900.0), (-3024.0, 3500.0), (-600.0, 300.0)], ids=["usual", "padding and metal", "trunk"]
)
def test_ordinary_hu_are_not_remarked_on(ct: Task, values: tuple[float, float]) -> None:
    assert unlike_training(replace(CT_SCAN, values=values), ct) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0.0, 1.0), "values 0 to 1 span hardly any of the intensity window -160 to 240"),
        ((24.0, 1924.0), "values 24 to 1924, in training -3024 to 1500"),  # shifted by 1024
        ((-2024.0, -200.0), "values -2024 to -200 lie outside the intensity window -160 to 240"),
        ((0.0, 255.0), "values 0 to 255, in training"),
        ((300.0, 60000.0), "lie outside the intensity window"),
        ((-1000.0, 60000.0), "values -1000 to 60,000, in training"),
    ],
)
def test_other_values_than_hu_are_reported(ct: Task, values: tuple[float, float], message: str) -> None:
    assert message in "; ".join(unlike_training(replace(CT_SCAN, values=values), ct))


def test_an_empty_window_is_reported_without_training_images(ct: Task, make_task: MakeTask) -> None:
    old = replace(ct, training_images=None)
    assert unlike_training(replace(CT_SCAN, values=(0.0, 1.0)), old)
    assert unlike_training(replace(CT_SCAN, values=(-2024.0, -200.0), field_of_view=1.0), old)
    assert unlike_training(replace(CT_SCAN, field_of_view=1.0), old) == []
    assert unlike_training(replace(SCAN, values=(-1000.0, 900.0)), make_task()) == []
    colour = make_task(axcodes=None, channels=3, intensity=Intensity("rgb", 0, 255))
    assert unlike_training(ImageExtent(384.0, (1.0, 1.0), None, (0.0, 1.0)), colour)


def test_a_training_image_that_is_unlike_the_others_is_named() -> None:
    others = {str(number): replace(SCAN, field_of_view=300.0 + number) for number in range(5)}
    assert unlike_most(others, "mm") == {}
    odd = {**others, "metres": ImageExtent(340000.0, (1300.0, 1300.0), 6.0, SCAN.values)}
    (findings,) = unlike_most(odd, "mm").values()
    assert list(unlike_most(odd, "mm")) == ["metres"]
    assert findings[0].startswith("field of view 340,000 mm, in training 302.5 mm")
    assert findings[1].startswith("pixel spacing 1300 mm, in training 1.3 mm")


def test_pixels_are_not_called_mm(make_task: MakeTask) -> None:
    known = TrainingImages((800.0, 800.0), (1.0, 1.0), None, (0.0, 250.0))
    task = make_task(axcodes=None, training_images=known)
    found = unlike_training(ImageExtent(99.0, (1.0, 1.0), None, (0.0, 200.0)), task)
    assert found == ["field of view 99 pixels, in training 800 pixels"]


def _extents(folder: Path, sections: tuple[str, ...], flat: bool) -> Iterator[ImageExtent]:
    datalist = json.loads((folder / "datalist.json").read_text())
    for entry in (entry for section in sections for entry in datalist[section]):
        path = folder / entry["image"]
        if flat:
            with Image.open(path) as image:
                array, spacing = np.asarray(image), (1.0, 1.0, 1.0)
        else:
            volume = nib.load(path)
            array, spacing = np.asarray(volume.dataobj)[..., ::4], volume.header.get_zooms()
            spacing = (*spacing[:2], spacing[2])
        values = tuple(np.percentile(array, [0.5, 99.5]).tolist())
        yield image_extent((*array.shape[:2], 1 if flat else 9), spacing, values, None if flat else 2)


REAL = {"chaos_t2spir": False, "msd_hippocampus": False, "hc18": True, "ph2": True, "chase_db1": True}


@pytest.fixture(scope="module")
def real_tasks(real_data: Path, make_task: MakeTask) -> dict[str, Task]:
    """Returns a task for each real dataset with the ranges of its training images."""
    return {
        name: make_task(
            axcodes=None if flat else "PLS",
            training_images=ranges_over(list(_extents(real_data / name, ("training",), flat))),
        )
        for name, flat in REAL.items()
    }


@pytest.mark.slow
def test_no_real_image_is_unlike_its_own_training_images(real_data: Path, real_tasks: dict[str, Task]) -> None:
    for name, flat in REAL.items():
        unlike = [
            found
            for extent in _extents(real_data / name, ("validation", "test"), flat)
            if (found := unlike_training(extent, real_tasks[name]))
        ]
        assert unlike == [], name


@pytest.mark.parametrize(
    ("trained_on", "sent"),
    [("chaos_t2spir", "msd_hippocampus"), ("msd_hippocampus", "chaos_t2spir"), ("ph2", "chase_db1"),
     ("chase_db1", "ph2")],
)  # fmt: skip
def test_every_image_of_another_dataset_of_the_kind_is_reported(
    real_data: Path, real_tasks: dict[str, Task], trained_on: str, sent: str
) -> None:
    extents = _extents(real_data / sent, ("validation", "test"), REAL[sent])
    assert all(unlike_training(extent, real_tasks[trained_on]) for extent in extents)


def test_shipped_student_knows_its_training_images(real_data: Path) -> None:
    task = load_task(ROOT / "bundles/segmentation/configs/task.json")
    images = list(_extents(real_data / "chaos_t2spir", ("training", "validation"), flat=False))
    assert task.training_images is not None
    assert task.training_images.field_of_view_mm == ranges_over(images).field_of_view_mm
    assert task.training_images.slice_mm == ranges_over(images).slice_mm

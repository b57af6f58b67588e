"""The images of the stage, with label maps on their grid and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from tskd_monai.data.datalist import load_datalist
from tskd_monai.data.planning.rules import plan_task
from tskd_monai.data.task import Task
from tskd_monai.datasets.phantom.study import write_study
from tskd_monai.distillation.target_images import TargetImages, load_target_images
from tskd_monai.distillation.transfer_dataset import transfer_dataset
from tskd_monai.transforms.pipelines import training_preprocessing

SLICES = 4


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a dataset of two training cases and one validation case, with a folder of the labels by case."""
    folder = tmp_path_factory.mktemp("study")
    sections = {"training": 2, "validation": 1}
    write_study(folder, seed=3, sections=sections, shape=(32, 32, SLICES), spacing=(10.8, 10.8, 40.0))
    (folder / "maps").mkdir()
    for section in sections:
        for entry in load_datalist(folder / "datalist.json")[section]:
            shutil.copy(entry["label"], folder / "maps" / f"{entry['case']}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def task(study: Path) -> Task:
    return plan_task(load_datalist(study / "datalist.json"), image_size=32)


def load(study: Path, task: Task, **changes: object) -> TargetImages:
    return load_target_images(study / "datalist.json", task, training_preprocessing(task, ["image"]), **changes)  # type: ignore[arg-type]


def test_images_are_those_that_the_student_sees(study: Path, task: Task) -> None:
    seen = transfer_dataset(study / "datalist.json", task, training_preprocessing(task, ["image"]), None)
    for label_maps in (None, study / "maps"):
        found = load(study, task, label_maps=label_maps).transfer
        assert len(found) == len(seen) == 2 * SLICES
        for item, expected in zip(found, seen, strict=True):
            assert torch.equal(item.image, expected["image"])  # to the last bit: images are found by their hash
            assert (item.given is None) == (label_maps is None) and item.label is None


def test_label_maps_become_classes_on_the_grid_of_the_image(study: Path, task: Task) -> None:
    images = load(study, task, label_maps=study / "maps")
    assert images.label_maps is not None and images.label_maps.confidence == 0.9
    assert len(images.measured) == SLICES
    for item in images.measured:  # its map is a copy of its label
        assert item.given is not None and item.label is not None and torch.equal(item.given, item.label)
    assert max(int(item.given.max()) for item in images.transfer if item.given is not None) == task.num_classes - 1


def test_only_cases_with_a_map_are_measured(study: Path, task: Task, tmp_path: Path) -> None:
    datalist = load_datalist(study / "datalist.json")
    for entry in datalist["training"]:
        shutil.copy(study / "maps" / f"{entry['case']}.nii.gz", tmp_path)
    assert load(study, task, label_maps=tmp_path).measured == []
    assert load(study, task, measure=None).measured == []


def test_a_map_on_another_grid_is_refused(study: Path, task: Task, tmp_path: Path) -> None:
    shutil.copytree(study / "maps", tmp_path, dirs_exist_ok=True)
    entry = load_datalist(study / "datalist.json")["training"][1]
    path = tmp_path / f"{entry['case']}.nii.gz"
    file = nib.load(path)
    moved = file.affine.copy()
    moved[0, 3] += 5
    nib.save(nib.Nifti1Image(np.asarray(file.dataobj), moved), path)
    with pytest.raises(RuntimeError) as raised:
        load(study, task, label_maps=tmp_path)
    cause: BaseException = raised.value
    while cause.__cause__ is not None:
        cause = cause.__cause__
    assert f"label {path.name} of image" in str(cause) and "moves a corner by 5 mm" in str(cause)


def test_synthetic_images_need_a_teacher(study: Path, task: Task, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Expected a teacher for the synthetic images, which have no label map"):
        load(study, task, label_maps=study / "maps", transfer_set=tmp_path, has_teacher=False)

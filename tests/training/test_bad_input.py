"""Faults in the data are reported when the documented training command starts, by file and case."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigWorkflow

from tests.support.paths import ROOT
from tskd_monai.bundle.student import write_student_bundle
from tskd_monai.data.datalist import load_datalist
from tskd_monai.data.planning.rules import plan_task
from tskd_monai.data.slices import SliceDataset
from tskd_monai.data.task import Task, load_task, save_task
from tskd_monai.datasets.phantom.study import write_study
from tskd_monai.files.json_files import write_json
from tskd_monai.networks import bfloat16
from tskd_monai.networks.teacher_builder import build_teacher
from tskd_monai.networks.teacher_folder import save_teacher

pytestmark = pytest.mark.slow

BUNDLES = ROOT / "bundles"
SHORT = {"epoch_length": 1, "max_epochs": 1, "batch_size": 2, "val_interval": 1}
Change = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a valid dataset: datalist.json, task.json, and a training and a validation case."""
    folder = tmp_path_factory.mktemp("study")
    write_study(folder, seed=3, sections={"training": 1, "validation": 1}, shape=(48, 48, 6), spacing=(7.2, 7.2, 27.0))
    save_task(plan_task(load_datalist(folder / "datalist.json"), image_size=48), folder / "task.json")
    return folder


def damaged(study: Path, folder: Path, name: str, change: Change) -> Path:
    """Returns the datalist of the dataset with one file changed, such as `training_image`: its voxels and affine."""
    datalist = load_datalist(study / "datalist.json")
    section, key = name.split("_")
    entry = datalist[section][0]
    file = nib.load(entry[key])
    voxels, affine = change(np.asarray(file.dataobj, dtype=np.float32).copy(), file.affine.copy())
    entry[key] = str(folder / f"{name}.nii.gz")
    nib.save(nib.Nifti1Image(voxels, affine), entry[key])
    return write_list(folder, datalist)


def write_list(folder: Path, datalist: dict[str, Any]) -> Path:
    path = folder / "datalist.json"
    path.write_text(json.dumps(datalist))
    return path


def train(folder: Path, datalist: Path, task: Path, bundle: str = "teacher_lora", **options: Any) -> None:
    """Run train.yaml as the bundle's runner does."""
    workflow = ConfigWorkflow(
        config_file=str(BUNDLES / bundle / "configs/train.yaml"),
        meta_file=str(BUNDLES / bundle / "configs/metadata.json"),
        logging_file=False,
        workflow_type="train",
        bundle_root=str(BUNDLES / bundle),
        datalist=str(datalist),
        task=str(task),
        output_dir=str(folder / "output"),
        **{**SHORT, **options},
    )
    workflow.initialize()
    workflow.run()


def refusal(folder: Path, datalist: Path, task: Path, **options: Any) -> str:
    """Returns the message that the run ends with, without MONAI's wrapper."""
    with pytest.raises(Exception, match=".") as caught:
        train(folder, datalist, task, **options)
    error: BaseException | None = caught.value
    while error is not None and not isinstance(error, ValueError | FileNotFoundError):
        error = error.__cause__
    assert error is not None, repr(caught.value)
    assert not (folder / "output" / "record.json").exists()
    return str(error)


def test_a_sound_study_trains(study: Path, tmp_path: Path) -> None:
    train(tmp_path, damaged(study, tmp_path, "training_image", lambda v, a: (v, a)), study / "task.json")
    assert (tmp_path / "output" / "record.json").is_file()


def _one(value: float) -> Change:
    def change(voxels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        voxels[20, 20, 2] = value
        return voxels, affine

    return change


def _shifted(voxels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    affine[2, 3] += 27.0
    return voxels, affine


DAMAGE: dict[str, tuple[str, Change, str]] = {
    "undeclared label": (
        "training_label",
        _one(9),
        r"expected label values \[0, 1, 2, 3, 4\], found also \[9\]\. Dec",
    ),
    "fractional label": ("training_label", _one(1.4), r"expected label values .*, found also \[1\.39"),
    "label that is no number": ("training_label", _one(np.nan), r"expected label values .*, found also \[nan\]"),
    "undeclared label in validation": ("validation_label", _one(9), r"expected label values .*, found also \[9\]"),
    "NaN": ("training_image", _one(np.nan), r"expected finite voxels in a labelled image, found 1 that are NaN"),
    "infinity": ("validation_image", _one(np.inf), r"expected finite voxels in a labelled image, found 1 that are"),
    "shape": ("training_label", lambda v, a: (v[:-1], a), r"expected shape \(48, 48, 6\), found \(47, 48, 6\)\. Resam"),
    "affine": (
        "training_label",
        _shifted,
        r"expected the image's affine, found one that moves a corner by 27 mm\. Resample",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_file_is_named(study: Path, tmp_path: Path, case: str) -> None:
    name, change, expected = DAMAGE[case]
    message = refusal(tmp_path, damaged(study, tmp_path, name, change), study / "task.json")
    assert re.search(rf"{name}\.nii\.gz.*: {expected}", message), message
    assert str(tmp_path) not in message


def test_a_task_of_more_classes_than_the_labels_have_is_refused(study: Path, tmp_path: Path) -> None:
    datalist = damaged(study, tmp_path, "training_label", lambda v, a: (np.where(v == 4, 0, v), a))
    message = refusal(tmp_path, datalist, study / "task.json")
    assert "Expected the 5 classes of the task phantom in the training labels, found no voxel of 4 (spleen)" in message


def test_a_task_of_fewer_classes_is_refused(study: Path, tmp_path: Path) -> None:
    content = json.loads((study / "task.json").read_text())
    (tmp_path / "task.json").write_text(
        json.dumps({**content, "labels": content["labels"][:3], "class_frequencies": [], "keep_largest_component": []})
    )
    message = refusal(tmp_path, study / "datalist.json", tmp_path / "task.json")
    assert re.search(r"phantom_000\.nii\.gz: expected label values \[0, 1, 2\], found also \[3, 4\]", message)


def test_an_empty_training_list_is_refused(study: Path, tmp_path: Path) -> None:
    datalist = {**load_datalist(study / "datalist.json"), "training": []}
    message = refusal(tmp_path, write_list(tmp_path, datalist), study / "task.json")
    assert re.search(r"datalist\.json: expected entries in `training`, found none", message)


@pytest.mark.parametrize("size", [0, 40])
def test_an_image_size_that_no_encoder_has_is_refused(study: Path, tmp_path: Path, size: int) -> None:
    content = json.loads((study / "task.json").read_text())
    (tmp_path / "task.json").write_text(json.dumps({**content, "image_size": [size, size]}))
    message = refusal(tmp_path, study / "datalist.json", tmp_path / "task.json")
    assert re.search(
        rf"task\.json: expected two positive multiples of 16 up to 4096 in `image_size`, found .*{size}", message
    )


@pytest.mark.parametrize("size", [2, 7, 80])
def test_images_of_any_size_train(study: Path, tmp_path: Path, size: int) -> None:
    content = json.loads((study / "task.json").read_text())
    task = {**content, "class_frequencies": [1.0, 0.0, 0.0, 0.0, 0.0], "foreground_oversampling": 0.0}
    (tmp_path / "task.json").write_text(json.dumps(task))
    datalist = load_datalist(study / "datalist.json")
    for section in ("training", "validation"):
        for key in ("image", "label"):
            path = tmp_path / f"{section}_{key}.nii.gz"
            voxels = np.arange(size * size * 2, dtype=np.float32).reshape(size, size, 2)
            nib.save(nib.Nifti1Image(voxels * (key == "image"), np.diag([7.2, 7.2, 27.0, 1])), path)
            datalist[section][0][key] = str(path)
    train(tmp_path, write_list(tmp_path, datalist), tmp_path / "task.json")
    assert (tmp_path / "output" / "record.json").is_file()


def test_options_that_do_not_exist_are_refused(study: Path, tmp_path: Path) -> None:
    for options, expected in (
        ({"precision": "float16"}, "Expected --precision float32, bfloat16 or auto, found float16"),
        ({"lr_schedule": "step"}, "Expected --lr_schedule cosine or poly, found step"),
        ({"patience": 0}, "Expected --patience of at least 1 validation, or None, found 0"),
    ):
        assert expected in refusal(tmp_path, study / "datalist.json", study / "task.json", **options)


def test_bfloat16_is_refused_before_an_image_is_read(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bfloat16, "cpu_capabilities", lambda: {"avx2": True, "cpu_name": "Old Xeon"})
    monkeypatch.setattr(SliceDataset, "__init__", None)
    start = time.process_time()
    for bundle in ("teacher_lora", "diffusion_synthesis", "distillation"):
        message = refusal(tmp_path, study / "datalist.json", study / "task.json", bundle=bundle, precision="bfloat16")
        assert "computes in bfloat16" in message and "found Old Xeon" in message
    assert time.process_time() - start < 3
    assert not (tmp_path / "output").exists()


# Distillation: the teacher, the transfer set and the cache must match the task.


def write_teacher(folder: Path, task: Task) -> Path:
    """Writes an untrained teacher."""
    teacher = build_teacher(
        encoder="sam_demo",
        encoder_weights="random",
        image_size=task.image_size,
        num_classes=task.num_classes,
        decoder="light",
        rank=2,
        seed=3,
    )
    save_teacher(teacher, folder, task_hash=task.hash)
    return folder


def distillation_refusal(study: Path, folder: Path, teacher_dir: Path, **options: Any) -> str:
    """Returns the message that a distillation run ends with, before any training or teacher prediction."""
    files = (study / "datalist.json", study / "task.json")
    message = refusal(folder, *files, bundle="distillation", teacher_dir=str(teacher_dir), **options)
    assert not (folder / "output" / "last.pt").exists()
    assert not list(folder.rglob("*.npz"))
    return message


def test_a_missing_teacher_is_named(study: Path, tmp_path: Path) -> None:
    message = distillation_refusal(study, tmp_path, tmp_path / "nowhere")
    assert re.search(r"Expected the teacher's folder at --teacher_dir .*nowhere, found none; train one with", message)


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "online"])
def test_a_teacher_of_another_task_is_refused(study: Path, tmp_path: Path, cached: bool) -> None:
    task = load_task(study / "task.json")
    other = replace(task, name="another study")
    options = {} if cached else {"cache_dir": "$None"}
    message = distillation_refusal(study, tmp_path, write_teacher(tmp_path / "teacher", other), **options)
    assert f"was trained for task {other.hash[:12]}, this is task {task.hash[:12]}; train a teacher for it" in message


def test_a_student_of_another_task_is_no_teacher(study: Path, tmp_path: Path) -> None:
    task = load_task(study / "task.json")
    other = replace(task, name="another study")
    write_student_bundle(BUNDLES / "segmentation", tmp_path / "control", other, "compact_unet_small", {})
    message = distillation_refusal(study, tmp_path, tmp_path / "control")
    assert f"student bundle control was made for another task: expected task hash {task.hash[:12]}" in message


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "online"])
def test_a_transfer_set_of_another_spacing_is_refused(study: Path, tmp_path: Path, cached: bool) -> None:
    task = load_task(study / "task.json")
    other = replace(task, pixdim=(2 * task.pixdim[0], task.pixdim[1]))
    manifest = {
        "format_version": 2,
        "task_hash": other.hash,
        "checkpoint_sha256": "0" * 64,
        "image_size": list(other.image_size),
        "channels": 1,
        "pixdim": list(other.pixdim),
        "sampler": "ddim",
        "num_inference_steps": 2,
        "batch_size": 1,
        "base_seed": 0,
        "condition": {"kind": "none"},
        "unlabeled": [],
    }
    write_json(tmp_path / "set" / "transfer_set.json", manifest)
    options = {"transfer_set": str(tmp_path / "set"), **({} if cached else {"cache_dir": "$None"})}
    message = distillation_refusal(study, tmp_path, write_teacher(tmp_path / "teacher", task), **options)
    assert re.search(
        rf"Expected a transfer set of task {task.hash} .*, found one of task {other.hash}; sample", message
    )


def test_a_file_instead_of_the_cache_folder_is_refused(study: Path, tmp_path: Path) -> None:
    (tmp_path / "targets").write_text("")
    teacher = write_teacher(tmp_path / "teacher", load_task(study / "task.json"))
    message = distillation_refusal(study, tmp_path, teacher, cache_dir=str(tmp_path / "targets"))
    assert re.search(r"Expected a folder at --cache_dir .*targets, found a file; choose another folder", message)

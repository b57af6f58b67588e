from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tskd_monai.bundle.student import student_settings, write_student_bundle
from tskd_monai.bundle.zoo.contents import BUNDLES, Trained, place_student, place_teacher
from tskd_monai.data.task import Task, load_task, save_task
from tskd_monai.files.json_files import write_json
from tskd_monai.networks.students import build_student
from tskd_monai.networks.teacher_builder import build_teacher
from tskd_monai.networks.teacher_folder import load_teacher, save_teacher


def test_student_comes_with_its_task_size_and_classes(tmp_path: Path, make_task: Callable[..., Task]) -> None:
    task = make_task(image_size=(32, 32))
    network = build_student("compact_unet_base", 1, task.num_classes, task.image_size)
    write_student_bundle(
        BUNDLES / "segmentation", tmp_path / "student", task, "compact_unet_base", network.state_dict()
    )
    contents = place_student(Trained(tmp_path / "student"), tmp_path / "export")
    assert contents.task == load_task(tmp_path / "export" / "configs" / "task.json") == task
    assert contents.settings["inference.json"] == student_settings(task, "compact_unet_base")
    assert contents.metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == [32, 32]
    assert "liver, spleen" in contents.metadata["task"]
    assert contents.metadata["authors"] == "Not stated by those who trained it."


def test_weights_of_another_student_are_refused(tmp_path: Path, make_task: Callable[..., Task]) -> None:
    weights = build_student("compact_unet_base", 1, 3, (32, 48)).state_dict()
    write_student_bundle(BUNDLES / "segmentation", tmp_path, make_task(), "compact_unet_small", weights)
    with pytest.raises(ValueError, match=r"Weights in the student bundle .* do not fit UNet: unexpected"):
        place_student(Trained(tmp_path), tmp_path / "export")


def test_teacher_is_whole_in_its_folder_and_in_one_file(tmp_path: Path, make_task: Callable[..., Task]) -> None:
    task = make_task(image_size=(32, 32))
    teacher = build_teacher(
        encoder="sam_demo", encoder_weights="shipped", image_size=(32, 32), num_classes=task.num_classes
    )
    save_teacher(teacher, tmp_path / "teacher", task_hash=task.hash)
    save_task(task, tmp_path / "teacher" / "task.json")
    contents = place_teacher(Trained(tmp_path / "teacher"), tmp_path / "export")
    models = tmp_path / "export" / "models"
    assert contents.metadata["authors"] == "Not stated by those who trained it."
    placed = load_teacher(models / "teacher", models / "demo_sam_encoder.safetensors", task_hash=task.hash)
    weights = torch.load(models / "model.pt", weights_only=True)
    assert placed.load_state_dict(weights).missing_keys == []


def test_teacher_of_published_weights_requires_their_file(tmp_path: Path, make_task: Callable[..., Task]) -> None:
    task = make_task()
    save_task(task, tmp_path / "task.json")
    record = {"format_version": 1, "task_hash": task.hash, "base_encoder_sha256": "a" * 64, "files": {}, "record": {}}
    spec = {"encoder_weights": "sam_vit_b.pth", "weights_sha256": "0123456789abcdef"}
    write_json(tmp_path / "teacher.json", {**record, "spec": spec})
    with pytest.raises(ValueError, match=r"Expected --encoder-weights .*sam_vit_b\.pth, sha256 0123456789ab"):
        place_teacher(Trained(tmp_path, tmp_path / "task.json"), tmp_path / "export")

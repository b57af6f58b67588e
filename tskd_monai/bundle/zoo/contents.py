"""Copies the results of a training run into an exported bundle: weights, task, and the settings that point to them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tskd_monai.bundle.student import OWNER, fill_data_format, load_student_weights, student_settings
from tskd_monai.data.task import Task, load_task, save_task
from tskd_monai.files.json_files import read_json, write_json
from tskd_monai.files.shipped import BUNDLES
from tskd_monai.networks.students import build_student
from tskd_monai.networks.teacher_folder import RECORD_FILE, load_teacher, read_teacher_record
from tskd_monai.networks.weights_file import load_strictly
from tskd_monai.training.checkpoint import save_checkpoint

WEIGHTS = Path("models") / "model.pt"
TASK = Path("configs") / "task.json"
DEMO_ENCODER = Path("models") / "demo_sam_encoder.safetensors"
OWN_TASK = "$@bundle_root + '/configs/task.json'"
OWN_MODELS = "$@bundle_root + '/models"
UNSTORED = ("shipped", "random", "None")
"""Encoder weights that are not a file of the user's."""


@dataclass(frozen=True)
class Trained:
    """What the user has trained.

    Attributes:
        weights: folder of a student bundle, a teacher or a diffusion model; None: the shipped student.
        task: `task.json`, if the folder does not contain it.
        encoder_weights: file of the foundation model that a teacher was trained from, unless it is the shipped one.
    """

    weights: Path | None
    task: Path | None = None
    encoder_weights: Path | None = None


@dataclass(frozen=True)
class Contents:
    """What was copied into the bundle.

    Attributes:
        task: the task that the weights were trained for.
        metadata: metadata of the bundle, with the task's channels and classes.
        settings: new values of top-level ids, by config.
    """

    task: Task
    metadata: dict[str, Any]
    settings: Mapping[str, Mapping[str, Any]]


def bundle_of(folder: Path | None) -> str:
    """Returns the bundle that runs what a training run wrote into a folder; None: the shipped student."""
    if folder is not None and (folder / RECORD_FILE).is_file():
        return "teacher_lora"
    if folder is not None and (folder / "pipeline").is_dir():
        return "diffusion_synthesis"
    return "segmentation"


def place_student(trained: Trained, folder: Path) -> Contents:
    """Copies a student into the `segmentation` bundle."""
    source = trained.weights or BUNDLES / "segmentation"
    student, task = _copy_student(source, folder)
    own = read_json(source / "configs" / "metadata.json")
    metadata = _metadata("segmentation") | {key: own[key] for key in ("name", "task", "description", *OWNER)}
    settings = {name: student_settings(task, student) for name in ("inference.json", "train.json")}
    return Contents(task, fill_data_format(metadata, task, task.neighbours), settings)


def place_distilled(trained: Trained, folder: Path) -> Contents:
    """Copies a student into the `distillation` bundle, which segments with it and distils others."""
    student, task = _copy_student(_needed(trained, "distillation", "a student"), folder)
    _copy(BUNDLES / "teacher_lora" / DEMO_ENCODER, folder / DEMO_ENCODER)
    metadata = fill_data_format(_metadata("distillation") | OWNER, task, task.neighbours)
    return Contents(task, metadata, {"inference.json": student_settings(task, student)})


def place_teacher(trained: Trained, folder: Path) -> Contents:
    """Copies a teacher, and the weights it was trained from, into the `teacher_lora` bundle.

    `models/model.pt` repeats all of them in one file, for tools that expect one.
    """
    source = _needed(trained, "teacher_lora", "a teacher")
    task = _own_task(trained, source, "teacher_lora")
    record = read_teacher_record(source)
    recorded = str(record["spec"]["encoder_weights"])
    if recorded not in UNSTORED and trained.encoder_weights is None:
        raise ValueError(
            f"Expected --encoder-weights with the file that the teacher in {source} was trained from ({recorded}, "
            f"sha256 {record['spec']['weights_sha256'][:12]}), found none; the bundle must contain it."
        )
    teacher = load_teacher(source, trained.encoder_weights, task_hash=task.hash)
    for path in (RECORD_FILE, *record["files"]):
        _copy(source / path, folder / "models" / "teacher" / path)
    settings = {"task": OWN_TASK, "teacher_dir": f"{OWN_MODELS}/teacher'"}
    _copy(BUNDLES / "teacher_lora" / DEMO_ENCODER, folder / DEMO_ENCODER)
    if trained.encoder_weights is not None:
        _copy(trained.encoder_weights, folder / "models" / trained.encoder_weights.name)
        record["spec"]["encoder_weights"] = trained.encoder_weights.name
        write_json(folder / "models" / "teacher" / RECORD_FILE, record)
        settings["encoder_weights"] = f"{OWN_MODELS}/{trained.encoder_weights.name}'"
    save_checkpoint(teacher.state_dict(), folder / WEIGHTS)
    save_task(task, folder / TASK)
    return Contents(task, fill_data_format(_metadata("teacher_lora") | OWNER, task), {"inference.yaml": settings})


def place_diffusion(trained: Trained, folder: Path) -> Contents:
    """Copies a diffusion model into the `diffusion_synthesis` bundle; `models/model.pt` repeats its U-Net."""
    from tskd_monai.synthesis.pipeline_folder import load_diffusion_pipeline

    source = _needed(trained, "diffusion_synthesis", "a diffusion model")
    task = _own_task(trained, source, "diffusion_synthesis")
    model = load_diffusion_pipeline(source / "pipeline", task.hash)
    shutil.copytree(source / "pipeline", folder / "models" / "pipeline")
    _copy(BUNDLES / "teacher_lora" / DEMO_ENCODER, folder / DEMO_ENCODER)
    save_checkpoint(model.unet.state_dict(), folder / WEIGHTS)
    save_task(task, folder / TASK)
    metadata = _metadata("diffusion_synthesis") | OWNER
    for images in metadata["network_data_format"].values():
        for image in images.values():
            image.update(num_channels=task.channels, spatial_shape=list(task.image_size))
    settings = {"task": OWN_TASK, "diffusion_dir": "$@bundle_root + '/models'"}
    return Contents(task, metadata, {"inference.yaml": settings})


PLACERS: dict[str, Callable[[Trained, Path], Contents]] = {
    "segmentation": place_student,
    "teacher_lora": place_teacher,
    "diffusion_synthesis": place_diffusion,
    "distillation": place_distilled,
}


def _copy_student(source: Path, folder: Path) -> tuple[str, Task]:
    """Copies the weights and task of a student bundle; returns the student's name and its task."""
    if not (source / WEIGHTS).is_file():
        raise FileNotFoundError(
            f"Expected the trained weights at {source / WEIGHTS}, found none; give the folder of a student, a "
            "teacher or a diffusion model, or `shipped`."
        )
    task = load_task(source / TASK)
    student = read_json(source / "configs" / "inference.json")["student"]
    network = build_student(student, task.student_channels, task.num_classes, task.image_size)
    load_strictly(network, load_student_weights(source, task) or {}, f"the student bundle {source.name}")
    _copy(source / WEIGHTS, folder / WEIGHTS)
    save_task(task, folder / TASK)
    return student, task


def _metadata(bundle: str) -> dict[str, Any]:
    metadata: dict[str, Any] = read_json(BUNDLES / bundle / "configs" / "metadata.json")
    return metadata


def _needed(trained: Trained, bundle: str, what: str) -> Path:
    if trained.weights is None:
        raise ValueError(
            f"Expected {what} for the bundle {bundle}, found the shipped student; give a folder that you trained."
        )
    return trained.weights


def _own_task(trained: Trained, source: Path, bundle: str) -> Task:
    """Returns the task that weights were trained for: the named file, or the one in their folder."""
    path = trained.task or source / "task.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected --task with the task.json that {bundle} was trained for, found none at {path}."
        )
    return load_task(path)


def _copy(source: Path, target: Path) -> None:
    if not source.is_file():
        raise FileNotFoundError(f"Expected a file at {source}, found none.")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)

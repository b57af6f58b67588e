"""Every training config of the bundles, on a tiny dataset whose paths and cases are named after a patient."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.support.paths import ROOT
from tskd_monai.bundle.run import BundleRun
from tskd_monai.bundle.student import write_student_bundle
from tskd_monai.data.datalist import load_datalist
from tskd_monai.data.planning.rules import plan_task
from tskd_monai.data.task import Task, load_task, save_task
from tskd_monai.datasets.phantom.study import write_study
from tskd_monai.files.json_files import write_json
from tskd_monai.networks.students import build_student
from tskd_monai.networks.teacher_builder import build_teacher
from tskd_monai.networks.teacher_folder import save_teacher

BUNDLES = ROOT / "bundles"
PATIENT = "Doe_Jane"
SIZE = 32
SHORT = {"epoch_length": 2, "max_epochs": 2, "batch_size": 2, "seed": 5, "device": "cpu"}


@dataclass(frozen=True)
class Training:
    """A training config, the options it requires besides datalist and task, and its dry-run override."""

    bundle: str
    config: str
    dry_run: str
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        return f"{self.bundle}-{self.config.partition('.')[0]}"


TRAININGS = (
    Training("teacher_lora", "train.yaml", "dry_run.yaml", (("lora_rank", 2), ("val_interval", 1))),
    Training("diffusion_synthesis", "train.yaml", "dry_run.yaml", (("block_out_channels", [8, 16]),)),
    Training("distillation", "train.yaml", "dry_run.yaml", (("teacher_dir", "teacher"), ("val_interval", 1))),
    Training("distillation", "fine_tune.yaml", "dry_run_fine_tune.yaml", (("val_interval", 1),)),
    Training("segmentation", "train.json", "dry_run.json", (("val_interval", 1),)),
)


def write_patients(folder: Path) -> Path:
    """Writes a planned dataset, an untrained teacher and an untrained student; returns the dataset's folder.

    Two patients are in `training` and one each in `validation` and `test`; folder and cases contain a name.
    """
    study = folder / PATIENT
    sections = {"training": 2, "validation": 1, "test": 1}
    write_study(study, seed=3, sections=sections, shape=(SIZE, SIZE, 6), spacing=(10.8, 10.8, 27.0))
    datalist = load_datalist(study / "datalist.json")
    for section in sections:
        for entry in datalist[section]:
            entry["case"] = f"{PATIENT}_{entry['case']}"
    write_json(study / "datalist.json", datalist)
    task = plan_task(datalist, image_size=SIZE)
    save_task(task, study / "task.json")
    _write_networks(study, task)
    return study


def _write_networks(study: Path, task: Task) -> None:
    torch.manual_seed(0)
    classes = task.num_classes
    teacher = build_teacher(
        encoder="sam_demo", encoder_weights="random", image_size=task.image_size, num_classes=classes, rank=2, seed=3
    )
    save_teacher(teacher, study / "teacher", task_hash=task.hash)
    student = build_student("compact_unet_small", task.channels, classes, task.image_size)
    write_student_bundle(BUNDLES / "segmentation", study / "student", task, "compact_unet_small", student.state_dict())


def start(training: Training, study: Path, output_dir: Path, *overrides: str, **changes: Any) -> None:
    """Runs a training config as on the command line."""
    root = study / "student" if training.bundle == "segmentation" else BUNDLES / training.bundle
    options = {**SHORT, **dict(training.options), "logging_file": False, "datalist": study / "datalist.json"}
    if "teacher_dir" in options:
        options["teacher_dir"] = study / "teacher"
    if training.bundle != "segmentation":
        options["task"] = study / "task.json"
    BundleRun(root, [training.config, *overrides], {**options, "output_dir": output_dir, **changes}).run_here()


def study_task(study: Path) -> Task:
    """Returns the task of the dataset."""
    return load_task(study / "task.json")

"""The end of a stage: the record of settings, inputs and results, and the folder of a trained teacher."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from monai.engines import SupervisedEvaluator

from tskd_monai.data.task import Task, save_task
from tskd_monai.files.atomic import explained_writing
from tskd_monai.files.checksum import file_sha256
from tskd_monai.files.json_files import write_json
from tskd_monai.networks.cost import count_parameters
from tskd_monai.networks.teacher import VfmSegmenter
from tskd_monai.networks.teacher_folder import save_teacher
from tskd_monai.training.checkpoint import BestCheckpoint, TrainableWeights, load_checkpoint
from tskd_monai.training.component_filters import harmful_filters
from tskd_monai.training.frozen_views import remove_views
from tskd_monai.training.history import TrainingHistory

RECORDED_PACKAGES = ("tskd-monai", "torch", "monai", "pytorch-ignite", "numpy", "peft", "transformers", "diffusers")
A_PATH = "(a path)"


def package_versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that results depend on."""
    versions = {"python": platform.python_version()}
    for name in RECORDED_PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def write_record(
    path: str | Path,
    stage: str,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str | Path],
    results: Mapping[str, Any],
) -> None:
    """Writes a stage's record as JSON; a stage is complete when its record exists.

    Args:
        path: path of the record.
        stage: name of the bundle and step.
        settings: options of the run; paths are not recorded, because folders may be named after patients.
        inputs: files that were read, by name; their sha256 is recorded.
        results: numbers to record.
    """
    record = {
        "stage": stage,
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "settings": {name: A_PATH if _is_path(value) else value for name, value in settings.items()},
        "inputs": {name: file_sha256(file) for name, file in inputs.items()},
        "results": dict(results),
        "versions": package_versions(),
    }
    write_json(path, record)


def _is_path(value: Any) -> bool:
    return isinstance(value, Path) or (isinstance(value, str) and ("/" in value or "\\" in value))


def finish_teacher(
    network: VfmSegmenter,
    best: BestCheckpoint,
    history: TrainingHistory,
    output_dir: str | Path,
    task: Task,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    validator: SupervisedEvaluator,
) -> None:
    """Writes the teacher of the best validation: adapter, decoder, `teacher.json`, `task.json` and `record.json`.

    The written `task.json` omits the largest-component filters that lower the validation Dice of this teacher. Stored
    views are removed: nothing reads them any more, and they hold images of patients.

    Args:
        network: trained segmenter.
        best: checkpoint with the best weights.
        history: history of the training run.
        output_dir: teacher folder.
        task: task of the training run.
        settings: options of the run, for the record.
        inputs: files for the record, by name.
        validator: evaluator of the training run.
    """
    if idist.get_rank():
        return
    TrainableWeights(network).load_state_dict(load_checkpoint(best.path))
    task = replace(task, unfiltered=harmful_filters(network, validator, task))
    results = {
        "val_mean_dice": best.best_metric,
        "best_epoch": best.best_epoch,
        "seconds": history.rows[-1]["seconds"],
        "parameters": count_parameters(network),
        "trainable_parameters": count_parameters(network, trainable_only=True),
    }
    output_dir = Path(output_dir)
    with explained_writing(output_dir / "teacher.json", output_dir / ".probe"):
        save_teacher(network, output_dir, task_hash=task.hash, record=results)
    save_task(task, output_dir / "task.json")
    remove_views(output_dir)
    write_record(output_dir / "record.json", "teacher_lora", settings, inputs, results)

"""The end of a teacher's training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from monai.engines import SupervisedEvaluator

from tskd_monai.data.task import Task, save_task
from tskd_monai.files.atomic import explained_writing
from tskd_monai.networks.segmenter import VfmSegmenter
from tskd_monai.networks.teacher_folder import save_teacher
from tskd_monai.training.checkpoint import BestCheckpoint, TrainableWeights, load_checkpoint
from tskd_monai.training.component_filters import harmful_filters
from tskd_monai.training.history import TrainingHistory
from tskd_monai.training.record import write_record
from tskd_monai.training.samplers import process_rank


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

    Its `task.json` leaves out the largest-component filters that lower the validation Dice of this teacher.

    Args:
        network: the trained segmenter.
        best: where its best weights are.
        history: of the training.
        output_dir: the teacher folder.
        task: it was trained for.
        settings: for the record.
        inputs: files for the record, by name.
        validator: of the training run.
    """
    if process_rank():
        return
    TrainableWeights(network).load_state_dict(load_checkpoint(best.path))
    task = replace(task, unfiltered=harmful_filters(network, validator, task))
    results = {
        "val_mean_dice": best.best_metric,
        "best_epoch": best.best_epoch,
        "seconds": history.rows[-1]["seconds"],
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "trainable_parameters": sum(p.numel() for p in network.parameters() if p.requires_grad),
    }
    output_dir = Path(output_dir)
    with explained_writing(output_dir / "teacher.json", output_dir / ".probe"):
        save_teacher(network, output_dir, task_hash=task.hash, record=results)
    save_task(task, output_dir / "task.json")
    write_record(output_dir / "record.json", "teacher_lora", settings, inputs, results)

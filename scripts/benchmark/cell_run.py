"""Runs one cell: its stages, and the scoring of its model."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch
from cells import SECOND, Cell, data_folder
from predictions import predictions_folder, score_predictions
from results import save_result
from stages import Workplace, checkout_commit, gpu_model

from tskd_monai.evaluation.method_results import kept_numbers
from tskd_monai.evaluation.summary import class_means, finite_mean, read_metrics
from tskd_monai.files.checksum import file_sha256
from tskd_monai.files.json_files import read_json
from tskd_monai.inference.kept_predictions import keep_predictions
from tskd_monai.training.record import package_versions

RESULT_VERSION = 2


def run_cell(cell: Cell, work_dir: Path) -> float:
    """Runs a cell in a folder shared by all cells, saves its result and returns the mean Dice over its patients."""
    torch.set_num_threads(1)
    second = cell.protocol >= SECOND
    if second:
        torch.backends.cudnn.allow_tf32 = False  # a GPU too computes in float32
    workplace = Workplace(work_dir)
    stages, scoring, predictions = workplace.run(cell)
    kept = keep_predictions(predictions, predictions_folder(cell)) if second else {}
    rows = score_predictions(cell, kept) if second else read_metrics(predictions / "metrics.csv")
    training = read_json(workplace.dataset(cell.split).datalist)["training"]
    content = {
        "version": RESULT_VERSION,
        "suite": cell.suite,
        "cell": cell.name,
        "dataset": cell.split.dataset,
        "fold": cell.split.fold,
        "seed": cell.split.seed,
        "method": cell.method,
        "score": cell.score,
        "labelled": {"patients": len({entry["case"] for entry in training}), "slices": cell.split.labelled_slices},
        "image_size": cell.split.image_size,
        "config_hash": cell.config_hash,
        "datalist_sha256": file_sha256(data_folder(cell.split) / "datalist.json"),
        "stages": stages,
        "evaluation_seconds": scoring["seconds"],
        "rows": [kept_numbers(row) for row in rows],
        "versions": {**package_versions(), "commit": checkout_commit()},
        "machine": {"processor": processor(), "cores": os.cpu_count(), "threads": 1, "gpu": gpu_model()},
    }
    if second:
        content |= {"teacher_seed": cell.split.teacher_seed, "student_seed": cell.split.student_seed}
        content |= {"protocol": cell.protocol, "largest_component": cell.largest_component, "predictions": kept}
    save_result(content)
    return finite_mean(class_means(rows).values())


def processor() -> str:
    """Returns the model name of the processor, if the system states it."""
    information = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in information.read_text().splitlines() if "model name" in line]
    return names[0] if names else platform.machine()

"""Runs one cell: its stages, and the scoring of its model."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch
from cells import Cell, data_folder
from results import save_result
from stages import Workplace, checkout_commit, gpu_model

from tskd_monai.evaluation.summary import class_means, finite_mean, read_metrics
from tskd_monai.files.checksum import file_sha256
from tskd_monai.files.json_files import read_json
from tskd_monai.training.record import package_versions

RESULT_VERSION = 2


def run_cell(cell: Cell, work_dir: Path) -> float:
    """Runs a cell in a folder shared by all cells, saves its result and returns the mean Dice over its patients."""
    torch.set_num_threads(1)
    workplace = Workplace(work_dir)
    stages, scoring, metrics_csv = workplace.run(cell)
    rows = read_metrics(metrics_csv)
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
        "rows": [_kept(row) for row in rows],
        "versions": {**package_versions(), "commit": checkout_commit()},
        "machine": {"processor": processor(), "cores": os.cpu_count(), "threads": 1, "gpu": gpu_model()},
    }
    save_result(content)
    return finite_mean(class_means(rows).values())


def _kept(row: dict[str, Any]) -> dict[str, Any]:
    """Returns the row with the numbers that the tables need; an undefined one is None."""
    numbers = {key: None if row[key] != row[key] else round(row[key], 6) for key in ("dice", "hd95_mm", "nsd")}
    return {"case": row["case"], "label": row["label"], "name": row["name"], **numbers, "missed": row["missed"]}


def processor() -> str:
    """Returns the model name of the processor, if the system states it."""
    information = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in information.read_text().splitlines() if "model name" in line]
    return names[0] if names else platform.machine()

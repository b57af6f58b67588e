"""Runs one cell: its stages, the segmentation of the scored section, and its result."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

import torch
from cells import Cell, data_folder
from results import save_result
from stages import BUNDLES, Workplace, checkout_commit, gpu_model, run_bundle

from tskd_monai.evaluation.summary import class_means, finite_mean, read_metrics
from tskd_monai.files.checksum import file_sha256
from tskd_monai.files.json_files import read_json
from tskd_monai.training.record import package_versions

RESULT_VERSION = 2


def run_cell(cell: Cell, work_dir: Path) -> float:
    """Runs a cell in a folder that all cells share, writes its result and returns the mean Dice over its patients."""
    torch.set_num_threads(1)
    workplace = Workplace(work_dir)
    stages = [workplace.run(stage, cell.study) for stage in cell.stage.chain()]
    started = time.monotonic()
    rows = _score(cell, workplace)
    datalist = read_json(workplace.study_files(cell.study)["datalist"])
    content = {
        "version": RESULT_VERSION,
        "suite": cell.suite,
        "cell": cell.name,
        "dataset": cell.study.dataset,
        "fold": cell.study.fold,
        "seed": cell.study.seed,
        "method": cell.method,
        "score": cell.score,
        "labelled": {
            "patients": len({entry["case"] for entry in datalist["training"]}),
            "slices": cell.study.labelled_slices,
        },
        "image_size": cell.study.image_size,
        "config_hash": cell.config_hash,
        "datalist_sha256": file_sha256(data_folder(cell.study) / "datalist.json"),
        "stages": stages,
        "evaluation_seconds": round(time.monotonic() - started, 1),
        "rows": [_kept(row) for row in rows],
        "versions": {**package_versions(), "commit": checkout_commit()},
        "machine": {"processor": processor(), "cores": os.cpu_count(), "threads": 1, "gpu": gpu_model()},
    }
    save_result(content)
    return finite_mean(class_means(rows).values())


def _score(cell: Cell, workplace: Workplace) -> list[dict[str, Any]]:
    """Segments the section by the bundle that the last stage trained, and returns the rows of metrics.csv."""
    model = workplace.output(cell.stage, cell.study)
    predictions = workplace.folder / "predictions" / f"{cell.name}-{cell.config_hash[:12]}"
    datalist = workplace.study_files(cell.study)["datalist"]
    overrides = {"section": cell.score, "output_dir": str(predictions), "datalist": datalist}
    if cell.stage.bundle == "teacher_lora":
        run_bundle(
            BUNDLES / "teacher_lora",
            ("inference.yaml", "evaluate.yaml"),
            {**overrides, "task": str(model / "task.json"), "teacher_dir": str(model)},
        )
    else:
        run_bundle(model, ("inference.json", "evaluate.json"), {**overrides, "resume": False})
    return read_metrics(predictions / "metrics.csv")


def _kept(row: dict[str, Any]) -> dict[str, Any]:
    """The row with the numbers the tables need; an undefined one is None."""
    numbers = {key: None if row[key] != row[key] else round(row[key], 6) for key in ("dice", "hd95_mm", "nsd")}
    return {"case": row["case"], "label": row["label"], "name": row["name"], **numbers, "missed": row["missed"]}


def processor() -> str:
    """Model of the processor, where the system tells it."""
    information = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in information.read_text().splitlines() if "model name" in line]
    return names[0] if names else platform.machine()

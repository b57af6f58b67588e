"""Runs one cell: its stages, the segmentation of the scored section, and its result file."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
from cells import Cell, data_folder
from stages import BUNDLES, Workplace, run_bundle

from tskd_monai.data.atomic import read_json, write_json
from tskd_monai.data.checksum import file_sha256
from tskd_monai.evaluation.summary import class_means, finite_mean, read_metrics
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
        "versions": {**package_versions(), "commit": _commit()},
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "threads": 1},
    }
    write_json(cell.result_file, content)
    return finite_mean(class_means(rows).values())


def _score(cell: Cell, workplace: Workplace) -> list[dict[str, Any]]:
    """Segments the section by the bundle that the last stage trained, and returns the rows of metrics.csv."""
    model, predictions = workplace.output(cell.stage, cell.study), workplace.folder / "predictions" / cell.name
    overrides = {"section": cell.score, "output_dir": str(predictions), **workplace.study_files(cell.study)}
    if cell.stage.bundle == "teacher_lora":
        run_bundle(
            BUNDLES / "teacher_lora", ("inference.yaml", "evaluate.yaml"), {**overrides, "teacher_dir": str(model)}
        )
    else:
        run_bundle(model, ("inference.json", "evaluate.json"), overrides)
    return read_metrics(predictions / "metrics.csv")


def _kept(row: dict[str, Any]) -> dict[str, Any]:
    """The row with the numbers the tables need; an undefined one is None."""
    numbers = {key: None if row[key] != row[key] else round(row[key], 6) for key in ("dice", "hd95_mm", "nsd")}
    return {"case": row["case"], "label": row["label"], "name": row["name"], **numbers, "missed": row["missed"]}


def _commit() -> str:
    """Commit of this checkout, at which a cell runs to the same number; `+` where files have changed since."""
    code = (":/", ":(top,exclude)scripts/benchmark/results")
    head = _git("rev-parse", "HEAD")
    return f"{head}+" if _git("status", "--porcelain", "--untracked-files=no", "--", *code) else head or "unknown"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(BUNDLES), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _processor() -> str:
    """Model of the processor, where the system tells it."""
    information = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in information.read_text().splitlines() if "model name" in line]
    return names[0] if names else platform.machine()

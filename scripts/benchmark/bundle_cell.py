"""Runs one cell: plan, train, segment, score, and its result file."""

from __future__ import annotations

import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import monai.bundle
import torch
from cells import Cell, data_folder, weights_file

from tskd_monai.data.atomic import read_json, write_json
from tskd_monai.data.checksum import file_sha256
from tskd_monai.evaluation.summary import class_means, finite_mean, read_metrics
from tskd_monai.training.record import package_versions

SCRIPTS = Path(__file__).resolve().parents[1]
BUNDLES = SCRIPTS.parent / "bundles"
sys.path.insert(0, str(SCRIPTS))

RESULT_VERSION = 1


def run_cell(cell: Cell, folder: Path) -> float:
    """Runs a cell in a folder, writes its result and returns its mean Dice over the scored patients."""
    torch.set_num_threads(1)
    source, study = _plan(cell, folder)
    training, record = _train(cell, folder, study)
    evaluation, rows = _score(cell, folder, study)
    datalist = read_json(study / "datalist.json")
    content = {
        "version": RESULT_VERSION,
        "suite": cell.suite,
        "cell": cell.name,
        "dataset": cell.dataset,
        "fold": cell.fold,
        "seed": cell.seed,
        "method": cell.method,
        "score": cell.score,
        "labelled": {
            "patients": len({entry["case"] for entry in datalist["training"]}),
            "slices": cell.labelled_slices,
        },
        "settings": cell.settings,
        "config_hash": cell.config_hash,
        "datalist_sha256": file_sha256(source),
        "training": record,
        "seconds": {"training": round(training, 1), "evaluation": round(evaluation, 1)},
        "rows": [_kept(row) for row in rows],
        "versions": package_versions(),
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "threads": 1},
    }
    write_json(cell.result_file, content)
    return finite_mean(class_means(rows).values())


def _plan(cell: Cell, folder: Path) -> tuple[Path, Path]:
    """Writes the cell's study and returns the datalist it comes from and its folder."""
    from plan_task import plan_study

    source = data_folder(cell) / "datalist.json"
    datalist = source
    if cell.labels is not None:
        content = read_json(source)
        for section in ("training", "validation", "test"):
            for entry in content[section]:
                entry.update({key: str(source.parent / entry[key]) for key in ("image", "label")})
        datalist = folder / "datalist.json"
        write_json(datalist, {**content, "labels": cell.labels})
    study = folder / "study"
    plan_study(datalist, study, cell.image_size, labelled_slices=cell.labelled_slices, seed=cell.seed, fold=cell.fold)
    return source, study


def _train(cell: Cell, folder: Path, study: Path) -> tuple[float, dict[str, Any]]:
    started = time.monotonic()
    settings = {**cell.settings, "encoder_weights": weights_file(cell.settings["encoder_weights"])}
    _run(cell, ["train.yaml"], {**settings, "seed": cell.seed, "output_dir": str(folder / "model"), **_study(study)})
    return time.monotonic() - started, read_json(folder / "model" / "record.json")["results"]


def _score(cell: Cell, folder: Path, study: Path) -> tuple[float, list[dict[str, Any]]]:
    started = time.monotonic()
    output_dir = folder / "predictions"
    overrides = {"teacher_dir": str(folder / "model"), "section": cell.score, "output_dir": str(output_dir)}
    _run(cell, ["inference.yaml", "evaluate.yaml"], {**overrides, **_study(study)})
    return time.monotonic() - started, read_metrics(output_dir / "metrics.csv")


def _run(cell: Cell, configs: list[str], overrides: dict[str, Any]) -> None:
    bundle = BUNDLES / cell.bundle
    files = [str(bundle / "configs" / name) for name in configs]
    monai.bundle.run(bundle_root=str(bundle), config_file=files, **overrides)


def _study(study: Path) -> dict[str, str]:
    return {"datalist": str(study / "datalist.json"), "task": str(study / "task.json")}


def _kept(row: dict[str, Any]) -> dict[str, Any]:
    """The row with the numbers the tables need; an undefined one is None."""
    numbers = {key: None if row[key] != row[key] else round(row[key], 6) for key in ("dice", "hd95_mm", "nsd")}
    return {"case": row["case"], "label": row["label"], "name": row["name"], **numbers, "missed": row["missed"]}


def _processor() -> str:
    """Model of the processor, where the system tells it."""
    information = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in information.read_text().splitlines() if "model name" in line]
    return names[0] if names else platform.machine()

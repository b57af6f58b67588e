"""Predictions of the scored cells: kept outside the repository, and scored without the recipe patients."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cells import Cell, data_folder
from recipe import check_scored, recipe_patients

from tskd_monai.data.datalist import load_datalist
from tskd_monai.data.planning.rules import declared_labels
from tskd_monai.inference.kept_predictions import score_kept

VARIABLE = "TSKD_PREDICTIONS"
REPOSITORY = Path(__file__).resolve().parents[2]
RAW_CONFIG = Path(__file__).resolve().with_name("raw_predictions.json")


def predictions_folder(cell: Cell) -> Path:
    """Returns the folder of a cell's predictions.

    Raises:
        ValueError: if `TSKD_PREDICTIONS` is unset or lies in the repository.
    """
    root = os.environ.get(VARIABLE, "")
    if not root or Path(root).resolve().is_relative_to(REPOSITORY):
        raise ValueError(
            f"Expected in {VARIABLE} (or --predictions) a folder outside the repository, found {root or 'nothing'}."
        )
    return Path(root) / cell.suite / f"{cell.name}-{cell.config_hash[:12]}"


def scored_entries(cell: Cell, datalist: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the entries of a datalist that a cell is scored on: of `test`, all but the recipe patients.

    Raises:
        ValueError: if none is left, or a patient of `validation` is no recipe patient.
    """
    known = recipe_patients(cell.split.folder) if cell.score == "test" else []
    entries = [entry for entry in datalist[cell.score] if entry["case"] not in known]
    check_scored([entry["case"] for entry in entries], cell.split.folder, cell.score, cell.name)
    if not entries:
        raise ValueError(f"Expected patients to score in {cell.score} of {cell.name}, found only recipe patients.")
    return entries


def score_predictions(cell: Cell, kept: Mapping[str, str]) -> list[dict[str, Any]]:
    """Returns the metrics of a cell's kept predictions; arguments and errors as `score_kept` and `scored_entries`."""
    datalist = load_datalist(data_folder(cell.split) / "datalist.json", cell.split.fold)
    declared = declared_labels({**datalist, "labels": cell.split.labels or datalist["labels"]})
    labels = {label.value: label.name for label in declared[1:]}
    entries = scored_entries(cell, datalist)
    return score_kept(entries, labels, kept, predictions_folder(cell), cell.largest_component)

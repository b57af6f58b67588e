"""Summaries of a table of metrics: means over patients, never over voxels or slices."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from tskd_monai.evaluation.intervals import bootstrap_mean_interval

Row = dict[str, Any]
METRICS = ("dice", "iou", "hd95_mm", "assd_mm", "nsd")
NUMBERS = (*METRICS, "volume_ml", "reference_volume_ml")
COLUMNS = ("case", "label", "name", *NUMBERS, "missed")
IN_PIXELS = {
    "hd95_mm": ("hd95_px", 1),
    "assd_mm": ("assd_px", 1),
    "volume_ml": ("area_px", 1000),
    "reference_volume_ml": ("reference_area_px", 1000),
}
"""Names of the quantities of 2D image files, which have no mm, in files, and how many of their units a row's value is.

In rows a pixel counts as 1 mm x 1 mm x 1 mm, so that one code compares all images.
"""


def read_metrics(path: Path) -> list[Row]:
    """Returns the rows of a metrics.csv, in mm and mL or in pixels; empty cells are NaN.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if columns are missing, a row is damaged or there are no rows; names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected the metrics of a method at {path}, found no file; run its evaluation first.")
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            found = reader.fieldnames or ()
            names = pixel_names() if "hd95_px" in found else dict(zip(COLUMNS, COLUMNS, strict=True))
            missing = [name for name in names.values() if name not in found]
            rows = [] if missing else [_typed(row, names) for row in reader]
    except (ValueError, csv.Error) as error:  # in the encoding, or in a cell
        raise ValueError(f"Expected the metrics of a method in {path}, found {error}; evaluate again.") from error
    if missing:
        raise ValueError(f"Expected the columns {', '.join(names.values())} in {path}, missing {', '.join(missing)}.")
    if not rows:
        raise ValueError(f"Expected at least one row of metrics in {path}, found none.")
    return rows


def pixel_names() -> dict[str, str]:
    """Returns the column name in pixels for each column name in mm or mL."""
    return {column: IN_PIXELS[column][0] if column in IN_PIXELS else column for column in COLUMNS}


def finite_mean(values: Iterable[float]) -> float:
    """Returns the mean of the values that are not NaN; NaN if there are none."""
    kept = [value for value in values if not math.isnan(value)]
    return fmean(kept) if kept else float("nan")


def values_of_class(rows: Sequence[Row], label: int, metric: str) -> dict[str, float]:
    """Returns case -> the mean of `metric` over that patient's images, for one label; NaN where undefined."""
    values: dict[str, list[float]] = {}
    for row in rows:
        if row["label"] == label:
            values.setdefault(row["case"], []).append(row[metric])
    return {case: finite_mean(of_case) for case, of_case in values.items()}


def class_means(rows: Sequence[Row], metric: str = "dice") -> dict[str, float]:
    """Returns case -> mean of `metric` over the classes, each averaged over the patient's images first."""
    labels = dict.fromkeys(row["label"] for row in rows)
    by_class = [values_of_class(rows, label, metric) for label in labels]
    cases = dict.fromkeys(row["case"] for row in rows)
    return {case: finite_mean(values.get(case, float("nan")) for values in by_class) for case in cases}


def summarise(rows: Sequence[Row], seed: int = 0) -> dict[str, Any]:
    """Returns mean, spread and bootstrap interval over patients, ready for JSON (NaN becomes None).

    Returns:
        "cases": number of patients; "missed": rows where one of prediction and reference is empty;
        for each metric, over patients, of its mean over the classes: "mean", "sd" (sample), "median", "cases" (patients
        with a value), and for "dice" the 95 % bootstrap interval "interval_95"; "classes": the same per class name.
    """
    means = class_means(rows)
    dice = [value for value in means.values() if not math.isnan(value)]
    summary: dict[str, Any] = {"cases": len(means), "missed": sum(row["missed"] for row in rows)}
    for metric in METRICS:
        summary[metric] = _spread(class_means(rows, metric).values())
    summary["dice"]["interval_95"] = [_number(bound) for bound in bootstrap_mean_interval(dice, seed)]
    summary["classes"] = {}
    for label, name in dict.fromkeys((row["label"], row["name"]) for row in rows):
        entry: dict[str, Any] = {"label": label}
        entry["missed"] = sum(row["missed"] for row in rows if row["label"] == label)
        for metric in METRICS:
            entry[metric] = _spread(values_of_class(rows, label, metric).values())
        summary["classes"][name] = entry
    return summary


def _spread(values: Iterable[float]) -> dict[str, Any]:
    kept = [value for value in values if not math.isnan(value)]
    return {
        "mean": fmean(kept) if kept else None,
        "sd": stdev(kept) if len(kept) > 1 else None,
        "median": median(kept) if kept else None,
        "cases": len(kept),
    }


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _typed(row: dict[Any, Any], names: Mapping[str, str]) -> Row:
    """Returns a row with numbers as such; DictReader puts what is too much under None, and None where cells lack."""
    if None in row or None in row.values() or not row["case"] or not row["name"]:
        raise ValueError(f"a row of other cells than {', '.join(names.values())}")
    typed: Row = {"case": row["case"], "label": int(row["label"]), "name": row["name"], "missed": int(row["missed"])}
    for column in NUMBERS:
        cell, parts = row[names[column]], IN_PIXELS[column][1] if names[column] != column else 1
        typed[column] = float(cell) / parts if cell else float("nan")
    return typed

"""Reads the scores of the points, fits the curve, and writes curve.csv, curve.png and curve.html."""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tskd_monai.bundle.stage_store import StageStore
from tskd_monai.commands.curve.command import DISTIL
from tskd_monai.commands.curve.points import Point
from tskd_monai.commands.train.stages import SCORING, PlannedDataset
from tskd_monai.data.datalist import load_datalist
from tskd_monai.evaluation.comparison import count_of_patients
from tskd_monai.evaluation.learning_curve import CurveRun, LearningCurve, fit_curve
from tskd_monai.evaluation.report.curve_page import (
    CurveContent,
    check_sentence,
    write_curve_page,
    write_curve_picture,
)
from tskd_monai.evaluation.summary import Row, class_means, finite_mean, read_metrics, values_of_class
from tskd_monai.files.atomic import atomic_path
from tskd_monai.files.private_files import private_file

NOTES = (
    "A student's best epoch was chosen on the patients that score it, at every point alike; no test patient is scored.",
    "Slices were drawn from the same training patients at every point. Further slices of new patients may bring more "
    "than the curve says.",
)


def write_curve(
    args: argparse.Namespace, store: StageStore, dataset: PlannedDataset, points: Sequence[Point], more: int
) -> str:
    """Writes the curve's files and returns the results as text.

    Args:
        args: the parsed command line.
        store: store whose stages have all finished.
        dataset: dataset with all labelled slices.
        points: training runs of the curve.
        more: further slices of the sentence.

    Raises:
        ValueError: if fewer than two patients have a Dice in every run.
    """
    rows = {point: read_metrics(store.folder(f"{SCORING}{point.student}") / "metrics.csv") for point in points}
    labels = dataset.task.foreground
    write_table(args.output_dir / "curve.csv", rows, labels)
    runs = [CurveRun(point.slices, point.seed, class_means(of_point)) for point, of_point in rows.items()]
    curve = fit_curve(runs)
    write_curve_picture(args.output_dir / "curve.png", curve)
    content = CurveContent(
        title=f"{dataset.task.name}: learning curve",
        summary=_summary(args, dataset),
        curve=curve,
        runs=runs,
        classes={name: _means(rows, value) for value, name in labels.items()},
        patients={point.slices: _patients(store.output_dir, points, point.slices) for point in points},
        more=more,
        settings=_settings(args, dataset),
        notes=NOTES,
    )
    write_curve_page(args.output_dir / "curve.html", content)
    return _text(curve, runs, more)


def write_table(output: Path, rows: Mapping[Point, Sequence[Row]], labels: Mapping[int, str]) -> None:
    """Writes a row for each training run and patient: slices, seed, case, Dice over the classes, and of each class.

    Args:
        output: CSV file.
        rows: metrics of each point.
        labels: value -> name of the classes.
    """
    with atomic_path(output) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["slices", "seed", "case", "dice", *labels.values()])
        for point, of_point in rows.items():
            by_class = [values_of_class(of_point, value, "dice") for value in labels]
            for case, dice in class_means(of_point).items():
                cells = [dice, *(values.get(case, math.nan) for values in by_class)]
                writer.writerow([point.slices, point.seed, case, *(_cell(value) for value in cells)])


def _text(curve: LearningCurve, runs: Sequence[CurveRun], more: int) -> str:
    lines = [f"{'labelled slices':>15} {'Dice':>6}"]
    means = 1 - curve.errors.mean(axis=(0, 2))
    lines += [f"{int(number):15d} {dice:6.3f}" for number, dice in zip(curve.slices, means, strict=True)]
    return "\n".join([*lines, check_sentence(runs), curve.sentence(more)])


def _means(rows: Mapping[Point, Sequence[Row]], label: int) -> dict[int, float]:
    """Returns number of slices -> Dice of a class, mean over patients and seeds."""
    found: dict[int, list[float]] = {}
    for point, of_point in rows.items():
        found.setdefault(point.slices, []).append(finite_mean(values_of_class(of_point, label, "dice").values()))
    return {slices: finite_mean(values) for slices, values in found.items()}


def _patients(output_dir: Path, points: Sequence[Point], slices: int) -> float:
    """Returns the number of patients with a labelled slice at a point, mean over seeds."""
    files = [private_file(output_dir, f"datalist_{point.key}.json") for point in points if point.slices == slices]
    return finite_mean(len({entry["case"] for entry in load_datalist(file)["training"]}) for file in files)


def _summary(args: argparse.Namespace, dataset: PlannedDataset) -> str:
    sections: dict[str, Any] = load_datalist(dataset.datalist)
    training, validation = (len({e["case"] for e in sections[name]}) for name in ("training", "validation"))
    slices = sum(len(entry["slices"]) for entry in sections["training"])
    how = "distilled from a teacher of the same slices" if args.method == DISTIL else "trained from scratch"
    return (
        f"{slices} labelled slices of {count_of_patients(training)}; students {how} on 10, 25, 50 and 100 % of them, "
        f"scored on {count_of_patients(validation)} of the section validation."
    )


def _settings(args: argparse.Namespace, dataset: PlannedDataset) -> dict[str, str]:
    size = dataset.task.image_size
    shown = {"method": args.method, "preset": Path(args.preset).name, "student": args.student}
    teacher = {"teacher": args.teacher.partition("=")[0]} if args.method == DISTIL else {}
    seeds = ", ".join(map(str, range(args.seed, args.seed + args.seeds)))
    return {**shown, **teacher, "seeds": seeds, "image size": f"{size[0]} x {size[1]}"}


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"

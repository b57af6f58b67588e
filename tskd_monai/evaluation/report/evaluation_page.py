"""The report of one evaluation as one HTML file: cases with images, lowest Dice first, classes and volumes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from statistics import fmean, median, stdev

from tskd_monai.data.datalist import load_section
from tskd_monai.data.output_names import NIFTI
from tskd_monai.data.task import Task
from tskd_monai.evaluation.comparison import FEW_PATIENTS
from tskd_monai.evaluation.intervals import bootstrap_mean_interval
from tskd_monai.evaluation.metrics import second_reader_csv
from tskd_monai.evaluation.report.case_panels import case_legend, case_panels
from tskd_monai.evaluation.report.evaluated_cases import EvaluatedCase, evaluated_cases
from tskd_monai.evaluation.report.figures import chart_figure, strip_plot
from tskd_monai.evaluation.report.page import UNKNOWN, filled_page, html_table, settings_and_versions, tiles
from tskd_monai.evaluation.report.unlike_images import unlike_images, unlike_note
from tskd_monai.evaluation.summary import Row, class_means, finite_mean, read_metrics, values_of_class
from tskd_monai.files.atomic import atomic_path

SHOWN = 12  # cases shown with images


def write_evaluation_report(
    task: Task,
    datalist: str | Path,
    section: str,
    output_dir: str | Path,
    fold: int | None = None,
    output_format: str = NIFTI,
) -> Path:
    """Writes `report.html` beside the segmentations and their `metrics.csv`, whole or not at all; returns its path.

    Args:
        task: task of the datalist.
        datalist: file of the datalist.
        section: section that was segmented and scored.
        output_dir: folder with `metrics.csv` and the segmentations.
        fold: fold of the datalist.
        output_format: format of the segmentations.

    Raises:
        FileNotFoundError: if the metrics or a segmentation are missing.
        ValueError: if the metrics are those of another section, or `summary.json` is not as a run writes it.
    """
    output_dir = Path(output_dir)
    rows = read_metrics(output_dir / "metrics.csv")
    second_csv = second_reader_csv(output_dir / "metrics.csv")
    second_rows = read_metrics(second_csv) if second_csv.is_file() else []
    cases = evaluated_cases(task, load_section(datalist, section, fold), rows, output_dir, output_format)
    accuracy = unlike_note(_unlike(cases, output_dir), len(cases)) + _accuracy(task, rows, cases, second_rows)
    page = filled_page(
        title=f"{task.name}: evaluation",
        summary=f"{_count(len(cases), 'image')} of the section {section}, scored on the labels' own grid.",
        headline=_headline(rows, cases),
        tiles=_tiles(task, rows, cases),
        sections=[("Accuracy", accuracy), ("Worst first", _pictures(task, cases)), settings_and_versions({})],
    )
    with atomic_path(output_dir / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    return output_dir / "report.html"


def _unlike(cases: Sequence[EvaluatedCase], output_dir: Path) -> dict[str, str]:
    """Returns how images of the section differ from the training images; the folder may contain other images too."""
    recorded = unlike_images(output_dir)
    return {case.name: recorded[case.name] for case in cases if case.name in recorded}


def class_table(task: Task, rows: Sequence[Row], caption: str = "By class, over patients") -> str:
    """Returns the HTML of Dice, surface distances and missed structures of each class, over patients."""
    unit = "pixels" if task.axcodes is None else "mm"
    lines = []
    for label, name in task.foreground.items():
        dice = {case: value for case, value in values_of_class(rows, label, "dice").items() if not math.isnan(value)}
        missed = sum(row["missed"] for row in rows if row["label"] == label)
        line = [escape(name), _mean_and_sd(list(dice.values())), _number(median(dice.values()) if dice else math.nan)]
        worst = min(dice, key=lambda case: dice[case]) if dice else None
        line.append(UNKNOWN if worst is None else f'{dice[worst]:.3f} <span class="sd">{escape(worst)}</span>')
        line.append(_number(finite_mean(values_of_class(rows, label, "hd95_mm").values()), 1))
        line.append(_number(finite_mean(values_of_class(rows, label, "nsd").values())))
        lines.append([*line, str(missed)])
    header = ["Class", "Dice", "Median", "Lowest", f"HD95 ({unit})", "NSD", "Missed"]
    return html_table(caption, header, lines)


def volume_table(task: Task, cases: Sequence[EvaluatedCase]) -> str:
    """Returns the HTML table of the predicted and reference volumes of each case; "" for 2D images."""
    if task.axcodes is None:
        return ""
    lines = []
    for case in cases:
        cells = [
            f'{r["volume_ml"]:.1f} <span class="sd">/ {_number(r["reference_volume_ml"], 1)}</span>' for r in case.rows
        ]
        lines.append([escape(case.name), _number(case.dice), *cells])
    bias = []
    for index in range(len(task.foreground)):
        pairs = [(s.rows[index]["volume_ml"], s.rows[index]["reference_volume_ml"]) for s in cases]
        known = [predicted - reference for predicted, reference in pairs if not math.isnan(reference)]
        bias.append(f"{fmean(known):+.1f}" if known else UNKNOWN)
    lines.append(["Mean difference", "", *bias])
    header = ["Case", "Dice", *task.foreground.values()]
    return html_table("Volume in mL, predicted / reference, the worst Dice first", header, lines, len(lines) - 1)


def _headline(rows: Sequence[Row], cases: Sequence[EvaluatedCase]) -> str:
    dice = [value for value in class_means(rows).values() if not math.isnan(value)]
    if not dice:
        return "Neither the labels nor the segmentations show any structure."
    low, high = bootstrap_mean_interval(dice)
    interval = "" if len(dice) < FEW_PATIENTS else f" (95 % interval {low:.3f} to {high:.3f})"
    worst = min(cases[0].rows, key=lambda row: math.inf if math.isnan(row["dice"]) else row["dice"])
    return (
        f"Mean Dice {fmean(dice):.3f}{interval} on {_count(len(dice), 'patient')}. The worst case is {cases[0].name} "
        f"with {cases[0].dice:.3f}; its {worst['name']} has {worst['dice']:.3f}."
    )


def _tiles(task: Task, rows: Sequence[Row], cases: Sequence[EvaluatedCase]) -> str:
    unit = "pixels" if task.axcodes is None else "mm"
    missed = sum(row["missed"] for row in rows)
    numbers = [
        ("Mean Dice", _number(finite_mean(class_means(rows).values())), "over patients and classes"),
        ("Worst case", _number(cases[0].dice), cases[0].name),
        (f"HD95 ({unit})", _number(finite_mean(class_means(rows, "hd95_mm").values()), 1), "structures found by both"),
        ("Missed", str(missed), f"of {len(rows)} structures: in only one of the two"),
    ]
    return tiles(numbers)


def _accuracy(task: Task, rows: Sequence[Row], cases: Sequence[EvaluatedCase], second_rows: Sequence[Row]) -> str:
    by_class = {name: values_of_class(rows, label, "dice") for label, name in task.foreground.items()}
    spoken = "; ".join(f"{name} {_number(finite_mean(values.values()))}" for name, values in by_class.items())
    chart = strip_plot(by_class, "Dice per patient", one_colour=True)
    caption = "One mark per patient, the vertical bar is the mean; thin lines join the same patient."
    remark = (
        '<p class="quiet">Mean ± standard deviation over patients. HD95 is a mean over the structures found by both; a '
        "structure that only one of prediction and reference has is counted as missed and has Dice 0. A patient "
        "without the structure in either is left out.</p>"
    )
    figure = chart_figure(chart, f"Dice per patient of each class. Means: {spoken}.", caption)
    second = class_table(task, second_rows, "A second reader against the reference") if second_rows else ""
    return class_table(task, rows) + second + remark + figure + volume_table(task, cases)


def _pictures(task: Task, cases: Sequence[EvaluatedCase]) -> str:
    shown = cases[:SHOWN]
    which = "All cases" if len(shown) == len(cases) else f"The {len(shown)} worst of {len(cases)} cases"
    place = ", each on the slice where most pixels differ" if task.axcodes else ""
    text = f"<p>{which}, the lowest Dice first{place}.</p>"
    text += case_legend(task.foreground)
    return text + "".join(case_panels(case, task.foreground, task.ignore) for case in shown)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _mean_and_sd(values: Sequence[float]) -> str:
    if not values:
        return UNKNOWN
    mean = f"{fmean(values):.3f}"
    return mean if len(values) < 2 else f'{mean} <span class="sd">± {stdev(values):.3f}</span>'


def _number(value: float, digits: int = 3) -> str:
    return UNKNOWN if math.isnan(value) else f"{value:.{digits}f}"

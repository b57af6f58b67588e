"""Tables that compare methods, as HTML: accuracy, cost, Dice per patient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from statistics import fmean, stdev

from tskd_monai.evaluation.report.page import UNKNOWN, html_table
from tskd_monai.evaluation.report.pipeline_content import Result
from tskd_monai.evaluation.summary import class_means, finite_mean, values_of_class


def accuracy_table(results: Mapping[str, Result], labels: Mapping[int, str], marked: str, unit: str) -> str:
    """Returns Dice (mean ± SD over patients; all classes, then each), mean HD95 and the number of missed structures.

    The best mean of a column is bold. `unit` is that of HD95, "mm" or "pixels".
    """
    columns: list[list[Sequence[float]]] = []
    for result in results.values():
        per_class = [values_of_class(result.rows, label, "dice") for label in labels]
        columns.append([list(values.values()) for values in (result.dice, *per_class)])
    best = [max(_order(finite_mean(values)) for values in column) for column in zip(*columns, strict=True)]
    rows = []
    for result, cells in zip(results.values(), columns, strict=True):
        row = [escape(result.method.title)]
        row += [
            _mean_and_sd(values, _order(finite_mean(values)) >= top) for values, top in zip(cells, best, strict=True)
        ]
        row.append(_number(finite_mean(class_means(result.rows, "hd95_mm").values()), 1))
        row.append(str(sum(entry["missed"] for entry in result.rows)))
        rows.append(row)
    header = ["Method", "Dice, all classes", *(f"Dice, {name}" for name in labels.values()), f"HD95 ({unit})", "Missed"]
    return html_table("Accuracy on the test patients", header, rows, list(results).index(marked))


def cost_table(results: Mapping[str, Result], marked: str) -> str:
    """Returns parameters, trained parameters, CPU latency and training time of every method."""
    rows = []
    for result in results.values():
        method = result.method
        latency = UNKNOWN if method.latency_ms is None else f"{method.latency_ms:.1f} ms"
        counts = (method.parameters, method.trainable_parameters)
        rows.append([escape(method.title), *map(format_count, counts), latency, format_seconds(method.seconds)])
    header = ["Method", "Parameters", "Trained", "CPU latency per image", "Training time"]
    return html_table("Size of the network at inference, and time", header, rows, list(results).index(marked))


def patient_table(results: Mapping[str, Result]) -> str:
    """Returns the Dice (mean over the classes) of every patient under every method."""
    cases = next(iter(results.values())).dice
    rows = [[escape(case), *(_number(result.dice[case], 3) for result in results.values())] for case in cases]
    return html_table(
        "Dice per patient, mean over classes", ["Patient", *(r.method.title for r in results.values())], rows
    )


def format_count(number: int | None) -> str:
    """Returns 212 k or 5.72 M; a dash if not known."""
    if number is None:
        return UNKNOWN
    if number < 1000:
        return str(number)
    return f"{number / 1e3:.0f} k" if number < 999_500 else f"{number / 1e6:.2f} M"


def format_seconds(seconds: float | None) -> str:
    """Returns 42 s, 3 min 20 s or 2 h 5 min; a dash if not known."""
    if seconds is None:
        return UNKNOWN
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def _mean_and_sd(values: Sequence[float], best: bool) -> str:
    kept = [value for value in values if not math.isnan(value)]
    if not kept:
        return UNKNOWN
    mean = f"<b>{fmean(kept):.3f}</b>" if best else f"{fmean(kept):.3f}"
    return mean if len(kept) < 2 else f'{mean} <span class="sd">± {stdev(kept):.3f}</span>'


def _number(value: float, digits: int) -> str:
    return UNKNOWN if math.isnan(value) else f"{value:.{digits}f}"


def _order(value: float) -> float:
    return -math.inf if math.isnan(value) else round(value, 3)

"""The learning curve as one HTML file, and as a picture."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import stdev

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from tskd_monai.evaluation.comparison import FEW_PATIENTS, count_of_patients
from tskd_monai.evaluation.learning_curve import CurveRun, Estimate, LearningCurve, foretold
from tskd_monai.evaluation.report.figures import (
    DPI,
    FAINT,
    INK,
    METHOD_COLOURS,
    chart_figure,
    in_both_themes,
    plain_axes,
)
from tskd_monai.evaluation.report.page import UNKNOWN, filled_page, html_table, settings_and_versions, tiles
from tskd_monai.evaluation.summary import finite_mean
from tskd_monai.files.atomic import atomic_path

DRAWN = 80
"""Points of the drawn line."""
WHITE = "#ffffff"


@dataclass(frozen=True)
class CurveContent:
    """What the page shows.

    Attributes:
        title: title of the page.
        summary: data and method in sentences.
        curve: the fitted curve.
        runs: its runs.
        classes: name of a class -> number of slices -> mean Dice over seeds and patients.
        patients: number of slices -> number of patients with a labelled slice, mean over seeds.
        more: further slices of the headline.
        settings: settings by name.
        notes: sentences that the reader must know.
    """

    title: str
    summary: str
    curve: LearningCurve
    runs: Sequence[CurveRun]
    classes: Mapping[str, Mapping[int, float]]
    patients: Mapping[int, float]
    more: int
    settings: Mapping[str, str]
    notes: Sequence[str]


def write_curve_page(output: Path, content: CurveContent) -> None:
    """Writes the page as one self-contained HTML file, whole or not at all."""
    page = filled_page(
        title=content.title,
        summary=content.summary,
        headline=content.curve.sentence(content.more),
        tiles=_tiles(content),
        sections=[
            ("Curve", _chart(content.curve) + points_table(content)),
            ("What more labelled slices would bring", gains_table(content.curve, content.more)),
            ("How far to trust it", _trust(content)),
            settings_and_versions(content.settings),
        ],
    )
    with atomic_path(output) as temporary:
        temporary.write_text(page, encoding="utf-8")


def write_curve_picture(output: Path, curve: LearningCurve) -> None:
    """Writes the chart as a PNG on white, whole or not at all."""
    stream = io.BytesIO()
    _draw(curve, "light").savefig(stream, format="png", dpi=DPI, facecolor=WHITE)
    with atomic_path(output) as temporary:
        temporary.write_bytes(stream.getvalue())


def check_sentence(runs: Sequence[CurveRun]) -> str:
    """Returns what the smaller points foretell for the largest one, beside the measured value."""
    slices = sorted({run.slices for run in runs})
    found, measured = foretold(runs)
    text = f"From the points up to {slices[-2]} slices the curve foretells {found.value:.3f} at {slices[-1]}"
    if not math.isfinite(found.low):
        return f"{text}; measured: {measured:.3f}. With one seed this has no interval; --seeds 2 gives one."
    inside = "within" if found.low <= measured <= found.high else "outside"
    return f"{text} ({found.low:.3f} to {found.high:.3f}); measured: {measured:.3f}, {inside} the interval."


def points_table(content: CurveContent) -> str:
    """Returns the Dice of each point: mean over patients and seeds, range over seeds, and of each class."""
    seeds = {run.seed for run in content.runs}
    rows = []
    for number in sorted({run.slices for run in content.runs}):
        means = [finite_mean(run.dice.values()) for run in content.runs if run.slices == number]
        spread = f' <span class="sd">± {stdev(means):.3f}</span>' if len(means) > 1 else ""
        cells = [f"{content.patients[number]:.0f}", f"{sum(means) / len(means):.3f}{spread}"]
        cells += [_number(values[number]) for values in content.classes.values()]
        rows.append([str(number), *cells])
    header = ["Labelled slices", "Patients with labels", "Dice, all classes", *content.classes]
    spoken = "± standard deviation over seeds" if len(seeds) > 1 else "one seed"
    return html_table(f"Dice of the validation patients, {spoken}", header, rows)


def gains_table(curve: LearningCurve, more: int) -> str:
    """Returns the gain of several numbers of further slices, up to twice the labels, and of `more`."""
    numbers = sorted({more, *(n for n in (10, 25, 50, 100, 250, 500, 1000) if n < curve.most), curve.most})
    shown = [number for number in numbers if 10 * number >= curve.most or number == more]
    rows = []
    for number in shown:
        gain = curve.gain(number)
        rows.append(
            [f"{number} more", f"{gain.value:+.3f}", _interval(gain), f"{curve.dice(curve.most + number).value:.3f}"]
        )
    header = ["Labelled slices", "Gain in Dice", "95 % interval", "Dice of the curve"]
    return html_table(f"Beyond the {curve.most} labelled slices", header, rows, shown.index(more))


def _tiles(content: CurveContent) -> str:
    curve, gain = content.curve, content.curve.gain(content.more)
    seeds, _, patients = curve.errors.shape
    measured = 1 - float(curve.errors[:, -1].mean())
    return tiles(
        [
            (f"Dice with {curve.most} slices", f"{measured:.3f}", "measured, validation patients"),
            (f"{content.more} more slices", f"{gain.value:+.3f}", f"95 %: {_interval(gain)}"),
            ("Training runs", str(len(content.runs)), f"{seeds} seed{'s' * (seeds > 1)} at each point"),
            ("Patients", str(patients), "validation, none of them learned from"),
        ]
    )


def _trust(content: CurveContent) -> str:
    curve = content.curve
    seeds, _, patients = curve.errors.shape
    law = f"1 - Dice = {curve.law.a[0]:.3g} n^-{curve.law.b[0]:.2f} + {curve.law.c[0]:.3f}"
    lines = [
        check_sentence(content.runs),
        f"Fitted law of the number n of labelled slices: {law}. It is not extrapolated beyond twice the labels.",
        f"The interval comes from drawing {count_of_patients(patients)} and {seeds} seed{'s' * (seeds > 1)} at each "
        "point again, and from how far the points are from the curve."
        + (" One seed says little about the noise of training: the interval is wide for that." if seeds == 1 else "")
        + (" So few patients make it wide." if patients < FEW_PATIENTS else ""),
        *content.notes,
    ]
    return '<ul class="found">' + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _chart(curve: LearningCurve) -> str:
    means = 1 - curve.errors.mean(axis=(0, 2))
    spoken = "; ".join(f"{int(n)} slices {dice:.3f}" for n, dice in zip(curve.slices, means, strict=True))
    caption = (
        "Circles: mean over the patients of each training run. Line: fitted curve, dashed beyond the labels at hand. "
        "Band: its 95 % interval."
    )
    return chart_figure(in_both_themes(lambda theme: _draw(curve, theme)), f"Learning curve. {spoken}.", caption)


def _draw(curve: LearningCurve, theme: str) -> Figure:
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = plain_axes(figure.add_subplot(), theme)
    colour, other = METHOD_COLOURS[theme][:2]
    of_runs = 1 - curve.errors.mean(axis=2)
    grid = np.geomspace(curve.slices[0], 2 * curve.most, DRAWN)
    line = np.array([curve.dice(number) for number in grid])
    if np.isfinite(line).all():
        axes.fill_between(grid, line[:, 1], line[:, 2], color=colour, alpha=0.15, linewidth=0)
    known = grid <= curve.most
    axes.plot(grid[known], line[known, 0], color=colour, linewidth=1.8)
    axes.plot(grid[~known], line[~known, 0], color=colour, linewidth=1.8, linestyle="--")
    for values in of_runs:
        axes.scatter(curve.slices, values, s=30, color=other, alpha=0.8, linewidth=0, zorder=3)
    axes.set_xscale("log")
    ticks = [*curve.slices, 2 * curve.most]
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(ticks, [f"{number:.0f}" for number in ticks])
    low, high = float(min(of_runs.min(), line[:, 0].min())), float(max(of_runs.max(), line[:, 0].max()))
    axes.set_ylim(max(0.0, low - 0.35 * (high - low) - 0.02), min(1.0, high + 0.35 * (high - low) + 0.02))
    axes.grid(color=FAINT[theme], linewidth=0.5, alpha=0.6)
    axes.set_xlabel("Labelled slices", color=INK[theme])
    axes.set_ylabel("Dice, validation patients", color=INK[theme])
    return figure


def _interval(estimate: Estimate) -> str:
    return f"{estimate.low:.3f} to {estimate.high:.3f}" if math.isfinite(estimate.high) else "not known"


def _number(value: float) -> str:
    return UNKNOWN if math.isnan(value) else f"{value:.3f}"

"""Charts of the report, drawn by matplotlib on a transparent background, for a light and for a dark page."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tskd_monai.evaluation.report.panels import data_uri

DPI = 200
INK = {"light": "#3c4043", "dark": "#c9cdd2"}
FAINT = {"light": "#d5d8dc", "dark": "#4a4f57"}
METHOD_COLOURS = {  # Okabe and Ito; lighter shades on the dark page
    "light": ("#0072b2", "#d55e00", "#009e73", "#b4578d", "#8a6d00", "#4a4f57"),
    "dark": ("#56b4e9", "#f08a4b", "#2fc79d", "#e39cc6", "#e6c14a", "#aab0b8"),
}
MARKERS = ("o", "s", "D", "^", "v", "P")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
BINS = (6, 24)  # minimum and maximum of a histogram


@dataclass(frozen=True)
class Chart:
    """One chart as two PNGs of the same size."""

    light: bytes
    dark: bytes


def strip_plot(
    dice: Mapping[str, Mapping[str, float]],
    quantity: str = "Dice per patient, mean over classes",
    one_colour: bool = False,
) -> Chart:
    """Returns the Dice of every patient for every method or class, with a thin line joining a patient's points.

    Args:
        dice: title of the method or class -> case -> Dice; NaN is omitted.
        quantity: label of the axis.
        one_colour: whether all marks have the same colour, where colours have another meaning on the page.
    """
    return in_both_themes(lambda theme: _draw_strips(dice, quantity, one_colour, theme))


def training_curves(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> Chart:
    """Returns the training loss and, where recorded, the validation Dice of every method over time.

    Args:
        histories: title of the method -> rows of its history.jsonl.
    """
    return in_both_themes(lambda theme: _draw_curves(histories, theme))


def histogram(groups: Mapping[str, Sequence[float]], threshold: float, quantity: str) -> Chart:
    """Returns the distributions of groups of any size in common bins, in percent, so that their heights are comparable.

    Args:
        groups: name -> at least one finite value.
        threshold: drawn as a vertical line; values below it were dropped.
        quantity: label of the axis, with its unit if it has one.
    """
    return in_both_themes(lambda theme: _draw_histogram(groups, threshold, quantity, theme))


def bin_edges(groups: Iterable[Sequence[float]], threshold: float) -> np.ndarray:
    """Returns the edges of equal bins over all values and the threshold, as many as the smallest group can fill.

    Their number is 2 n^(1/3), Rice's rule, kept between 6 and 24.
    """
    groups = list(groups)
    everything = [threshold, *(value for values in groups for value in values)]
    least, most = BINS
    number = math.ceil(2 * min(map(len, groups)) ** (1 / 3))
    return np.histogram_bin_edges(everything, bins=min(most, max(least, number)))


def percentages(values: Sequence[float], edges: np.ndarray) -> np.ndarray:
    """Returns the percentage of the values in each bin."""
    return 100 * np.histogram(values, bins=edges)[0] / len(values)


def chart_figure(chart: Chart, alt: str, caption: str) -> str:
    """Returns the HTML that shows a chart in the theme of the page; `alt` and `caption` are plain text."""
    return (
        '<figure class="chart"><picture>'
        f'<source srcset="{data_uri(chart.dark)}" media="screen and (prefers-color-scheme: dark)">'
        f'<img src="{data_uri(chart.light)}" alt="{escape(alt)}"></picture>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def in_both_themes(draw: Callable[[str], Figure]) -> Chart:
    """Returns a chart drawn for a light and for a dark page."""

    def png(theme: str) -> bytes:
        stream = io.BytesIO()
        draw(theme).savefig(stream, format="png", dpi=DPI, transparent=True)
        return stream.getvalue()

    return Chart(png("light"), png("dark"))


def _draw_strips(dice: Mapping[str, Mapping[str, float]], quantity: str, one_colour: bool, theme: str) -> Figure:
    titles = list(dice)
    figure = Figure(figsize=(6.4, 0.9 + 0.5 * len(titles)), layout="constrained")
    axes = plain_axes(figure.add_subplot(), theme)
    for case in dict.fromkeys(case for values in dice.values() for case in values):
        points = [(dice[title].get(case, math.nan), row) for row, title in enumerate(titles)]
        axes.plot(*zip(*points, strict=True), color=FAINT[theme], linewidth=0.8, zorder=1)
    for row, title in enumerate(titles):
        values = [value for value in dice[title].values() if not math.isnan(value)]
        marker = _marker(0 if one_colour else row, theme)
        axes.scatter(values, [row] * len(values), s=34, alpha=0.75, linewidth=0, zorder=2, **marker)
        if values:
            axes.plot([fmean(values)] * 2, [row - 0.3, row + 0.3], color=INK[theme], linewidth=2, zorder=3)
    axes.set_yticks(range(len(titles)), titles)
    axes.set_ylim(len(titles) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=FAINT[theme], linewidth=0.5, alpha=0.6)
    axes.set_xlabel(quantity, color=INK[theme])
    return figure


def _draw_curves(histories: Mapping[str, Sequence[Mapping[str, Any]]], theme: str) -> Figure:
    names = {"train_loss": "Training loss", "val_mean_dice": "Validation Dice"}
    present = [key for key in names if any(row.get(key) is not None for rows in histories.values() for row in rows)]
    timed = all(row.get("seconds") is not None for rows in histories.values() for row in rows)
    figure = Figure(figsize=(6.4, 2.4 * len(present) + 0.5), layout="constrained")
    panels = figure.subplots(len(present), 1, sharex=True, squeeze=False)[:, 0]
    for key, panel in zip(present, panels, strict=True):
        axes = plain_axes(panel, theme)
        for index, (title, rows) in enumerate(histories.items()):
            kept = [row for row in rows if row.get(key) is not None]
            times = [row["seconds"] / 60 if timed else row.get("iteration", row.get("epoch")) for row in kept]
            style: dict[str, Any] = {"color": _colour(index, theme), "linestyle": LINES[index % len(LINES)]}
            dot = MARKERS[index % len(MARKERS)] if len(kept) == 1 else None
            axes.plot(times, [row[key] for row in kept], label=title, linewidth=1.6, marker=dot, **style)
        axes.set_ylabel(names[key], color=INK[theme])
        axes.grid(color=FAINT[theme], linewidth=0.5, alpha=0.6)
    panels[-1].set_xlabel("Minutes of training" if timed else "Iterations", color=INK[theme])
    handles, labels = panels[0].get_legend_handles_labels()
    columns = min(2, len(labels))
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, frameon=False, labelcolor=INK[theme])
    return figure


def _draw_histogram(groups: Mapping[str, Sequence[float]], threshold: float, quantity: str, theme: str) -> Figure:
    figure = Figure(figsize=(3.4, 2.5), layout="constrained")
    axes = plain_axes(figure.add_subplot(), theme)
    edges = bin_edges(groups.values(), threshold)
    for index, (name, values) in enumerate(groups.items()):
        height, colour = percentages(values, edges), _colour(len(groups) - 1 - index, theme)
        axes.stairs(height, edges, fill=True, color=colour, alpha=0.22, linewidth=0)
        axes.stairs(height, edges, color=colour, linewidth=1.6, linestyle=LINES[len(groups) - 1 - index], label=name)
    top = axes.get_ylim()[1]
    axes.set_ylim(0, 1.18 * top)
    axes.plot([threshold] * 2, [0, 1.03 * top], color=INK[theme], linewidth=1.4, linestyle=":")
    left = 2 * threshold < edges[0] + edges[-1]
    axes.annotate(
        f"dropped below {threshold:.3g}",
        (edges[0] if left else edges[-1], 1.06 * top),
        horizontalalignment="left" if left else "right",
        color=INK[theme],
        fontsize=9.5,
    )
    axes.locator_params(nbins=5)
    axes.set_xlabel(quantity, color=INK[theme])
    axes.set_ylabel("Images (%)", color=INK[theme])
    figure.legend(loc="outside upper left", ncols=2, frameon=False, labelcolor=INK[theme], fontsize=9.5)
    return figure


def plain_axes(axes: Axes, theme: str) -> Axes:
    """Returns axes with two thin lines and text in the ink of the theme."""
    axes.set_facecolor("none")
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(FAINT[theme])
    axes.tick_params(colors=INK[theme], labelcolor=INK[theme], color=FAINT[theme], labelsize=9.5)
    return axes


def _colour(index: int, theme: str) -> str:
    return METHOD_COLOURS[theme][index % len(METHOD_COLOURS[theme])]


def _marker(index: int, theme: str) -> dict[str, Any]:
    return {"color": _colour(index, theme), "marker": MARKERS[index % len(MARKERS)]}

"""The report of a study as one HTML file: no scripts, no other files, readable on a phone and on paper."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from html import escape
from importlib import metadata, resources
from pathlib import Path
from string import Template

from tskd_monai.data.image_file import is_image_file
from tskd_monai.evaluation.comparison import FEW_PATIENTS, PairedComparison, compare, count_of_patients
from tskd_monai.evaluation.report.figures import chart_figure, strip_plot, training_curves
from tskd_monai.evaluation.report.gates_section import gates_section
from tskd_monai.evaluation.report.overlays import overlay_section
from tskd_monai.evaluation.report.panels import contact_sheet, data_uri
from tskd_monai.evaluation.report.pipeline_content import Method, Report, Result, read_results
from tskd_monai.evaluation.report.tables import accuracy_table, cost_table, format_count, pairs_table, patient_table
from tskd_monai.evaluation.summary import finite_mean
from tskd_monai.files.atomic import atomic_path

__all__ = ["Method", "Report", "write_report"]

PACKAGES = ("tskd-monai", "torch", "monai", "pytorch-ignite", "transformers", "peft", "diffusers", "numpy")
SHEET_LIMIT = 12
OPTIONAL_PARTS = ("cost", "transfer_set", "curves", "settings", "notes")


def write_report(output: Path, report: Report) -> None:
    """Writes `report` as one self-contained HTML file to `output`, all of it or nothing.

    Args:
        output: the file, for instance `report.html`.
        report: what to show.

    Raises:
        FileNotFoundError: if a file the report names is missing.
        ValueError: if files do not fit together (other cases, labels or grids).
    """
    results = read_results(report)
    first, *baselines = (results[key] for key in report.comparison)
    differences = {baseline.method.title: compare(first.dice, baseline.dice) for baseline in baselines}
    page = fill_template(
        title=escape(report.title),
        summary=escape(report.summary),
        headline=escape(headline(first, baselines)),
        tiles=_tiles(first, differences),
        accuracy=_accuracy(report, results, differences),
        cost=_cost(results, report.comparison[0]),
        patients="Test patients",
        overlays=overlay_section(report, results),
        transfer_set=_transfer_set(report),
        curves=_curves(results),
        settings=pairs_table("Settings", report.settings) if report.settings else "",
        versions=pairs_table("Versions", report_versions()),
        notes=_notes(report),
    )
    with atomic_path(output) as temporary:
        temporary.write_text(page, encoding="utf-8")


def fill_template(**parts: str) -> str:
    """Returns the page with its parts, HTML or escaped text by name, filled in; a part that is not given is empty."""
    template = (resources.files(__package__) / "page.html").read_text(encoding="utf-8")
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    return Template(template).substitute(dict.fromkeys(OPTIONAL_PARTS, "") | parts | {"date": date})


def headline(first: Result, baselines: Sequence[Result]) -> str:
    """Returns the finding in one sentence, whichever way it went.

    Args:
        first: of the method under study.
        baselines: of what it is compared with, on the same cases; may be empty.
    """
    ours = finite_mean(first.dice.values())
    text = f"{first.method.title} reaches a mean Dice of {ours:.3f} on {count_of_patients(len(first.dice))}"
    relations = " and ".join(_relation(ours, baseline) for baseline in baselines)
    return f"{text}, {relations}." if relations else f"{text}."


def _relation(ours: float, baseline: Result) -> str:
    theirs, title = finite_mean(baseline.dice.values()), baseline.method.title
    title = title[:1].lower() + title[1:]
    if abs(ours - theirs) < 0.0005:
        return f"the same to three decimals as {title}"
    where = "above" if ours > theirs else "below"
    return f"{abs(ours - theirs):.3f} {where} {title} ({theirs:.3f})"


def _tiles(first: Result, differences: Mapping[str, PairedComparison]) -> str:
    """Returns the numbers a reader looks for first, each with its name."""
    tiles = [("Mean Dice", f"{finite_mean(first.dice.values()):.3f}", first.method.title)]
    for title, difference in differences.items():
        low, high = difference.interval_95
        few = difference.patients < FEW_PATIENTS
        interval = (
            f"{count_of_patients(difference.patients)}: too few to infer" if few else f"95 % {low:+.3f} to {high:+.3f}"
        )
        tiles.append((f"Difference to {title}", f"{difference.mean:+.3f}", interval))
    if first.method.parameters is not None:
        tiles.append(("Parameters", format_count(first.method.parameters), "at inference"))
    if first.method.latency_ms is not None:
        tiles.append(("CPU latency", f"{first.method.latency_ms:.1f} ms", "per image"))
    return "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(remark)}</small></dd></div>"
        for name, value, remark in tiles
    )


def _accuracy(report: Report, results: Mapping[str, Result], differences: Mapping[str, PairedComparison]) -> str:
    first = escape(results[report.comparison[0]].method.title)
    text = accuracy_table(results, report.labels, report.comparison[0], _distance_unit(report))
    text += (
        '<p class="quiet">Mean ± standard deviation over patients; bold: highest mean. HD95 is a mean over the '
        "structures found by both; a structure that only one of prediction and reference has is counted as missed and "
        "has Dice 0.</p>"
    )
    for title, difference in differences.items():
        text += f'<p class="finding"><b>{first} against {escape(title)}, paired by patient.</b> '
        text += f"{escape(difference.sentence())}</p>"
    dice = {result.method.title: result.dice for result in results.values()}
    spoken = "; ".join(f"{title} {finite_mean(values.values()):.3f}" for title, values in dice.items())
    caption = "One mark per patient, the vertical bar is the mean; thin lines join the same patient."
    text += chart_figure(strip_plot(dice), f"Dice per patient under each method. Means: {spoken}.", caption)
    return f"{text}<details><summary>Dice of every patient</summary>{patient_table(results)}</details>"


def _cost(results: Mapping[str, Result], marked: str) -> str:
    """Returns the section on size and time; "" when nothing of it is known."""
    methods = [result.method for result in results.values()]
    known = [value for m in methods for value in (m.parameters, m.latency_ms, m.seconds) if value is not None]
    return f"<section><h2>Cost</h2>{cost_table(results, marked)}</section>" if known else ""


def _distance_unit(report: Report) -> str:
    has_geometry = not any(is_image_file(entry["label"]) for entry in report.cases)
    return "mm" if has_geometry else "pixels"


def _transfer_set(report: Report) -> str:
    """Returns the section on synthetic images; "" without such images and without gates."""
    sheets = _sheets(report) if report.synthetic_images else ""
    gates = gates_section(report.gates) if report.gates else ""
    if not sheets and not gates:
        return ""
    title = "Synthetic images beside real ones" if sheets else "Synthetic images"
    return f"<section><h2>{title}</h2>{sheets}{gates}</section>"


def _sheets(report: Report) -> str:
    """Returns contact sheets of synthetic and real images side by side."""
    sheets = ""
    for name, paths in (("Synthetic", report.synthetic_images), ("Real", report.real_images)):
        if paths:
            shown = min(SHEET_LIMIT, len(paths))
            alt = f"Contact sheet of {shown} {name.lower()} images"
            caption = f"<figcaption>{name} <span>{shown} of {len(paths)}, evenly spaced</span></figcaption>"
            image = f'<img src="{data_uri(contact_sheet(paths, limit=SHEET_LIMIT))}" alt="{alt}">'
            sheets += f"<figure>{image}{caption}</figure>"
    return f'<div class="sheets">{sheets}</div>'


def _curves(results: Mapping[str, Result]) -> str:
    histories = {result.method.title: result.history for result in results.values() if result.history}
    if not histories:
        return ""
    last = "; ".join(f"{title} ends at a loss of {rows[-1]['train_loss']:.3f}" for title, rows in histories.items())
    caption = "Losses of different methods are different functions: compare their shape, not their height."
    chart = chart_figure(training_curves(histories), f"Training curves. {last}.", caption)
    return f"<section><h2>Training</h2>{chart}</section>"


def _notes(report: Report) -> str:
    if not report.notes:
        return ""
    return "<h3>Notes</h3><ul>" + "".join(f"<li>{escape(note)}</li>" for note in report.notes) + "</ul>"


def report_versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages, and the machine."""
    versions = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions | {"Machine": f"{platform.machine()}, {os.cpu_count()} CPU cores"}

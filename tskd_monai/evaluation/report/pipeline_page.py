"""The report of a pipeline as one HTML file: no scripts, no other files, readable on a phone and on paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from tskd_monai.data.image_file import is_image_file
from tskd_monai.evaluation.comparison import FEW_PATIENTS, PairedComparison, compare, count_of_patients
from tskd_monai.evaluation.report.figures import chart_figure, strip_plot, training_curves
from tskd_monai.evaluation.report.gates_section import gates_section
from tskd_monai.evaluation.report.overlays import overlay_section
from tskd_monai.evaluation.report.page import filled_page, settings_and_versions, tiles
from tskd_monai.evaluation.report.panels import contact_sheet, data_uri
from tskd_monai.evaluation.report.pipeline_content import PipelineContent, Result, read_results
from tskd_monai.evaluation.report.tables import accuracy_table, cost_table, format_count, patient_table
from tskd_monai.evaluation.report.targets_section import targets_section
from tskd_monai.evaluation.summary import finite_mean
from tskd_monai.files.atomic import atomic_path

SHEET_LIMIT = 12


def write_pipeline_page(output: Path, content: PipelineContent) -> None:
    """Writes the report of a pipeline as one self-contained HTML file, whole or not at all.

    Args:
        output: file to write, for instance `report.html`.
        content: what to show.

    Raises:
        FileNotFoundError: if a file that the content names is missing.
        ValueError: if files do not match (different cases, labels or grids).
    """
    results = read_results(content)
    first, *baselines = (results[key] for key in content.comparison)
    differences = {baseline.method.title: compare(first.dice, baseline.dice) for baseline in baselines}
    page = filled_page(
        title=content.title,
        summary=content.summary,
        headline=headline(first, baselines),
        tiles=_tiles(first, differences),
        sections=[
            ("Accuracy", _accuracy(content, results, differences)),
            ("Cost", _cost(results, content.comparison[0])),
            ("Test patients", overlay_section(content, results)),
            _transfer_set(content),
            ("Targets of the student", targets_section(content.targets) if content.targets else ""),
            ("Training", _curves(results)),
            settings_and_versions(content.settings, content.notes),
        ],
    )
    with atomic_path(output) as temporary:
        temporary.write_text(page, encoding="utf-8")


def headline(first: Result, baselines: Sequence[Result]) -> str:
    """Returns the main result in one sentence, whether positive or negative.

    Args:
        first: result of the method of interest.
        baselines: results of the methods it is compared with, on the same cases; may be empty.
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
    """Returns the key figures, each with its name."""
    numbers = [("Mean Dice", f"{finite_mean(first.dice.values()):.3f}", first.method.title)]
    for title, difference in differences.items():
        low, high = difference.interval_95
        few = difference.patients < FEW_PATIENTS
        interval = (
            f"{count_of_patients(difference.patients)}: too few to infer" if few else f"95 % {low:+.3f} to {high:+.3f}"
        )
        numbers.append((f"Difference to {title}", f"{difference.mean:+.3f}", interval))
    if first.method.parameters is not None:
        numbers.append(("Parameters", format_count(first.method.parameters), "at inference"))
    if first.method.latency_ms is not None:
        numbers.append(("CPU latency", f"{first.method.latency_ms:.1f} ms", "per image"))
    return tiles(numbers)


def _accuracy(
    content: PipelineContent, results: Mapping[str, Result], differences: Mapping[str, PairedComparison]
) -> str:
    first = escape(results[content.comparison[0]].method.title)
    text = accuracy_table(results, content.labels, content.comparison[0], _distance_unit(content))
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
    """Returns the HTML on size and time; "" when nothing of it is known."""
    methods = [result.method for result in results.values()]
    known = [value for m in methods for value in (m.parameters, m.latency_ms, m.seconds) if value is not None]
    return cost_table(results, marked) if known else ""


def _distance_unit(content: PipelineContent) -> str:
    has_geometry = not any(is_image_file(entry["label"]) for entry in content.cases)
    return "mm" if has_geometry else "pixels"


def _transfer_set(content: PipelineContent) -> tuple[str, str]:
    """Returns heading and HTML on synthetic images; no HTML without such images and without gates."""
    sheets = _sheets(content) if content.synthetic_images else ""
    gates = gates_section(content.gates) if content.gates else ""
    return "Synthetic images beside real ones" if sheets else "Synthetic images", sheets + gates


def _sheets(content: PipelineContent) -> str:
    """Returns contact sheets of synthetic and real images side by side."""
    sheets = ""
    for name, paths in (("Synthetic", content.synthetic_images), ("Real", content.real_images)):
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
    return chart_figure(training_curves(histories), f"Training curves. {last}.", caption)

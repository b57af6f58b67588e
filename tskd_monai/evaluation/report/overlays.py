"""Section of the report that shows test patients: image, reference and every method's prediction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from tskd_monai.data.image_file import is_image_file
from tskd_monai.data.labels import check_label_grid
from tskd_monai.evaluation.label_maps import LabelMap, load_prediction, load_reference
from tskd_monai.evaluation.report.display import DisplayVolume, arranged, fullest_slice, load_for_display
from tskd_monai.evaluation.report.panels import data_uri, foreground_box, label_colours, render_panel
from tskd_monai.evaluation.report.pipeline_content import Report, Result


def overlay_section(report: Report, results: Mapping[str, Result]) -> str:
    """Returns the HTML of up to three patients: the worst, the median and the best of the method under study."""
    obstacle = _obstacle(report)
    if obstacle:
        return f'<p class="quiet">{escape(obstacle)}</p>'
    entries = {str(entry["case"]): entry for entry in report.cases}
    student = results[report.comparison[0]]
    chosen = choose_patients({case: value for case, value in student.dice.items() if case in entries})
    if not chosen:
        return '<p class="quiet">None of the given cases has metrics, so there is nothing to show.</p>'
    title = escape(student.method.title)
    text = f"<p>Chosen by the Dice of {title}: {_listed(list(chosen.values()))}."
    if not any(is_image_file(entry["label"]) for entry in report.cases):
        text += " The slice is the one on which the reference shows most of all structures together."
    text += "</p>"
    text += legend(report.labels)
    for case, role in chosen.items():
        text += _patient(case, role, entries[case], report, results)
    return text


def choose_patients(dice: Mapping[str, float]) -> dict[str, str]:
    """Returns case -> its role (lowest, median, highest Dice); fewer than three if there are fewer patients."""
    ordered = sorted((case for case in dice if not math.isnan(dice[case])), key=lambda case: dice[case])
    if len(ordered) < 2:
        return dict.fromkeys(ordered, "the only patient")
    chosen = {ordered[0]: "lowest"}
    if len(ordered) > 2:
        chosen[ordered[(len(ordered) - 1) // 2]] = "median"
    return chosen | {ordered[-1]: "highest"}


def _obstacle(report: Report) -> str | None:
    cases = [str(entry["case"]) for entry in report.cases]
    if not cases:
        return "No cases were given, so no overlays are shown."
    if len(set(cases)) < len(cases):
        return "Overlays are left out: a patient has several images, and predictions are named by patient."
    if any(Path(entry["image"]).is_dir() for entry in report.cases):
        return "Overlays are left out: images are DICOM folders; convert them to NIfTI to see them here."
    return None


def _patient(case: str, role: str, entry: Mapping[str, Any], report: Report, results: Mapping[str, Result]) -> str:
    volume = load_for_display(Path(entry["image"]))
    reference = reference_on_image(Path(entry["label"]), volume, report.labels, f"label and image of case {case}")
    maps = {"Reference": labels_for_display(reference)}
    scores = {"Reference": ""}
    for result in results.values():
        predictions = result.method.predictions or {}
        if case in predictions:
            prediction = load_prediction(Path(predictions[case]), reference, report.labels)
            maps[result.method.title] = labels_for_display(prediction)
            scores[result.method.title] = f"Dice {result.dice[case]:.3f}"
    index = fullest_slice(maps["Reference"])
    place = f"{volume.view} slice {index + 1} of {volume.array.shape[2]}; {volume.orientation}" if volume.view else ""
    box = foreground_box([one[:, :, index] for one in maps.values()])
    colours = label_colours(report.labels)
    panels = panel(render_panel(volume.array[:, :, index], None, colours, volume.pixel_mm, box), "Image", "", case)
    for title, labels in maps.items():
        png = render_panel(volume.array[:, :, index], labels[:, :, index], colours, volume.pixel_mm, box)
        panels += panel(png, title, scores[title], case)
    heading = f"<h3>Patient {escape(case)} <small>{role} Dice</small></h3>"
    heading = heading.replace("the only patient Dice", "the only patient")
    quiet = f'<p class="quiet">{place}.</p>' if place else ""
    columns = _columns(1 + len(maps))
    return f'<div class="patient">{heading}{quiet}<div class="panels" style="--columns:{columns}">{panels}</div></div>'


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def _columns(panels: int) -> int:
    """Returns columns that fill the rows: one row up to four panels, two rows beyond."""
    return panels if panels <= 4 else -(-panels // 2)


def reference_on_image(path: Path, volume: DisplayVolume, labels: Mapping[int, str], names: str) -> LabelMap:
    """Reads a reference as the scorer does, on the grid of the image that it is drawn over, as training does.

    Args:
        path: of the reference.
        volume: the image.
        labels: value -> name of the foreground labels.
        names: of both in messages.

    Raises:
        ValueError: when training or the scorer would refuse the reference.
    """
    reference = load_reference(path, labels)
    check_label_grid(volume.grid, (reference.array.shape, reference.affine), names)
    return reference


def labels_for_display(label_map: LabelMap) -> np.ndarray:
    """Returns the labels (H, W, D) in the orientation of `load_for_display`."""
    return arranged(label_map.array, label_map.affine).array


def panel(png: bytes, title: str, score: str, case: str) -> str:
    """Returns the HTML of a picture with its caption."""
    alt = f"Patient {case}: the image" if title == "Image" else f"Patient {case}: {title} drawn over the image"
    value = f" <span>{score}</span>" if score else ""
    caption = f"<figcaption>{escape(title)}{value}</figcaption>"
    return f'<figure><img src="{data_uri(png)}" alt="{escape(alt)}">{caption}</figure>'


def legend(labels: Mapping[int, str], colours: Mapping[int, str] | None = None) -> str:
    """Returns the HTML of a list of colours: those of the labels unless others are given."""
    items = "".join(
        f'<li><span style="background:{colour}"></span>{escape(labels[value])}</li>'
        for value, colour in (colours or label_colours(labels)).items()
    )
    return f'<ul class="legend" aria-label="Colours">{items}</ul>'

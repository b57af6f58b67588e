"""Section of the report that shows test patients: image, reference and every method's prediction."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from tskd_monai.data.image_file import is_image_file
from tskd_monai.evaluation.label_maps import load_prediction
from tskd_monai.evaluation.report.display import (
    DisplayVolume,
    fullest_slice,
    labels_for_display,
    load_for_display,
    reference_on_image,
)
from tskd_monai.evaluation.report.panels import Overlay, label_colours, legend, panel_row
from tskd_monai.evaluation.report.pipeline_content import PipelineContent, Result

ONLY = "the only patient"


def overlay_section(content: PipelineContent, results: Mapping[str, Result]) -> str:
    """Returns the HTML of up to three patients: the worst, the median and the best of the first method."""
    obstacle = overlay_obstacle(content)
    if obstacle:
        return f'<p class="quiet">{escape(obstacle)}</p>'
    entries = {str(entry["case"]): entry for entry in content.cases}
    student = results[content.comparison[0]]
    chosen = choose_patients({case: value for case, value in student.dice.items() if case in entries})
    if not chosen:
        return '<p class="quiet">None of the given cases has metrics, so there is nothing to show.</p>'
    title = escape(student.method.title)
    text = f"<p>Chosen by Dice ({title}): {_listed(list(chosen.values()))}."
    if not any(is_image_file(entry["label"]) for entry in content.cases):
        text += " The slice is the one on which the reference shows most of all structures together."
    text += "</p>"
    text += legend(content.labels)
    for case, role in chosen.items():
        text += _patient(case, role, entries[case], content, results)
    return text


def choose_patients(dice: Mapping[str, float]) -> dict[str, str]:
    """Returns case -> its role (lowest, median, highest Dice); fewer than three if there are fewer patients."""
    ordered = sorted((case for case in dice if not math.isnan(dice[case])), key=lambda case: dice[case])
    if len(ordered) < 2:
        return dict.fromkeys(ordered, ONLY)
    chosen = {ordered[0]: "lowest"}
    if len(ordered) > 2:
        chosen[ordered[(len(ordered) - 1) // 2]] = "median"
    return chosen | {ordered[-1]: "highest"}


def patient_overlays(
    entry: Mapping[str, Any], content: PipelineContent, results: Mapping[str, Result]
) -> tuple[DisplayVolume, int, list[Overlay]]:
    """Returns a patient's image, the slice to show, and its overlays: image, reference, every method's prediction."""
    case = str(entry["case"])
    volume = load_for_display(Path(entry["image"]))
    names = f"label and image of case {case}"
    reference = reference_on_image(Path(entry["label"]), volume, content.labels, names, content.ignore)
    colours = label_colours(content.labels)
    shown = labels_for_display(reference)
    overlays = [Overlay("Image", None, colours), Overlay("Reference", shown, colours)]
    for result in results.values():
        predictions = result.method.predictions or {}
        if case in predictions:
            prediction = labels_for_display(load_prediction(Path(predictions[case]), reference, content.labels))
            overlays.append(Overlay(result.method.title, prediction, colours, f"Dice {result.dice[case]:.3f}"))
    return volume, fullest_slice(shown), overlays


def overlay_obstacle(content: PipelineContent) -> str | None:
    """Returns why no patient of a report can be shown; None if they can be."""
    cases = [str(entry["case"]) for entry in content.cases]
    if not cases:
        return "No cases were given, so no overlays are shown."
    if len(set(cases)) < len(cases):
        return "Overlays are left out: a patient has several images, and predictions are named by patient."
    if any(Path(entry["image"]).is_dir() for entry in content.cases):
        return "Overlays are left out: images are DICOM folders; convert them to NIfTI to see them here."
    return None


def _patient(
    case: str, role: str, entry: Mapping[str, Any], content: PipelineContent, results: Mapping[str, Result]
) -> str:
    volume, index, overlays = patient_overlays(entry, content, results)
    depth = volume.array.shape[2]
    position = f"{volume.view} slice {index + 1} of {depth}; {volume.orientation}." if volume.view else ""
    heading = f"<h3>Patient {escape(case)} <small>{role}{'' if role == ONLY else ' Dice'}</small></h3>"
    quiet = f'<p class="quiet">{position}</p>' if position else ""
    return f'<div class="patient">{heading}{quiet}{panel_row(volume, index, overlays, case)}</div>'


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]

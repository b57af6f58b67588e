"""Contact sheet of a dataset: one slice of each case, with the outlines of its labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from tskd_monai.data.planning.fingerprint import ReadCase
from tskd_monai.data.planning.survey import Survey
from tskd_monai.data.planning.unlike_cases import SurveyedCase
from tskd_monai.evaluation.report.dataset_tables import SECTION_TITLES
from tskd_monai.evaluation.report.display import arranged, fullest_slice
from tskd_monai.evaluation.report.panels import data_uri, label_colours, legend, render_thumbnail

SHOWN = 40
"""Cases with a picture."""


def thumbnail(case: ReadCase, labels: Mapping[int, str]) -> bytes:
    """Returns the JPEG of one slice of a case, from `fullest_slice`, with the outlines of its labels.

    Args:
        case: case in memory.
        labels: value -> name of the foreground classes.
    """
    image = case.image
    if case.affine is None and image.min() >= 0 and image.max() <= 255:
        image = image.astype(np.uint8)  # as it is, without another contrast
    volume = arranged(image, case.affine)
    shown = None if case.classes is None else arranged(case.classes, case.affine).array
    index = volume.array.shape[2] // 2 if shown is None else fullest_slice(shown)
    colours = dict(enumerate(label_colours(dict(sorted(labels.items()))).values(), start=1))
    plane = None if shown is None else shown[:, :, index]
    return render_thumbnail(volume.array[:, :, index], plane, colours, volume.pixel_mm)


def shown_cases(survey: Survey, limit: int = SHOWN) -> list[SurveyedCase]:
    """Returns the cases to show, in the order of the dataset: unusual and refused ones, then others evenly spaced."""
    doubled = {name for names in (*survey.same_images, *survey.same_labels) for name in names}
    refused = {entry.case for entry in survey.refused}
    first = [case for case in survey.cases if case.name in {*survey.unlike.texts, *doubled, *refused}][:limit]
    names = {case.name for case in first}
    others = [case for case in survey.cases if case.name not in names]
    number = min(limit - len(first), len(others))
    names |= {others[(2 * index + 1) * len(others) // (2 * number)].name for index in range(number)}
    return [case for case in survey.cases if case.name in names]


def _shared(name: str, kind: str, groups: Sequence[Sequence[str]]) -> list[str]:
    """Returns a remark on the other cases with the image or label of a case; the first two are named."""
    others = [other for group in groups if name in group for other in group if other != name]
    more = f" and {len(others) - 2} others" if len(others) > 2 else ""
    return [f"same {kind} as {', '.join(others[:2])}{more}"] if others else []


def contact_sheet(survey: Survey, thumbnails: Mapping[str, bytes]) -> str:
    """Returns the HTML of the thumbnails of at most 40 cases, with the findings of each.

    Args:
        survey: survey of the dataset.
        thumbnails: JPEG of each case by name, from `thumbnail`.
    """
    if not survey.cases:
        return "<p>No image can be read.</p>"
    shown = shown_cases(survey)
    refused = {entry.case for entry in survey.refused}
    text = "Labels are outlined."
    if not survey.flat:
        text += " The slice is the one on which the labels show most of all classes together."
    if left_out := len(survey.cases) - len(shown):
        text += (
            f" {left_out} of {len(survey.cases)} cases are left out; unusual ones are shown, the others evenly spaced."
        )
    figures = ""
    for case in shown:
        marks = [
            *(["refused"] if case.name in refused else []),
            *survey.unlike.texts.get(case.name, []),
            *_shared(case.name, "image", survey.same_images),
            *_shared(case.name, "label", survey.same_labels),
        ]
        mark = f'<br><span class="odd">{escape("; ".join(marks))}</span>' if marks else ""
        figures += (
            f'<figure><img src="{data_uri(thumbnails[case.name], "jpeg")}" alt="{escape(f"Case {case.name}")}" '
            f'loading="lazy"><figcaption>{escape(case.name)} <span>{SECTION_TITLES[case.found.section]}</span>{mark}'
            "</figcaption></figure>"
        )
    return f'<p>{text}</p>{legend(survey.labels)}<div class="thumbnails">{figures}</div>'

"""Report of a dataset: what planning would refuse, unusual cases, thumbnails, grids, values and volumes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from tskd_monai.data.planning.survey import Survey
from tskd_monai.data.task import Task
from tskd_monai.evaluation.report.dataset_sheet import contact_sheet
from tskd_monai.evaluation.report.dataset_tables import (
    SECTION_TITLES,
    count,
    measures_table,
    plan_pairs,
    section_rows,
    sections_table,
    volume_tables,
)
from tskd_monai.evaluation.report.page import filled_page, pairs_table, settings_and_versions, tiles
from tskd_monai.files.atomic import atomic_path

LISTED = 12
"""Lines of a list that are shown without a click."""


def write_dataset_page(
    output: Path, survey: Survey, thumbnails: Mapping[str, bytes], warnings: Sequence[str] = ()
) -> None:
    """Writes the report of a dataset as one self-contained HTML file, atomically.

    Args:
        output: output file, such as `check.html`.
        survey: survey of the dataset.
        thumbnails: JPEG of each case by name, from `dataset_sheet.thumbnail`.
        warnings: warnings logged during the survey.
    """
    images = sum(number for _, number in survey.listed.values())
    page = filled_page(
        title=f"{survey.name}: dataset",
        summary=f"{count(images, 'image')}; {', '.join(survey.labels.values())}.",
        headline=headline(survey),
        tiles=_tiles(survey),
        sections=[
            ("What would be refused", _refused(survey)),
            ("What is unusual", _unusual(survey, warnings)),
            ("Cases", contact_sheet(survey, thumbnails)),
            ("Sections", sections_table(survey)),
            ("Grids and values", measures_table(survey)),
            ("Volumes" if not survey.flat else "Areas", volume_tables(survey)),
            ("What planning would decide", _plan(survey.task)),
            settings_and_versions({}),
        ],
    )
    with atomic_path(output) as temporary:
        temporary.write_text(page, encoding="utf-8")


def headline(survey: Survey) -> str:
    """Returns the main finding as a sentence."""
    images = sum(number for _, number in survey.listed.values())
    whole = sum(not entry.section for entry in survey.refused)
    refused = len(survey.refused) - whole
    odd = len(survey.unlike.texts)
    if not survey.refused:
        text = f"Planning and training would take all {images} images"
    elif refused:
        text = f"Planning and training would refuse {refused} of {images} images"
        text += " and the dataset as a whole" if whole else ""
    else:
        text = "Every image can be read, but planning and training would refuse the dataset as a whole"
    doubled = len({name for names in (*survey.same_images, *survey.same_labels) for name in names})
    remarks = [f"{count(odd, 'image')} {'is' if odd == 1 else 'are'} unlike the others"] if odd else []
    remarks += [f"{doubled} cases share their image or label with another"] if doubled else []
    return f"{text}; {' and '.join(remarks) or 'none stands out'}."


def _tiles(survey: Survey) -> str:
    images = sum(number for _, number in survey.listed.values())
    cases = sum(number for number, _ in survey.listed.values())
    rows = section_rows(survey)
    labelled, shown = sum(row[3] for row in rows), sum(row[4] for row in rows)
    return tiles(
        [
            ("Images", str(images), f"of {count(cases, 'case')}"),
            ("Labelled images" if survey.flat else "Labelled slices", str(labelled), f"{shown} with a class"),
            ("Would be refused", str(len(survey.refused)), "by tskd plan and tskd train"),
            ("Unlike the others", str(len(survey.unlike.texts)), "grid, values, volumes"),
        ]
    )


def _refused(survey: Survey) -> str:
    if not survey.refused:
        return "<p>Nothing: every image and label was read as planning and training read them.</p>"
    lines = []
    for entry in survey.refused:
        where = f"{SECTION_TITLES[entry.section]}, {entry.case or 'an entry'}" if entry.section else "dataset"
        lines.append(f"<b>{escape(where)}</b>: {_with_code(entry.reason)}")
    intro = "<p>Correct these, or take them out, before <code>tskd plan</code> and <code>tskd train</code>.</p>"
    return intro + _list(lines, "refusals")


def _unusual(survey: Survey, warnings: Sequence[str]) -> str:
    lines = [f"<b>{escape(name)}</b>: {escape('; '.join(texts))}" for name, texts in survey.unlike.texts.items()]
    lines += [f"The same image: <b>{escape(', '.join(names))}</b>" for names in survey.same_images]
    lines += [
        f"The same label: <b>{escape(', '.join(names))}</b>; is it paired with the right image?"
        for names in survey.same_labels
    ]
    lines += [f"Warning: {_with_code(text)}" for text in warnings]
    if not lines:
        return "<p>No case is far from the others in grid, values or volumes, and none occurs twice.</p>"
    return "<p>Not necessarily wrong: look at these cases.</p>" + _list(lines, "findings")


def _with_code(text: str) -> str:
    """Returns a message as HTML, with text between backticks as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def _list(lines: Sequence[str], noun: str) -> str:
    text = _items(lines[:LISTED])
    if len(lines) > LISTED:
        text += f"<details><summary>{len(lines) - LISTED} more {noun}</summary>{_items(lines[LISTED:])}</details>"
    return text


def _items(lines: Iterable[str]) -> str:
    return f'<ul class="found">{"".join(f"<li>{line}</li>" for line in lines)}</ul>'


def _plan(task: Task | None) -> str:
    if task is None:
        return "<p>Nothing: no task can be planned from what can be read.</p>"
    text = "<p>From the cases that would not be refused; every value can be edited in <code>task.json</code>.</p>"
    return text + pairs_table("What planning would decide", plan_pairs(task))

"""Tables of a dataset: sections, grids and values, volumes of the classes, and the planned task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from statistics import median

from tskd_monai.data.datalist import SECTIONS
from tskd_monai.data.planning.survey import Survey
from tskd_monai.data.planning.unlike_cases import SurveyedCase, times
from tskd_monai.data.task import Task
from tskd_monai.evaluation.report.page import UNKNOWN, html_table

OPEN_ROWS = 30
"""Longest table that is not collapsed."""
SECTION_TITLES = {section: section for section in SECTIONS} | {"unlabeled": "unlabelled"}


def section_rows(survey: Survey) -> list[tuple[str, int, int, int, int]]:
    """Returns name, cases, images, labelled slices, and labelled slices with foreground of each section."""
    return [
        (
            SECTION_TITLES[section],
            *survey.listed[section],
            sum(case.labelled_slices for case in survey.cases if case.found.section == section),
            sum(case.shown_slices for case in survey.cases if case.found.section == section),
        )
        for section in SECTIONS
    ]


def sections_table(survey: Survey) -> str:
    """Returns the HTML of the number of cases, images and slices of each section."""
    rows = [[escape(name), *(str(number) for number in numbers)] for name, *numbers in section_rows(survey)]
    noun = "images" if survey.flat else "slices"
    header = ["Section", "Cases", "Images", f"Labelled {noun}", "With a class"]
    text = f"<p>{escape(survey.description)}</p>" if survey.description else ""
    return text + html_table("All listed images, readable or not", header, rows)


def measures_table(survey: Survey) -> str:
    """Returns the HTML of sizes, spacings and ranges of values over the images; "" without any."""
    if not survey.cases:
        return ""
    unit = "pixels" if survey.flat else "mm"
    plane = {case.name: _in_plane(case) for case in survey.cases}
    quantities: dict[str, dict[str, float]] = {
        "Rows, pixels": {name: shape[0] for name, shape in plane.items()},
        "Columns, pixels": {name: shape[1] for name, shape in plane.items()},
        "Pixel spacing, mm": {case.name: max(case.extent.pixels) for case in survey.cases},
        "Slices": {name: shape[2] for name, shape in plane.items()},
        "Slice distance, mm": {
            case.name: case.extent.slices for case in survey.cases if case.extent.slices is not None
        },
        f"Field of view, {unit}": {case.name: case.extent.field_of_view for case in survey.cases},
        "Values, 0.5th percentile": {case.name: case.extent.values[0] for case in survey.cases},
        "Values, 99.5th percentile": {case.name: case.extent.values[1] for case in survey.cases},
    }
    if survey.flat:
        quantities = {name: values for name, values in quantities.items() if "mm" not in name and name != "Slices"}
    rows = [_measures_row(name, values, survey) for name, values in quantities.items() if values]
    return html_table(
        "Readable images; unusual values in colour",
        ["", "Median", "Lowest", "Highest"],
        rows,
    )


def _measures_row(name: str, values: Mapping[str, float], survey: Survey) -> list[str]:
    """Returns the cells of a quantity: its name, median, and the cases with the lowest and highest value."""
    lowest, highest = (chosen(values, key=lambda case: values[case]) for chosen in (min, max))
    differ = _number(values[lowest]) != _number(values[highest])
    cells = [escape(name), _number(median(values.values()))]
    for case in (lowest, highest):
        odd = any(text.startswith(name.split(",")[0].lower()) for text in survey.unlike.texts.get(case, ()))
        text = f'<span class="odd">{_number(values[case])}</span>' if odd else _number(values[case])
        cells.append(text + (f' <span class="sd">{escape(case)}</span>' if differ else ""))
    return cells


def _in_plane(case: SurveyedCase) -> tuple[int, int, int]:
    """Returns rows, columns and number of slices."""
    axis = 2 if case.axis is None else case.axis
    rows, columns = (case.found.shape[other] for other in range(3) if other != axis)
    return rows, columns, case.found.shape[axis]


def volume_tables(survey: Survey) -> str:
    """Returns the HTML of the volumes of each class, over the cases and of every case."""
    labelled = [case for case in survey.cases if case.volumes is not None]
    if not labelled:
        return "<p>No case has a label.</p>"
    noun = "Area" if survey.flat else "Volume"
    partly = sum(case.partly for case in labelled)
    note = f' <p class="quiet">{count(partly, "case")} with labels on some slices only: volumes of these slices.</p>'
    parts = "".join(f'<p class="quiet">{escape(text)}.</p>' for text in survey.partly_labelled)
    return _class_table(survey, labelled, noun) + parts + (note if partly else "") + _case_table(survey, labelled, noun)


def count(number: int, noun: str) -> str:
    """Returns `1 image` or `2 images`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _class_table(survey: Survey, labelled: Sequence[SurveyedCase], noun: str) -> str:
    rows = []
    for value, name in survey.labels.items():
        drawn = [case.volumes[value] for case in labelled if case.volumes and value in case.volumes]
        sizes = [size for size in drawn if size]
        odd = sum(value == other for _, other in survey.unlike.volumes)
        figures = [median(sizes), min(sizes), max(sizes)] if sizes else [None] * 3
        cells = [UNKNOWN if size is None else _number(size) for size in figures]
        rows.append([escape(name), f"{len(sizes)} of {len(drawn)}", *cells, str(odd) if odd else "none"])
    header = ["Class", "Cases that show it", "Median", "Smallest", "Largest", "Unusual"]
    return html_table(f"{noun} of each class where it is shown, {survey.volume_unit}", header, rows)


def _case_table(survey: Survey, labelled: Sequence[SurveyedCase], noun: str) -> str:
    rows = []
    for case in labelled:
        cells = []
        for value in survey.labels:
            size = (case.volumes or {}).get(value)
            ratio = survey.unlike.volumes.get((case.name, value))
            text = _number(size) if size else "not drawn" if size is None else "absent"
            if ratio is None:
                cells.append(text if size else f'<span class="sd">{text}</span>')
            else:
                remark = f' <span class="sd">{times(ratio)}</span>' if ratio else ""
                cells.append(f'<span class="odd">{text}</span>{remark}')
        rows.append([escape(case.name), SECTION_TITLES[case.found.section], *cells])
    header = ["Case", "Section", *survey.labels.values()]
    table = html_table(f"{noun} by case, {survey.volume_unit}; unusual ones in colour", header, rows)
    is_open = " open" if len(rows) <= OPEN_ROWS else ""
    return f"<details{is_open}><summary>{noun} of every case</summary>{table}</details>"


def plan_pairs(task: Task) -> dict[str, str]:
    """Returns the fields of a planned task as text, by name."""
    unit = "image pixels" if task.axcodes is None else "mm"
    view = {"S": "axial", "P": "coronal", "L": "sagittal"}.get(task.axcodes[-1] if task.axcodes else "", "")
    kept = ", ".join(task.foreground[value] for value in task.keep_largest_component)
    scale = {
        "percentile": "each image from its {:.4g} to its {:.4g} percentile",
        "hu_window": "{:.4g} to {:.4g} HU",
        "rgb": "{:.4g} to {:.4g}",
    }[task.intensity.mode].format(task.intensity.lower, task.intensity.upper)
    frequencies = {label.name: fraction for label, fraction in zip(task.labels, task.class_frequencies, strict=True)}
    return {
        "Image size": f"{task.image_size[0]} × {task.image_size[1]} pixels",
        "Pixel spacing": f"{task.pixdim[0]:.4g} {unit}",
        "Slices": f"{view} ({task.axcodes})" if task.axcodes else "2D images",
        "Intensities": f"{task.intensity.mode}: {scale} becomes 0 to 1",
        "Channels": "3 (colour)" if task.channels == 3 else "1 (grey)",
        "Fraction of the training voxels": ", ".join(
            f"{name} {fraction:.2%}" for name, fraction in frequencies.items()
        ),
        "One component": f"of {kept} only the largest connected component is kept" if kept else "all are kept",
    }


def _number(value: float) -> str:
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".")  # 1.90 below 1.83

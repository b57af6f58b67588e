"""Section of the report that shows the soft targets: how good they are where labels are known, and a contact sheet."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import fmean

from tskd_monai.evaluation.report.page import html_table
from tskd_monai.evaluation.report.panels import data_uri

TABLE_NAME, SHEET_NAME = "targets.csv", "targets.png"
OUTCOMES = ("replaced", "mixed", "kept")
COLUMNS = ("case", "label", "name", "dice_source", "dice_target", "prompted", *OUTCOMES)


def targets_section(folder: Path) -> str:
    """Returns the HTML of the Dice of the targets before and after refinement, and of their contact sheet.

    Args:
        folder: targets folder, with `targets.png`, and with `targets.csv` if targets were measured.

    Raises:
        FileNotFoundError: if the contact sheet is missing.
        ValueError: if the table is damaged.
    """
    sheet = Path(folder) / SHEET_NAME
    if not sheet.is_file():
        raise FileNotFoundError(f"Expected {SHEET_NAME} in {sheet.parent}, found none; make the targets again.")
    table = Path(folder) / TABLE_NAME
    text = _table(read_targets_table(table)) if table.is_file() else ""
    alt = "Contact sheet: image, average of the sources, target, and reference where there is one"
    caption = (
        "A row for each image: the image, the average of the sources, the target, and the reference. On the right, the "
        "IoU of both masks for each prompted class, and whether the target was replaced, mixed or kept."
    )
    return (
        f'{text}<figure class="sheet"><div class="scroll" tabindex="0" role="region" aria-label="Contact sheet">'
        f'<img src="{data_uri(sheet.read_bytes())}" alt="{alt}"></div><figcaption>{caption}</figcaption></figure>'
    )


def read_targets_table(path: Path) -> list[dict[str, str]]:
    """Returns the rows of a `targets.csv`.

    Raises:
        ValueError: if it lacks a column or has no row.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing or not rows:
        found = f"no {', '.join(missing)}" if missing else "no row"
        raise ValueError(f"Expected the columns {', '.join(COLUMNS)} in {path}, found {found}; make the targets again.")
    return rows


def _table(rows: Sequence[Mapping[str, str]]) -> str:
    names = list(dict.fromkeys(row["name"] for row in rows))
    lines = [_line(name, [row for row in rows if row["name"] == name]) for name in names]
    if len(names) > 1:
        lines.append(_line("all structures", rows))
    heads = ["Structure", "Average of the sources", "Target", *(f"{outcome.capitalize()}" for outcome in OUTCOMES)]
    patients = len({row["case"] for row in rows})
    quiet = (
        f"Dice over whole cases at the networks' resolution, mean over {patients} labelled cases that neither teachers "
        "nor student were trained on, though the teacher's best epoch was chosen on them; then the number of slices on "
        "which the promptable model's mask replaced the source's, was mixed with it, or was not used."
    )
    return f'<div class="narrow">{html_table("Soft targets", heads, lines)}</div><p class="quiet">{escape(quiet)}</p>'


def _line(name: str, rows: Sequence[Mapping[str, str]]) -> list[str]:
    dice = [[float(row[column]) for row in rows if row[column]] for column in ("dice_source", "dice_target")]
    cells = [f"{fmean(values):.3f}" if values else "-" for values in dice]
    return [escape(name), *cells, *(str(sum(int(row[outcome]) for row in rows)) for outcome in OUTCOMES)]

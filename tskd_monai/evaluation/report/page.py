"""The page shared by all reports: its template, and the HTML of numbers and tables."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from html import escape
from importlib import metadata, resources
from string import Template

PACKAGES = ("tskd-monai", "torch", "monai", "pytorch-ignite", "transformers", "peft", "diffusers", "numpy")
OPTIONAL_PARTS = ("cost", "transfer_set", "curves", "settings", "notes")
UNKNOWN = "–"


def filled_page(**parts: str) -> str:
    """Returns the page with its parts, HTML or escaped text by name, filled in; missing parts are empty."""
    template = (resources.files(__package__) / "page.html").read_text(encoding="utf-8")
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    return Template(template).substitute(dict.fromkeys(OPTIONAL_PARTS, "") | parts | {"date": date})


def tiles(numbers: Iterable[tuple[str, str, str]]) -> str:
    """Returns the HTML of the key figures: name, value and remark of each, plain text."""
    return "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(remark)}</small></dd></div>"
        for name, value, remark in numbers
    )


def html_table(
    caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], marked_row: int | None = None
) -> str:
    """Returns an HTML table that scrolls sideways on a narrow screen; the first cell of a row is its heading.

    Args:
        caption: plain text.
        header: plain text, one per column.
        rows: cells as HTML (already escaped).
        marked_row: index of the row to highlight.
    """
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in header)
    body = ""
    for index, (first, *cells) in enumerate(rows):
        mark = ' class="marked"' if index == marked_row else ""
        body += f'<tr{mark}><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>\n"
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>"
    )


def pairs_table(caption: str, pairs: Mapping[str, str]) -> str:
    """Returns a two-column table of names and values."""
    rows = [[escape(str(name)), escape(str(value))] for name, value in pairs.items()]
    return html_table(caption, ["Name", "Value"], rows).replace("<table>", '<table class="pairs">')


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages, and the machine."""
    versions = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions | {"Machine": f"{platform.machine()}, {os.cpu_count()} CPU cores"}

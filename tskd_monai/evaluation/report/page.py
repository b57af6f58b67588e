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
UNKNOWN = "–"


def filled_page(title: str, summary: str, headline: str, tiles: str, sections: Iterable[tuple[str, str]]) -> str:
    """Returns the whole page.

    Args:
        title: title, plain text.
        summary: subject of the page, plain text.
        headline: main finding as a sentence, plain text.
        tiles: HTML from `tiles`.
        sections: heading (plain text) and HTML of each section; those without HTML are left out.
    """
    template = (resources.files(__package__) / "page.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        title=escape(title),
        summary=escape(summary),
        headline=escape(headline),
        tiles=tiles,
        sections="\n".join(f"<section><h2>{escape(name)}</h2>\n{html}\n</section>" for name, html in sections if html),
        date=datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    )


def settings_and_versions(settings: Mapping[str, str], notes: Sequence[str] = ()) -> tuple[str, str]:
    """Returns the last section of a page: heading and HTML; settings and notes are plain text."""
    html = pairs_table("Settings", settings) if settings else ""
    html = f'<div class="columns">{html}{pairs_table("Versions", versions())}</div>'
    if notes:
        html += "<h3>Notes</h3><ul>" + "".join(f"<li>{escape(note)}</li>" for note in notes) + "</ul>"
    return ("Settings and versions" if settings else "Versions"), html


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

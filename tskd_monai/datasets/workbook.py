"""The first sheet of an .xlsx file as text.

A workbook is a zip of XML files (ECMA-376 part 1, clause 18). A table of two columns needs no spreadsheet library.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from xml.etree import ElementTree

NAMESPACE = {"s": "http://schemas.openxmlformats.org/spreadsheetml/2006/main"}


def read_sheet(path: Path) -> list[dict[str, str]]:
    """Returns the rows below the first as dictionaries, keyed by the first row; empty rows are skipped.

    Args:
        path: path of an `.xlsx` file.

    Raises:
        ValueError: if the file is not a workbook.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            strings = _shared_strings(archive)
            sheets = [name for name in archive.namelist() if re.fullmatch(r"xl/worksheets/sheet\d+\.xml", name)]
            root = ElementTree.fromstring(archive.read(min(sheets, key=lambda name: (len(name), name))))
    except (zipfile.BadZipFile, KeyError, ValueError, ElementTree.ParseError) as error:
        raise ValueError(
            f"Expected an .xlsx workbook, found {path.name} unreadable ({error}); unpack the download again."
        ) from error
    rows = [
        {_column(cell): _text(cell, strings) for cell in row.findall("s:c", NAMESPACE)}
        for row in root.findall("s:sheetData/s:row", NAMESPACE)
    ]
    header = rows[0] if rows else {}
    named = [{header[column].strip(): text for column, text in row.items() if column in header} for row in rows[1:]]
    return [row for row in named if any(row.values())]


def _shared_strings(archive: zipfile.ZipFile) -> list[str]:
    if "xl/sharedStrings.xml" not in archive.namelist():
        return []
    root = ElementTree.fromstring(archive.read("xl/sharedStrings.xml"))
    return ["".join(part.text or "" for part in item.iterfind(".//s:t", NAMESPACE)) for item in root]


def _column(cell: ElementTree.Element) -> str:
    return re.sub(r"\d", "", cell.get("r", ""))


def _text(cell: ElementTree.Element, strings: list[str]) -> str:
    """Returns a cell as text: shared and inline strings unchanged, whole numbers without a decimal point."""
    if cell.get("t") == "inlineStr":
        return "".join(part.text or "" for part in cell.iterfind(".//s:t", NAMESPACE)).strip()
    value = cell.findtext("s:v", default="", namespaces=NAMESPACE)
    text = strings[int(value)] if cell.get("t") == "s" and value else value
    return re.sub(r"\.0+$", "", text.strip())

from __future__ import annotations

import logging
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tskd_monai.datasets.auto_oral import find
from tskd_monai.datasets.workbook import read_sheet

MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
SHAPE = (30, 40)


def _write_workbook(path: Path, rows: list[tuple[Any, ...]]) -> None:
    """Writes an .xlsx as spreadsheet programs do: shared strings, numbers inline."""
    strings = sorted({cell for row in rows for cell in row if isinstance(cell, str)})
    lines = []
    for number, row in enumerate(rows, start=1):
        cells = []
        for column, cell in zip("ABC", row, strict=False):
            value = strings.index(cell) if isinstance(cell, str) else cell
            kind = ' t="s"' if isinstance(cell, str) else ""
            cells.append(f'<c r="{column}{number}"{kind}><v>{value}</v></c>')
        lines.append(f'<row r="{number}">{"".join(cells)}</row>')
    sheet = f'<worksheet xmlns="{MAIN}"><sheetData>{"".join(lines)}</sheetData></worksheet>'
    shared = f'<sst xmlns="{MAIN}">{"".join(f"<si><t>{text}</t></si>" for text in strings)}</sst>'
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xl/worksheets/sheet1.xml", sheet)
        archive.writestr("xl/sharedStrings.xml", shared)


@pytest.fixture
def write_part(
    tmp_path: Path, save: Callable[..., Any], noise: Callable[..., np.ndarray], square: Callable[..., np.ndarray]
) -> Callable[..., Path]:
    """Returns the function that writes a part of the archive with the patient of each image."""

    def write(name: str, ending: str, workbook: str, owners: dict[int, int]) -> Path:
        root = tmp_path / "Autooral_dataset"
        for number in owners:
            pixels = noise(number + len(name) * 100, *SHAPE, 3)
            save(root / name / f"data_{ending}" / f"{number:04d}.png", pixels)
            save(root / name / f"mask_{ending}" / f"{number:04d}.png", square(255, *SHAPE))
        rows = [("Patient ID", "Image Number", "Disease"), *((p, float(n), "ulcer") for n, p in owners.items())]
        _write_workbook(root / workbook, rows)
        return root

    return write


WORKBOOKS = ("Training Set disease classification.xlsx", "Test Set disease classification.xlsx")


def test_official_test_is_kept_and_patients_stay_together(
    write_part: Callable[..., Path], prepare: Callable[..., dict[str, Any]], square: Callable[..., np.ndarray]
) -> None:
    write_part("Train", "train", WORKBOOKS[0], {1: 1, 2: 1, 3: 2, 4: 3})
    root = write_part("Test", "test", WORKBOOKS[1], {1: 7, 2: 8})
    datalist = prepare(find(root.parent))
    assert sorted(entry["case"] for entry in datalist["test"]) == ["7", "8"]
    assert sorted(entry["case"] for entry in datalist["training"] + datalist.get("validation", [])) == list("1123")
    assert datalist["licence"].startswith("academic research only")
    np.testing.assert_array_equal(np.asarray(Image.open(datalist["test"][0]["label"])), square(1, *SHAPE))


def test_patients_renumbered_in_each_part_are_distinguished(
    write_part: Callable[..., Path], prepare: Callable[..., dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    write_part("Train", "train", WORKBOOKS[0], {1: 1, 2: 2})
    root = write_part("Test", "test", WORKBOOKS[1], {1: 1})
    with caplog.at_level(logging.WARNING):
        datalist = prepare(find(root), split=(0.9, 0.1, 0))
    assert [entry["case"] for entry in datalist["test"]] == ["test_1"]
    assert "1 patient ids occur in several of Train, Test" in caplog.text


def test_an_image_without_a_patient_is_named(write_part: Callable[..., Path], save: Callable[..., Any]) -> None:
    root = write_part("Train", "train", WORKBOOKS[0], {1: 1})
    for folder in ("data_train", "mask_train"):
        save(root / "Train" / folder / "0002.png", np.zeros(SHAPE, np.uint8))
    with pytest.raises(ValueError, match=r"expected Image Number 2 in the workbook of Train.*0002\.png"):
        find(root)
    (root / WORKBOOKS[0]).unlink()
    with pytest.raises(FileNotFoundError, match="expected one workbook whose name begins with Train"):
        find(root)


def test_a_row_without_a_number_is_named(write_part: Callable[..., Path]) -> None:
    root = write_part("Train", "train", WORKBOOKS[0], {1: 1})
    _write_workbook(root / WORKBOOKS[0], [("Patient ID", "Image Number"), (4, "first")])
    with pytest.raises(ValueError, match=r"`Image Number` and `Patient ID` in every row, found .*first"):
        find(root)


def test_a_file_that_is_no_workbook_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_text("no zip")
    with pytest.raises(ValueError, match=r"Expected an \.xlsx workbook, found a\.xlsx unreadable"):
        read_sheet(tmp_path / "a.xlsx")

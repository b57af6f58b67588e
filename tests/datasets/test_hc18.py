from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from tskd_monai.datasets.hc18 import find

SHAPE = (48, 64)
ROWS, COLUMNS = np.mgrid[: SHAPE[0], : SHAPE[1]]


def _ellipse(row: float, column: float = 30) -> np.ndarray:
    return ((ROWS - row) / 14) ** 2 + ((COLUMNS - column) / 20) ** 2 <= 1


def _outline(region: np.ndarray) -> np.ndarray:
    return region & ~ndimage.binary_erosion(region, border_value=1)


@pytest.fixture
def source(tmp_path: Path, save: Callable[..., Any], noise: Callable[..., np.ndarray]) -> Path:
    """Four training images of three subjects, one cut by the border, and a test image with its own numbering."""
    for seed, (name, row) in enumerate([("000_HC", 24), ("001_HC", 20), ("010_HC", 6), ("010_2HC", 26)]):
        save(tmp_path / f"training_set/{name}.png", noise(seed, *SHAPE))
        outline = _outline(_ellipse(row)).astype(np.uint8) * 255
        save(tmp_path / f"training_set/{name}_Annotation.png", outline)
    (tmp_path / "training_set_pixel_size_and_HC.csv").write_text("filename,pixel size(mm),head circumference (mm)\n")
    save(tmp_path / "test_set/000_HC.png", noise(9, *SHAPE))
    return tmp_path


def test_outlines_are_filled_and_subjects_stay_together(source: Path, prepare: Callable[..., dict[str, Any]]) -> None:
    datalist = prepare(find(source), split=(2, 0, 1))
    entries = datalist["training"] + datalist["test"]
    assert sorted(entry["case"] for entry in entries) == ["000", "001", "010", "010"]
    assert [entry["case"] for entry in datalist["unlabeled"]] == ["test_000"]
    for entry in entries:
        row = {"000_HC": 24, "001_HC": 20, "010_HC": 6, "010_2HC": 26}[Path(entry["label"]).stem]
        mask = np.asarray(Image.open(entry["label"]))
        expected = _ellipse(row)
        assert np.unique(mask).tolist() == [0, 1]
        np.testing.assert_array_equal(mask > 0, expected)


def test_a_missing_annotation_is_named(source: Path) -> None:
    (source / "training_set/001_HC_Annotation.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"HC18: expected the file 001_HC_Annotation\.png at .*found none"):
        find(source)


def test_an_annotation_of_another_size_is_named_with_its_source(
    source: Path, save: Callable[..., Any], prepare: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    path = source / "training_set/001_HC_Annotation.png"
    original = path.read_bytes()
    save(path, (_outline(_ellipse(20)) * 255).astype(np.uint8)[:, :60])
    message = (
        r"labels/001_HC\.png \(from .*001_HC_Annotation\.png\): expected a label in the size of its image, \(48, 64"
    )
    with pytest.raises(ValueError, match=message):
        prepare(find(source))
    path.write_bytes(original)  # the refused files were removed, so the same command resumes
    assert len(prepare(find(source))["unlabeled"]) == 1


def test_another_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "training_set").mkdir()
    with pytest.raises(FileNotFoundError, match=r"HC18: expected files like .*found an empty folder"):
        find(tmp_path)

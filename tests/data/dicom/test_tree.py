from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import SegmentationStorage

from tskd_monai.data.dicom.reader import read_series
from tskd_monai.data.dicom.tree import series_folders
from tskd_monai.datasets.phantom.dicom import write_dicom_series

AFFINE = np.diag([-2.0, -2.0, 4.0, 1.0])
VOXELS = np.arange(6 * 5 * 6, dtype=np.uint16).reshape(6, 5, 6)


def series(folder: Path, number: int = 1) -> list[Path]:
    """Writes a series of six slices; those of one number are the same one."""
    return list(write_dicom_series(folder, VOXELS, AFFINE, seed=3, series_number=number))


def spread(tree: Path) -> None:
    """Moves the last two slices of a series into a folder beside its own."""
    (tree / "B").mkdir(parents=True)
    for path in series(tree / "A")[4:]:
        path.rename(tree / "B" / path.name)


def found(tree: Path) -> tuple[list[str], Counter[str]]:
    folders, left_out = series_folders(path for path in tree.rglob("*") if path.is_file())
    return [folder.relative_to(tree.parent).as_posix() for folder in folders], left_out


def test_each_folder_of_a_series_is_one(tmp_path: Path) -> None:
    series(tmp_path / "tree" / "A")
    series(tmp_path / "tree" / "B", number=2)
    assert found(tmp_path / "tree") == (["tree/A", "tree/B"], Counter())


def test_spread_series_is_in_the_folder_above(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spread(tmp_path / "tree" / "Doe_Jane")
    series(tmp_path / "tree" / "Roe_Ann", number=2)
    assert found(tmp_path / "tree") == (["tree/Doe_Jane", "tree/Roe_Ann"], Counter())
    assert read_series(tmp_path / "tree" / "Doe_Jane").voxels.shape == (5, 6, 6)
    assert "lies in 2 folders of the tree; they are read as one." in caplog.text and "Doe" not in caplog.text


def test_spread_series_beside_another_is_refused_whole(tmp_path: Path) -> None:
    spread(tmp_path / "tree" / "P1")
    series(tmp_path / "tree" / "P1" / "C", number=2)
    assert found(tmp_path / "tree")[0] == ["tree/P1", "tree/P1/C"]
    with pytest.raises(ValueError, match="Expected one DICOM series in .*, found 2"):
        read_series(tmp_path / "tree" / "P1")


def test_copies_of_a_series_stay_in_their_folders(tmp_path: Path) -> None:
    series(tmp_path / "tree" / "A")
    series(tmp_path / "tree" / "B")
    assert found(tmp_path / "tree")[0] == ["tree/A", "tree/B"]


def test_folder_without_an_image_of_a_scan_is_none(tmp_path: Path) -> None:
    for path in series(tmp_path / "tree" / "scout"):
        image = dcmread(path)
        image.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
        image.save_as(path)
    segmentation = dcmread(series(tmp_path / "tree" / "out", number=2)[0])
    segmentation.SOPClassUID = SegmentationStorage
    for path in (tmp_path / "tree" / "out").iterdir():
        segmentation.save_as(path)
    assert found(tmp_path / "tree") == ([], Counter({"localizer": 6, "SEG": 6}))


def test_damaged_file_leaves_its_folder_to_be_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    (tmp_path / "tree" / "A").mkdir(parents=True)
    (tmp_path / "tree" / "A" / "1.dcm").touch()
    assert found(tmp_path / "tree") == (["tree/A"], Counter())

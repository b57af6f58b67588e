from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.data.itk_volumes import write_volume
from tskd_monai.files.json_files import write_json
from tskd_monai.inference.case_files import sort_files


def sorted_names(folder: Path, *names: str) -> tuple[list[str], list[str], Counter[str]]:
    """Creates files and returns the names of images and DICOM files, and of those left out."""
    for name in names:
        (folder / name).write_bytes(b"a text\n" if name.endswith((".txt", "LICENSE")) else b"\0")
    files = sort_files(folder, [path for path in folder.iterdir() if path.is_file()])
    return [path.name for path in files.images], [path.name for path in files.dicom], files.left_out


def test_files_are_sorted_by_what_they_are(tmp_path: Path) -> None:
    names = ("b.nii", "a.PNG", "c.dcm", "LICENSE", "notes.txt", "x.bin", "._a.png", ".hidden.nii")
    expected = Counter({"text file": 2, "other file": 1})
    assert sorted_names(tmp_path, *names) == (["a.PNG", "b.nii"], ["c.dcm"], expected)


@pytest.mark.parametrize(
    ("names", "images"),
    [
        (("scan.nii.gz", "scan_seg.nii.gz"), ["scan.nii.gz"]),
        (("a.png", "a_seg.png", "b_seg.png"), ["a.png", "b_seg.png"]),
        (("0a1b2c3d_seg.nii.gz", "t2_0a1b2c3d_seg.nii.gz"), []),
        (
            ("t1_seg.nii.gz", "seg.nii.gz", "scan_segment.nii.gz"),
            ["scan_segment.nii.gz", "seg.nii.gz", "t1_seg.nii.gz"],
        ),
    ],
)
def test_segmentations_of_earlier_runs_are_no_images(tmp_path: Path, names: tuple[str, ...], images: list[str]) -> None:
    found, _, left_out = sorted_names(tmp_path, *names)
    assert found == images
    assert left_out["earlier segmentation"] == len(names) - len(images)


def test_volumes_of_slicer_and_snap_are_images_with_their_data_files(tmp_path: Path) -> None:
    voxels = np.zeros((2, 3, 4), np.uint8)
    for name in ("a.nhdr", "b.mhd", "c.nrrd", "d.mha", "c.seg.nrrd", "c_seg.nrrd"):
        write_volume(tmp_path / name, voxels, np.eye(4))
    (tmp_path / "e.raw").write_bytes(b"\0")
    found, _, left_out = sorted_names(tmp_path)
    assert found == ["a.nhdr", "b.mhd", "c.nrrd", "d.mha"]
    assert left_out == Counter({"other file": 1, "earlier segmentation": 2})


def test_outputs_that_a_run_has_recorded_are_no_inputs(tmp_path: Path) -> None:
    write_json(tmp_path / "records" / "1.json", {"outputs": ["case_seg.nii.gz", "case_seg.dcm"]})
    write_json(tmp_path / "records" / "2.json", ["of something else"])
    (tmp_path / "records" / "3.json").write_text("{damaged")
    found, dicom, left_out = sorted_names(tmp_path, "case_seg.nii.gz", "case_seg.dcm", "other_seg.nii.gz")
    assert (found, dicom) == (["other_seg.nii.gz"], [])
    assert left_out["earlier segmentation"] == 1

"""Images of a folder: what counts as one, what is ignored, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tskd_monai.datasets.folder_images import image_of_label, images_by_name
from tskd_monai.datasets.phantom.dicom import write_dicom_series


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def series(folder: Path, seed: int = 0) -> None:
    write_dicom_series(folder, np.zeros((8, 8, 2), np.uint16), np.diag([-1.0, -1.0, 2.0, 1.0]), seed=seed)


def test_images_have_names_without_extension_in_any_case(tmp_path: Path) -> None:
    touch(tmp_path, "a b.PNG", "c.NII.GZ", "d.seg.nrrd", "e.mhd", "e.raw")
    assert list(images_by_name(tmp_path)) == ["a b", "c", "d", "e"]


def test_files_of_systems_are_passed_over_and_others_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "a.png", ".DS_Store", "._a.png", "Thumbs.db", "desktop.ini", "__MACOSX/._a.png", "@eaDir/a.png")
    assert list(images_by_name(tmp_path)) == ["a"] and not caplog.text
    touch(tmp_path, "notes.txt", "scan.webp")
    assert list(images_by_name(tmp_path)) == ["a"]
    assert f"{tmp_path.name}/: ignored 2 other files, such as notes.txt." in caplog.text


def test_a_folder_is_a_series_or_a_patient(tmp_path: Path) -> None:
    series(tmp_path / "s1")
    touch(tmp_path, "s1/preview.png", "p1/left.png", "p1/right.png")
    series(tmp_path / "s2/STUDY/SERIES")
    series(tmp_path / "p2/T1")
    series(tmp_path / "p2/T2", seed=1)
    assert list(images_by_name(tmp_path, ["p2/T1_seg"])) == ["p1/left", "p1/right", "p2/T1", "p2/T2", "s1", "s2"]


@pytest.mark.parametrize("suffix", [".dcm", ""])
def test_dicom_files_outside_of_a_folder_are_refused(tmp_path: Path, suffix: str) -> None:
    series(tmp_path / "images")
    for path in (tmp_path / "images").iterdir():
        path.rename(path.with_suffix(suffix))
    touch(tmp_path, "images/a.nii.gz")
    message = rf"Expected the files of each DICOM series in a folder .* found 2 DICOM files .* as MR0001{suffix}\. Move"
    with pytest.raises(ValueError, match=message):
        images_by_name(tmp_path / "images")


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.txt")
    with pytest.raises(ValueError, match=r"Expected images in .*, found 1 other file, such as a\.txt; files end in"):
        images_by_name(tmp_path)


def test_a_label_belongs_to_the_longest_name() -> None:
    images = {"a", "a_1", "p/left", "s"}
    found = {name: image_of_label(name, images) for name in ("a_1_seg", "a-mask", "p/left_x", "s/seg", "ab", "b_a")}
    assert found == {"a_1_seg": "a_1", "a-mask": "a", "p/left_x": "p/left", "s/seg": "s", "ab": None, "b_a": None}

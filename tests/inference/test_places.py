from __future__ import annotations

from pathlib import Path

import pytest

from tskd_monai.inference.places import without_places


@pytest.fixture
def series(tmp_path: Path) -> Path:
    folder = tmp_path / "Doe_Jane" / "CT"
    folder.mkdir(parents=True)
    for name in ("DOE_JANE_1.dcm", "DOE_JANE_2.dcm", "3"):
        (folder / name).touch()
    return folder


def test_paths_and_files_of_a_series_are_not_named(series: Path, tmp_path: Path) -> None:
    message = f"Expected files in {series}, found {series / 'DOE_JANE_1.dcm'} short, DOE_JANE_2.dcm as well."
    told = without_places(message, series, tmp_path / "out")
    found = "file 2 of the series short, file 3 of the series as well."
    assert told == f"Expected files in the study's folder, found {found}"


def test_what_is_no_name_stays(series: Path, tmp_path: Path) -> None:
    message = "Expected one DICOM series, found 3 (CT 3 slices), 2.5 mm apart."
    assert without_places(message, series, tmp_path / "out") == message


def test_uids_and_the_output_folder_are_not_named(series: Path, tmp_path: Path) -> None:
    message = f"Expected 1.2.840.113619.2.55.3 in {tmp_path / 'out'}/a.nii.gz, found 2.25.1.2.3.4.5."
    assert (
        without_places(message, series, tmp_path / "out")
        == "Expected (a UID) in the output folder/a.nii.gz, found (a UID)."
    )


def test_file_keeps_its_own_name_and_loses_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "Doe_Jane" / "scan.nii.gz"
    path.parent.mkdir()
    path.touch()
    assert without_places(f"Expected voxels in {path}.", path, tmp_path / "out") == "Expected voxels in scan.nii.gz."
    assert "Doe" not in without_places(f"[Errno 2] {path.parent}/other.nii", path, tmp_path / "out")

from __future__ import annotations

from pathlib import Path

import pytest

from tskd_monai.files.redaction import redact_paths


@pytest.fixture
def series(tmp_path: Path) -> Path:
    folder = tmp_path / "Doe_Jane" / "CT"
    folder.mkdir(parents=True)
    for name in ("DOE_JANE_1.dcm", "DOE_JANE_2.dcm", "3"):
        (folder / name).touch()
    return folder


def test_paths_and_files_of_a_series_are_not_named(series: Path, tmp_path: Path) -> None:
    message = f"Expected files in {series}, found {series / 'DOE_JANE_1.dcm'} short, DOE_JANE_2.dcm as well."
    told = redact_paths(message, [series], tmp_path / "out")
    found = "file 2 of the series short, file 3 of the series as well."
    assert told == f"Expected files in the study's folder, found {found}"


def test_what_is_no_name_stays(series: Path, tmp_path: Path) -> None:
    message = "Expected one DICOM series, found 3 (CT 3 slices), 2.5 mm apart."
    assert redact_paths(message, [series], tmp_path / "out") == message


def test_a_name_that_is_reported_anyway_stays(series: Path) -> None:
    message = "Doe_Jane: CT is short."
    assert redact_paths(message, [series]) == "(a folder): CT is short."
    assert redact_paths(message, [series], shown=("Doe_Jane",)) == message


def test_uids_and_the_output_folder_are_not_named(series: Path, tmp_path: Path) -> None:
    message = f"Expected 1.2.840.113619.2.55.3 in {tmp_path / 'out'}/a.nii.gz, found 2.25.1.2.3.4.5."
    assert (
        redact_paths(message, [series], tmp_path / "out")
        == "Expected (a UID) in the output folder/a.nii.gz, found (a UID)."
    )


def test_uid_made_of_a_uuid_is_not_named_and_a_number_is(series: Path) -> None:
    message = "found 2.25.278063235375986675596494173257899859897 and .1 of MONAI 1.6.1 at 0.30000000000000004 mm"
    assert redact_paths(message, [series]) == "found (a UID) and .1 of MONAI 1.6.1 at 0.30000000000000004 mm"


def test_file_keeps_its_own_name_and_loses_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "Doe_Jane" / "scan.nii.gz"
    path.parent.mkdir()
    path.touch()
    assert redact_paths(f"Expected voxels in {path}.", [path], tmp_path / "out") == "Expected voxels in scan.nii.gz."
    assert "Doe" not in redact_paths(f"[Errno 2] {path.parent}/other.nii", [path], tmp_path / "out")


@pytest.mark.parametrize("name", ["Doe^Jane", "Doe_Jane 1964-02-29", "19640229", "Müller"])
def test_bare_name_of_a_folder_is_not_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name / "T2").mkdir(parents=True)
    for input_ in (tmp_path / name, tmp_path / name / "T2", tmp_path / name / "scan.nii.gz"):
        assert redact_paths(f"Expected CT, found MR in {name}.", [input_]) == "Expected CT, found MR in (a folder)."


def test_relative_paths_are_not_named(series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = "Expected n/a in Doe_Jane/CT/3, found Doe_Jane/other.nii and Doe_Jane/CT."
    told = "Expected n/a in file 1 of the series, found other.nii and the study's folder."
    assert redact_paths(message, [series.relative_to(tmp_path)]) == told


def test_folder_with_a_word_of_messages_for_a_name_leaves_the_message(tmp_path: Path) -> None:
    (tmp_path / "series").mkdir()
    message = "Expected one DICOM series, found 3."
    assert redact_paths(message, [tmp_path / "series"]) == message


def test_several_inputs_are_not_named(series: Path, tmp_path: Path) -> None:
    label = tmp_path / "Roe_Ann" / "label.nii.gz"
    label.parent.mkdir()
    label.touch()
    assert redact_paths(f"{label} and {series}", [series, label]) == "label.nii.gz and the study's folder"

"""Folders named after a patient appear in no log, terminal or output, whatever is sent and whatever is rejected.

The DICOM SEG is searched too: it contains the patient module, but nothing from folders and file names.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import FileDataset

from tests.privacy.identifiers import FOLDER, INSTANCE, SERIES_FOLDER, found_identifiers, search
from tests.privacy.planted_scans import GRID, ROOT, series_with, untrained_student
from tests.support.fork_server import python_command
from tskd_monai.files.json_files import read_json, write_json
from tskd_monai.files.private_files import FOLDER as PRIVATE

pytestmark = pytest.mark.slow

Sent = tuple[list[str], int, int]
"""The options of a run, and how many of its inputs get a DICOM SEG and how many are refused."""


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_student(tmp_path_factory.mktemp("bundle") / "student")


def setting(**tags: object) -> Callable[[FileDataset], None]:
    def edit(dataset: FileDataset) -> None:
        for tag, value in tags.items():
            setattr(dataset, tag, value)

    return edit


def person(tree: Path, number: int | str) -> Path:
    """Returns the folder of a patient."""
    return tree / f"{FOLDER}_{number}"


def dicom_tree(tree: Path) -> Sent:
    """Writes two series that are segmented, and one for each reason to reject the image or its DICOM SEG."""
    series_with(person(tree, 1), 1)
    odd = {"PatientName": "Plantedname", "PatientBirthDate": "1964-02-29", "PatientSex": "Plantedcomment"}
    series_with(person(tree, 2), 2, setting(**odd))
    series_with(person(tree, "CT"), 3, setting(Modality="CT"))
    series_with(person(tree, "uid"), 4, setting(StudyInstanceUID="1.2.Plantedstudy"))
    series_with(person(tree, "repeated"), 5, setting(SOPInstanceUID="1.2.3.4.5.6.7"))
    sorted(series_with(person(tree, "gap"), 6).iterdir())[3].unlink()
    broken = sorted(series_with(person(tree, "cut"), 7).iterdir())[2]
    broken.write_bytes(broken.read_bytes()[:-40])
    for path in series_with(person(tree, "two"), 8).iterdir():
        dataset = dcmread(path)
        dataset.SeriesInstanceUID += ".1"
        dataset.save_as(path.with_name(f"again_{path.name}"))
    series_with(person(tree, "scout"), 9, setting(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    return ["--tree", str(tree)], 2, 6


def image_files(tree: Path) -> Sent:
    """Writes NIfTI and PNG files, named by paths relative to the working directory; none has a DICOM SEG."""
    folders = [person(tree, number) for number in range(5)]
    for folder in folders:
        folder.mkdir(parents=True)
    image = nib.Nifti1Image(np.ones(GRID.shape, np.int16), GRID.matrix)
    nib.save(image, folders[0] / "good.nii.gz")
    (folders[1] / "cut.nii.gz").write_bytes((folders[0] / "good.nii.gz").read_bytes()[:200])
    nib.save(nib.Nifti1Image(np.ones((*GRID.shape, 2), np.int16), GRID.matrix), folders[2] / "two.nii.gz")
    Image.fromarray(np.zeros((32, 32), np.uint8)).save(folders[3] / "grey.png")
    (folders[4] / "text.png").write_text("no picture")
    paths = [path.relative_to(tree.parent).as_posix() for folder in folders for path in folder.iterdir()]
    return ["--image", repr(paths)], 0, 5


def datalist(tree: Path) -> Sent:
    """Writes a datalist of a series that is segmented, one of another modality, and a truncated file."""
    entries = []
    for number, modality in enumerate(("MR", "CT", "MR")):
        folder = person(tree, number)
        series_with(folder, number, setting(Modality=modality))
        (folder / "label.nii.gz").write_bytes(b"label %d" % number)
        place = {"image": f"{folder.name}/{SERIES_FOLDER}", "label": f"{folder.name}/label.nii.gz"}
        entries.append({**place, "case": f"case_{number}"})
    (folder / "t2.nii.gz").write_bytes(b"\x1f\x8b\x08")
    entries[-1]["image"] = f"{folder.name}/t2.nii.gz"
    write_json(tree / "datalist.json", {"training": [], "test": entries})
    return ["--datalist", str(tree / "datalist.json")], 1, 2


def run(student: Path, options: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Segments as a user does, with DICOM SEG, into `out` beside the inputs."""
    configs = [str(student / "configs" / name) for name in ("inference.json", "dicom_seg.json")]
    command = [python_command(), "-m", "monai.bundle", "run", "--bundle_root", student, "--config_file", repr(configs)]
    command += ["--device", "cpu", "--output_dir", folder / "out", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize("write", [dicom_tree, image_files, datalist])
def test_no_folder_of_an_input_is_revealed(write: Callable[[Path], Sent], student: Path, tmp_path: Path) -> None:
    options, segmented, refused = write(tmp_path / FOLDER)
    done = run(student, options, tmp_path)
    told = done.stdout + done.stderr
    out = tmp_path / "out"
    assert f"{refused} of " in done.stderr and read_json(out / "summary.json")["failed"] == refused
    assert told.count(" failed: Expected") == refused
    assert found_identifiers(told.encode()) == set()
    assert search(out, (PRIVATE, ".dcm"))[1] == []
    for uid in {str(dcmread(path).SeriesInstanceUID) for path in (tmp_path / FOLDER).rglob("*.dcm")}:
        assert uid not in told
    for path in out.glob("*.dcm"):
        assert found_identifiers(path.read_bytes()) & {"Plantedfolder", "PLANTEDSERIES", INSTANCE} == set()
        assert dcmread(path).ContentDescription == "Automatic segmentation, not for clinical use"
    assert len(list(out.glob("*.dcm"))) == segmented
    assert f"{FOLDER}_" in (out / PRIVATE / "studies.csv").read_text()

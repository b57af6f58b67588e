"""Every kind of input, through the bundle's own `inference.json`: exact, repaired with a warning, or rejected.

The network is an oracle that finds the phantom's solids by their grey level, so any difference from the analytic mask
is a fault of reading, preprocessing, inversion or writing. The documents' table is generated from the same rows.
"""

from __future__ import annotations

import csv
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from tests.inference import dicom_faults, itk_faults, nifti_faults, place_faults
from tests.inference.fault_rows import REFUSED, REPAIRED, Given, Row
from tests.inference.phantom_scan import Oracle, anisotropic_grid, dice, dicom, nifti, right_handed
from tests.support.paths import ROOT
from tskd_monai.bundle.student import write_student_bundle
from tskd_monai.data.task import Intensity, Task
from tskd_monai.files.private_files import FOLDER
from tskd_monai.networks.students import build_student

TEMPLATE = ROOT / "bundles" / "segmentation"
DOCUMENT = TEMPLATE / "docs" / "inputs.md"
INTENSITIES = {"MR": Intensity("percentile", 0.0, 100.0), "CT": Intensity("hu_window", -1000.0, 1000.0)}
STUDENT = "compact_unet_small"
NOBODY = 65534

ROWS = [*dicom_faults.ROWS, *nifti_faults.ROWS, *itk_faults.ROWS, *place_faults.ROWS]
CASES = [
    pytest.param(row, make, id=f"{row.name}-{number}" if len(row.makes) > 1 else row.name)
    for row in ROWS
    for number, make in enumerate(row.makes)
]
Segment = Callable[..., Path]


@pytest.fixture(scope="module")
def bundles(make_task: Callable[..., Task]) -> Iterator[dict[str, Path]]:
    """Yields a student bundle for each modality, with the oracle's weights beside the student's."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)  # pytest's own folders are inaccessible to the rows that run as nobody
        folders = {modality: Path(name) / modality for modality in INTENSITIES}
        for modality, folder in folders.items():
            task = make_task(image_size=(32, 32), pixdim=(2.0, 2.0), intensity=INTENSITIES[modality])
            weights = build_student(STUDENT, 1, task.num_classes, task.image_size).state_dict()
            write_student_bundle(TEMPLATE, folder, task, STUDENT, weights)
            torch.save(Oracle().state_dict(), folder / "models" / "oracle.pt")
        yield folders


@pytest.fixture
def segment(bundles: dict[str, Path], tmp_path: Path) -> Segment:
    """Returns the function that runs a row's input through `inference.json`; it returns the output folder."""

    def run(row: Row, given: Given) -> Path:
        bundle = bundles[row.modality]
        output_dir = given.output_dir or tmp_path / "predictions"
        configs = ["inference.json", *(["dicom_seg.json"] if row.seg else [])]
        overrides = dict(given.overrides)
        if "axcodes" in overrides:
            overrides["task"] = _with_axcodes(bundle, overrides.pop("axcodes"), tmp_path)
        workflow = ConfigWorkflow(
            [str(bundle / "configs" / name) for name in configs],
            workflow_type="infer",
            logging_file=False,
            bundle_root=str(bundle),
            image=str(given.path),
            output_dir=str(output_dir),
            device="cpu",
            network_def=Oracle(empty=row.empty),
            checkpoint=str(bundle / "models" / "oracle.pt"),
            **overrides,
        )
        workflow.initialize()
        workflow.run()
        workflow.finalize()
        return output_dir

    return run


def _with_axcodes(bundle: Path, axcodes: str, folder: Path) -> str:
    text = (bundle / "configs" / "task.json").read_text().replace('"PLS"', f'"{axcodes}"')
    (folder / "task.json").write_text(text)
    return str(folder / "task.json")


def check_outputs(row: Row, given: Given, output_dir: Path) -> None:
    """The only label map is on the grid of the input, and agrees with the analytic mask."""
    (path,) = output_dir.glob("*_seg.nii.gz")
    assert len(list(output_dir.glob("*_seg.dcm"))) == row.seg
    image = nib.load(path)
    found = np.asarray(image.dataobj)
    if row.empty:
        assert not found.any()
    if row.dice is not None:
        scores = dice(found, image.affine, given)
        assert min(scores) >= row.dice, scores


def messages(error: BaseException | None) -> Iterator[str]:
    """Yields the text that Python prints for an error and its causes."""
    while error is not None:
        yield str(error)
        error = error.__cause__


def private_messages(output_dir: Path) -> list[str]:
    """Returns the complete messages about failed cases: those that are printed name no file of a series."""
    path = output_dir / FOLDER / "studies.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [line["message"] for line in csv.DictReader(file)]


def check_refused(row: Row, given: Given, segment: Segment, output_dir: Path) -> None:
    """The run fails with the row's words and leaves no file, complete or partial."""
    with pytest.raises(Exception, match=".") as raised:
        segment(row, given)
    assert row.message in "\n".join([*messages(raised.value), *private_messages(given.output_dir or output_dir)])
    left = {path.name for path in output_dir.rglob("*") if path.is_file() and path.name.endswith((".gz", ".dcm"))}
    assert left <= ({"filler"} if not row.seg else {path for path in left if path.endswith("_seg.nii.gz")})


@pytest.mark.slow
@pytest.mark.parametrize(("row", "make"), CASES)
def test_row(
    row: Row, make: Callable[[Path], Given], segment: Segment, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = make(tmp_path)
    if row.outcome == REFUSED:
        check_refused(row, given, segment, tmp_path / "predictions")
        return
    check_outputs(row, given, segment(row, given))
    notices = [r.getMessage() for r in caplog.records if r.name.startswith("tskd_monai") and r.levelname == "WARNING"]
    assert bool(notices) == bool(row.message) == (row.outcome == REPAIRED)
    assert row.message in "\n".join(notices)


SAME_AXIS = str.maketrans("LPI", "RAS")


@pytest.mark.parametrize("plane", dicom_faults.TASK_AXES)
def test_thick_slices_score_alike_however_they_are_stored(plane: str, segment: Segment, tmp_path: Path) -> None:
    """The image has another pixel size than the task: it is resampled and the result mapped back."""
    row = Row("thick slices", "exact", ())
    axes = dicom_faults.TASK_AXES[plane]
    slice_axis = axes[2].translate(SAME_AXIS)
    scores: dict[str, list[float]] = {}
    for code in (code for code in right_handed() if code[2].translate(SAME_AXIS) == slice_axis):
        given = dicom(tmp_path, anisotropic_grid(code), name=code)
        given = replace(given, overrides={"axcodes": axes}, output_dir=tmp_path / f"{code}_predictions")
        (path,) = segment(row, given).glob("*_seg.nii.gz")
        image = nib.load(path)
        # Rows and columns differ in number, so that a transposed scan would be detected.
        scores.setdefault(code.translate(SAME_AXIS), []).append(
            min(dice(np.asarray(image.dataobj), image.affine, given))
        )
    assert [len(of_one_scan) for of_one_scan in scores.values()] == [4, 4]
    for of_one_scan in scores.values():
        assert min(of_one_scan) >= 0.999 * max(of_one_scan) > 0.99, scores


@contextmanager
def nobody() -> Iterator[None]:
    """Drops root's right to bypass file modes."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("row", place_faults.AS_NOBODY, ids=lambda row: row.name)
def test_row_without_permission(row: Row, segment: Segment, tmp_path: Path) -> None:
    segment(Row("warm", "exact", ()), nifti(tmp_path / "warm"))  # late imports are done by now
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        given = replace(row.makes[0](folder), output_dir=folder / "output")
        folder.chmod(0o755)
        with nobody():
            check_refused(row, given, segment, folder / "output")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Returns a folder on a disk of 64 kB of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root with the right to mount")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_row_on_a_full_disk(small_disk: Path, segment: Segment, tmp_path: Path) -> None:
    row = place_faults.ON_A_FULL_DISK
    check_refused(row, row.makes[0](tmp_path), segment, small_disk)
    assert {path.name for path in small_disk.rglob("*") if path.is_file()} <= {"filler", "README.txt"}


def test_documents_have_these_rows_and_no_other() -> None:
    lines = [row.line for row in [*ROWS, *place_faults.AS_NOBODY, place_faults.ON_A_FULL_DISK]]
    table = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| ")]
    assert table == ["| what is sent | outcome | warning or message |", *lines]


def test_oracle_tells_a_mirror_image(tmp_path: Path) -> None:
    given = dicom(tmp_path)
    found = nib.load(nifti(tmp_path).path).get_fdata()
    labels = np.select([found == 0, found == 1000], [1, 4])
    assert dice(labels, given.affine, given) == [1.0, 1.0]
    assert max(dice(labels[:, ::-1], given.affine, given)) < 0.8

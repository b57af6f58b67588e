"""A trained teacher segments like a student: the same run with another network."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigWorkflow

from tests.inference.phantom_scan import dicom, grid, nifti
from tests.support.paths import BUNDLES
from tskd_monai.data.task import Intensity, Task, save_task
from tskd_monai.files.json_files import read_json, write_json
from tskd_monai.inference.failures import root_cause
from tskd_monai.networks.teacher_builder import build_teacher
from tskd_monai.networks.teacher_folder import save_teacher

BUNDLE = BUNDLES / "teacher_lora"
Run = Callable[..., Path]


@pytest.fixture
def run(tmp_path: Path, make_task: Callable[..., Task]) -> Run:
    """Returns the function that runs `inference.yaml` with an untrained teacher and returns the output folder."""
    task = make_task(image_size=(64, 64), pixdim=(1.3, 1.3), intensity=Intensity("percentile", 0.0, 100.0))
    save_task(task, tmp_path / "task.json")
    teacher = build_teacher(encoder="sam_demo", encoder_weights="random", image_size=task.image_size,
                            num_classes=task.num_classes, decoder="light", rank=2, seed=3)  # fmt: skip
    save_teacher(teacher, tmp_path / "teacher", task_hash=task.hash)

    def run(**options: Any) -> Path:
        defaults = {"teacher_dir": str(tmp_path / "teacher"), "output_dir": str(tmp_path / "out"), "device": "cpu"}
        workflow = ConfigWorkflow(
            str(BUNDLE / "configs" / "inference.yaml"),
            workflow_type="infer",
            logging_file=False,
            bundle_root=str(BUNDLE),
            task=str(tmp_path / "task.json"),
            **{**defaults, **options},
        )
        workflow.initialize()
        try:
            workflow.run()
        finally:
            workflow.finalize()
        return tmp_path / "out"

    return run


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Two NIfTI files of the same name, a DICOM series, and a truncated file, in folders named after patients."""
    tree = tmp_path / "tree"
    nifti(tree / "Doe")
    nifti(tree / "Roe", grid("RAS"))
    dicom(tree / "c" / "Doe^Jane")
    broken = nifti(tree, name="broken.nii.gz").path
    broken.write_bytes(broken.read_bytes()[:-30])
    return tree


def test_one_that_fails_keeps_no_other_from_being_segmented(run: Run, tree: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as raised:
        run(tree=str(tree))
    told, out = str(raised.value.__cause__), tmp_path / "out"
    assert "1 of 4 cases failed" in told and "broken: Expected a complete NIfTI file" in told
    summary = read_json(out / "summary.json")
    assert (summary["done"], summary["failed"]) == (3, 1)
    names = {path.name for path in out.glob("*_seg.nii.gz")}
    assert names == {name for record in summary["studies"] for name in record.get("outputs", [])} and len(names) == 3
    with (out / "volumes.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 3
    public = "".join(
        path.read_text() for path in (*out.glob("*.*s*"), *out.glob("records/*")) if "nii" not in path.name
    )
    assert not re.search(f"[DR]oe|{re.escape(str(tmp_path))}", public + "".join(names))
    assert "Doe^Jane" in (out / "private" / "studies.csv").read_text()


def test_second_run_does_what_is_left_and_another_teacher_does_all(
    run: Run, tree: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tree / "broken.nii.gz").unlink()
    caplog.set_level("INFO", logger="tskd_monai")
    out = run(tree=str(tree))
    before = {path: path.stat().st_mtime_ns for path in out.glob("*_seg.nii.gz")}
    next(iter(before)).unlink()
    run(tree=str(tree))
    assert "2 cases are done already" in caplog.text
    assert sum(path.stat().st_mtime_ns != time for path, time in before.items()) == 1
    record = tmp_path / "teacher" / "teacher.json"
    write_json(record, {**read_json(record), "record": {"trained": "again"}})
    run(tree=str(tree))
    assert all(path.stat().st_mtime_ns != time for path, time in before.items())


def test_folder_that_is_no_teachers_is_named_as_such(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RuntimeError) as raised:
        run(image=str(nifti(tmp_path).path), teacher_dir=str(tmp_path / "empty"))
    assert "teacher" in str(root_cause(raised.value)) and "found none" in str(root_cause(raised.value))
    assert not list((tmp_path / "out").glob("*_seg*"))


def test_a_dicom_seg_comes_with_the_students_override(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    override = read_json(BUNDLES / "segmentation" / "configs" / "dicom_seg.json")
    out = run(image=str(dicom(tmp_path / "series").path), **override)
    assert len(list(out.glob("*_seg.dcm"))) == 1

from __future__ import annotations

import csv
import logging
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow
from PIL import Image

from tests.data.itk_volumes import write_volume
from tests.inference.phantom_scan import SOLIDS, Oracle, dicom, grid, nifti, scanned
from tests.support.paths import ROOT
from tskd_monai.bundle.student import write_student_bundle
from tskd_monai.data.task import Intensity, Task, TrainingImages, save_task
from tskd_monai.data.volume_reader import VolumeReader
from tskd_monai.files.json_files import read_json
from tskd_monai.files.shard import Shard
from tskd_monai.inference.failures import root_cause
from tskd_monai.inference.outputs import WriterThread
from tskd_monai.inference.segmentation_run import SegmentationRun
from tskd_monai.networks.students import build_student

STUDENT = "compact_unet_small"
Run = Callable[..., Path]


@pytest.fixture
def task(make_task: Callable[..., Task]) -> Task:
    return make_task(image_size=(32, 32), pixdim=(2.0, 2.0), intensity=Intensity("percentile", 0.0, 100.0))


@pytest.fixture
def bundle(tmp_path: Path, task: Task) -> Path:
    weights = build_student(STUDENT, 1, task.num_classes, task.image_size).state_dict()
    write_student_bundle(ROOT / "bundles" / "segmentation", tmp_path / "bundle", task, STUDENT, weights)
    torch.save(Oracle().state_dict(), tmp_path / "bundle" / "models" / "oracle.pt")
    return tmp_path / "bundle"


@pytest.fixture
def run(bundle: Path, tmp_path: Path) -> Run:
    """Returns the function that runs `inference.json` and returns the output folder."""

    def run(**overrides: Any) -> Path:
        workflow = ConfigWorkflow(
            str(bundle / "configs" / "inference.json"),
            workflow_type="infer",
            logging_file=False,
            bundle_root=str(bundle),
            output_dir=str(tmp_path / "out"),
            device="cpu",
            network_def=Oracle(),
            checkpoint=str(bundle / "models" / "oracle.pt"),
            **overrides,
        )
        workflow.initialize()
        workflow.run()
        workflow.finalize()
        return tmp_path / "out"

    return run


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """Returns a tree of two NIfTI files of the same name, a DICOM series, and a truncated file."""
    tree = tmp_path / "tree"
    nifti(tree / "a")
    nifti(tree / "b", grid("RAS"))
    dicom(tree / "c" / "Doe^Jane")
    broken = nifti(tree, name="broken.nii.gz").path
    broken.write_bytes(broken.read_bytes()[:-30])
    return tree


def test_failed_study_is_reported_and_the_others_are_done(run: Run, studies: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as raised:
        run(tree=str(studies))
    assert "1 of 4 cases failed" in str(raised.value.__cause__)
    assert "broken: Expected a complete NIfTI file, found broken.nii.gz truncated" in str(raised.value.__cause__)
    summary = read_json(tmp_path / "out" / "summary.json")
    assert (summary["done"], summary["failed"]) == (3, 1)
    assert [study["status"] for study in summary["studies"]] == ["failed", "done", "done", "done"]
    names = [path.name for path in (tmp_path / "out").glob("*_seg.nii.gz")]
    assert len(names) == 3 and not any("Doe" in name for name in names)
    assert sorted(names) == sorted(name for study in summary["studies"] for name in study.get("outputs", []))


def test_volumes_are_those_of_the_solids(run: Run, tmp_path: Path) -> None:
    out = run(image=str(nifti(tmp_path).path))
    with (out / "volumes.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["study"] == "scan"
    for name, value in (("liver", 1), ("spleen", 4)):
        a, b, c = SOLIDS[value].radii
        assert float(row[f"{name} (mL)"]) == pytest.approx(4 / 3 * 3.14159 * a * b * c / 1000, rel=0.05)


def test_segmentations_of_slicers_scans_are_slicers_files(run: Run, tmp_path: Path) -> None:
    """`same`: NRRD for the NRRD scan, NIfTI for the others; the voxels and the grid are the same in all."""
    where = grid("LAS", rotation=(10.0, -15.0, 20.0))
    for name in ("a.nrrd", "b.mhd"):
        write_volume(tmp_path / name, scanned(where).astype("<i2"), where.matrix)
    scans = [str(tmp_path / "a.nrrd"), str(tmp_path / "b.mhd"), str(nifti(tmp_path, where, name="c.nii.gz").path)]
    out = run(image=scans, output_format="same")
    assert sorted(path.name for path in out.glob("*_seg*")) == ["a_seg.nrrd", "b_seg.nii.gz", "c_seg.nii.gz"]
    assert [case["outputs"] for case in read_json(out / "summary.json")["studies"]] == [
        ["a_seg.nrrd"], ["b_seg.nii.gz"], ["c_seg.nii.gz"]
    ]  # fmt: skip
    (labels, meta), *others = (VolumeReader(labels=True).read(path) for path in sorted(out.glob("*_seg*")))
    np.testing.assert_array_equal(meta["affine"], VolumeReader().read(scans[0])[1]["affine"])
    assert set(np.unique(labels)) == {0, 1, 4}
    for other, other_meta in others:
        np.testing.assert_array_equal(labels, other)
        np.testing.assert_allclose(other_meta["affine"], meta["affine"], atol=1e-5)  # NIfTI has single precision


def test_a_new_data_file_is_a_new_scan(run: Run, tmp_path: Path) -> None:
    path = write_volume(tmp_path / "a.mhd", scanned(grid()).astype("<i2"), grid().matrix)
    first = run(image=str(path))
    before = len(list((first / "records").iterdir()))
    run(image=str(path))
    assert len(list((first / "records").iterdir())) == before
    os.utime(tmp_path / "a.zraw", (0, 0))
    run(image=str(path))
    assert len(list((first / "records").iterdir())) == before + 1


def test_image_file_has_pixels_and_no_millilitres(run: Run, task: Task, bundle: Path, tmp_path: Path) -> None:
    save_task(replace(task, axcodes=None, pixdim=(1.0, 1.0)), bundle / "configs" / "task.json")
    pixels = np.full((32, 28), 128, np.uint8)
    pixels[2:5, 4:11], pixels[20:22, 3:5] = 0, 255
    Image.fromarray(pixels).save(tmp_path / "eye.png")
    out = run(image=str(tmp_path / "eye.png"))
    with (out / "volumes.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row == {"study": "eye", "liver (pixels)": "21", "spleen (pixels)": "4"}
    assert "ml" not in (out / "summary.json").read_text().lower()


def test_image_file_for_a_model_of_volumes_fails_with_the_reason(run: Run, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((32, 28), np.uint8)).save(tmp_path / "shot.png")
    with pytest.raises(RuntimeError) as raised:
        run(image=str(tmp_path / "shot.png"))
    assert "shot: Expected a volume (NIfTI, NRRD, MetaImage, DICOM)" in str(raised.value.__cause__)
    assert not list((tmp_path / "out").glob("*_seg*"))


def test_unlike_study_is_done_with_a_warning_in_log_record_and_summary(
    run: Run, task: Task, bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known = TrainingImages((300.0, 400.0), (1.0, 2.0), (1.0, 8.0), (0.0, 1000.0))
    save_task(replace(task, training_images=known), bundle / "configs" / "task.json")
    out = run(image=str(nifti(tmp_path).path))
    expected = "field of view 48 mm, in training 300 to 400 mm"
    assert f"scan is unlike the images that the model was trained on: {expected}." in caplog.text
    assert "1 of 1 cases are unlike the training images" in caplog.text
    summary = read_json(out / "summary.json")
    (record,) = (out / "records").iterdir()
    assert summary["studies"] == [read_json(record)]
    assert (summary["done"], summary["studies"][0]["unlike_training"]) == (1, expected)
    save_task(replace(task, training_images=known, unlike_training="refuse"), bundle / "configs" / "task.json")
    with pytest.raises(RuntimeError) as raised:  # although it was done with a warning
        run(image=str(tmp_path / "scan.nii.gz"))
    assert f"in scan, found {expected}; check the image" in str(raised.value.__cause__)


def test_study_like_the_training_images_has_no_warning(run: Run, task: Task, bundle: Path, tmp_path: Path) -> None:
    known = TrainingImages((40.0, 50.0), (1.0, 2.0), None, (0.0, 1000.0))
    save_task(replace(task, training_images=known), bundle / "configs" / "task.json")
    assert "unlike" not in (run(image=str(nifti(tmp_path).path)) / "summary.json").read_text()


def test_what_was_done_is_not_done_again(run: Run, studies: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    (studies / "broken.nii.gz").unlink()
    out = run(tree=str(studies))
    before = {path: path.stat().st_mtime_ns for path in out.glob("*_seg.nii.gz")}
    next(iter(before)).unlink()
    run(tree=str(studies))
    after = {path: path.stat().st_mtime_ns for path in out.glob("*_seg.nii.gz")}
    assert before.keys() == after.keys()
    assert sum(before[path] != after[path] for path in before) == 1
    assert "2 cases are done already" in caplog.text
    assert read_json(out / "summary.json")["done"] == 3
    run(tree=str(studies))
    run(tree=str(studies), resume=False)
    assert all(path.stat().st_mtime_ns > after[path] for path in after)


def test_failed_study_is_tried_again_and_a_changed_one_is_new(run: Run, tmp_path: Path) -> None:
    path = nifti(tmp_path).path
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(RuntimeError):
        run(image=str(path))
    path.write_bytes(whole)
    out = run(image=str(path))
    first = nib.load(out / "scan_seg.nii.gz").get_fdata()
    nifti(tmp_path, grid("LPS"))
    run(image=str(path))
    assert (nib.load(out / "scan_seg.nii.gz").get_fdata() != first).any()
    assert read_json(out / "summary.json")["studies"][0]["status"] == "done"


def test_series_that_is_there_twice_does_not_overwrite_itself(run: Run, tmp_path: Path) -> None:
    dicom(tmp_path / "tree", name="first")
    dicom(tmp_path / "tree", name="again")
    with pytest.raises(RuntimeError) as raised:
        run(tree=str(tmp_path / "tree"))
    assert "the inputs hold the series twice" in str(raised.value.__cause__)
    assert read_json(tmp_path / "out" / "summary.json")["done"] == 1


def test_progress_tells_the_time_left_and_no_path(run: Run, studies: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    (studies / "broken.nii.gz").unlink()
    run(tree=str(studies))
    lines = [r.getMessage() for r in caplog.records if r.name.endswith("segmentation_run")]
    assert lines[0].startswith("1 of 3 cases, about ") and lines[-1] == "3 of 3 cases, about 0 s left."
    assert not any("Doe" in line or str(studies) in line for line in lines)


def test_processes_partition_the_cases(run: Run, studies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (studies / "broken.nii.gz").unlink()
    monkeypatch.setattr(idist, "get_world_size", lambda: 2)
    monkeypatch.setattr(idist, "barrier", lambda: None)
    written = []
    for rank in (1, 0):  # sequentially: the last process to finish writes the summary
        monkeypatch.setattr(idist, "get_rank", lambda rank=rank: rank)
        out = run(tree=str(studies))
        written.append(len(list(out.glob("*_seg.nii.gz"))))
        assert (out / "summary.json").is_file() == (rank == 0)
    assert written == [1, 3]
    assert read_json(out / "summary.json")["done"] == 3


def test_shards_partition_the_cases_and_the_last_writes_the_tables(run: Run, studies: Path) -> None:
    (studies / "broken.nii.gz").unlink()
    whole = {name: (run(tree=str(studies)) / name).read_bytes() for name in ("volumes.csv", "private/studies.csv")}
    shutil.rmtree(studies.parent / "out/records")
    for name in whole:
        (studies.parent / "out" / name).unlink()
    done = []
    for number in (3, 1, 2):
        out = run(tree=str(studies), shard=f"{number}/3")
        done.append(read_json(out / f"summary.{number}-of-3.json")["done"])
        assert (out / "volumes.csv").is_file() == (sum(done) == 3)
    assert {name: (out / name).read_bytes() for name in whole} == whole
    assert not list(out.glob(".tskd*"))


def test_a_run_without_shards_completes_and_merges_what_shards_have_done(run: Run, studies: Path) -> None:
    with suppress(RuntimeError):  # if it has the broken one
        run(tree=str(studies), shard="1/2")
    with pytest.raises(RuntimeError):
        run(tree=str(studies))
    out = studies.parent / "out"
    assert (read_json(out / "summary.json")["done"], read_json(out / "summary.json")["failed"]) == (3, 1)
    assert len((out / "volumes.csv").read_text().splitlines()) == 4


def test_copies_of_a_series_in_two_shards_have_one_result(run: Run, tmp_path: Path) -> None:
    candidates = [tmp_path / "tree" / f"{index}" for index in range(100)]
    for number in (1, 2):
        for folder in [path for path in candidates if Shard(number, 2).owns(str(path / "series"))][:2]:
            dicom(folder)
    for number in (1, 2):
        with pytest.raises(RuntimeError):
            run(tree=str(tmp_path / "tree"), shard=f"{number}/2")
    summary = read_json(tmp_path / "out" / "summary.json")
    assert (summary["done"], summary["failed"]) == (1, 3)
    assert all("series twice" in case["message"] for case in summary["studies"] if case["status"] == "failed")
    (owner,) = (record["input"] for record in csv.DictReader((tmp_path / "out/private/studies.csv").open())
                if record["status"] == "done")  # fmt: skip
    shutil.rmtree(owner)
    with pytest.raises(RuntimeError):
        run(tree=str(tmp_path / "tree"), shard="1/1")
    assert read_json(tmp_path / "out" / "summary.json")["done"] == 1  # a copy takes the place of one that is gone


def test_nothing_that_a_run_keeps_in_memory_grows_with_the_records(
    run: Run, bundle: Path, task: Task, tmp_path: Path
) -> None:
    path = nifti(tmp_path).path
    out = run(image=str(path))
    (record,) = (out / "records").iterdir()
    content = read_json(record)
    writer = WriterThread()
    case = {"image": str(path), "name": "scan"}
    segmented = SegmentationRun([case], out, task, bundle / "models/oracle.pt", {}, writer, resume=False)
    segmented._record(case, "done", **{key: value for key, value in content.items() if key not in ("study", "status")})
    assert "scan_seg.nii.gz" not in repr(vars(segmented))


def test_a_study_with_a_damaged_record_is_done_again(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = nifti(tmp_path).path
    out = run(image=str(path))
    (record,) = (out / "records").iterdir()
    whole = record.read_text()
    record.write_text(whole[:40])
    run(image=str(path))
    assert "The case is segmented again: Expected JSON in" in caplog.text
    assert read_json(record)["status"] == "done"


@pytest.mark.parametrize("more", [[], ["multi_gpu_inference.json"]])
def test_bundle_root_that_the_command_line_took_for_a_number_is_refused_in_one_line(
    bundle: Path, more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    configs = [str(bundle / "configs" / name) for name in ("inference.json", *more)]
    workflow = ConfigWorkflow(configs, workflow_type="infer", logging_file=False, bundle_root=20240115,
                              output_dir=str(tmp_path / "out"))  # fmt: skip
    workflow.initialize()
    with pytest.raises(RuntimeError) as raised:
        workflow.run()
    assert str(root_cause(raised.value)).startswith("Expected a path for --bundle_root, found 20240115, as which")
    assert not (tmp_path / "out").exists()

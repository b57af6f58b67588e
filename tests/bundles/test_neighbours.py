"""A student of neighbouring slices (2.5D): trained beside a 2D teacher, exported and run as every other student."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ckpt_export, run, verify_metadata, verify_net_in_out
from monai.transforms import LoadImage

from tests.bundles import monai_label_requests as monai_label
from tests.bundles.trainings import TRAININGS, start, study_task, write_patients
from tskd_monai.bundle.options import user_error
from tskd_monai.bundle.zoo.contents import Trained, place_student
from tskd_monai.data.datalist import load_section
from tskd_monai.data.task import Task, load_task, save_task
from tskd_monai.distillation.teachers import load_any_teacher
from tskd_monai.files.json_files import read_json
from tskd_monai.inference.export import export_student, load_student
from tskd_monai.transforms.pipelines import preprocessing, training_preprocessing

pytestmark = pytest.mark.slow

DISTIL, FINE_TUNE, CONTINUE = TRAININGS[2:]
SHORT: dict[str, Any] = {"max_epochs": 1}


def with_task(study: Path, **changes: Any) -> Path:
    """Changes the task of a dataset; the teacher, which was made before, stays."""
    save_task(replace(study_task(study), **changes), study / "task.json")
    return study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a dataset with a 2D teacher and a 2D student, whose task now states one neighbour on each side."""
    return with_task(write_patients(tmp_path_factory.mktemp("neighbours")), neighbours=1)


@pytest.fixture(scope="module")
def student(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distilled") / "student"
    start(DISTIL, study, folder, **SHORT)
    return folder


@pytest.fixture(scope="module")
def scan(study: Path) -> Path:
    return Path(load_section(study / "datalist.json", "test")[0]["image"])


def stacks(volume: torch.Tensor) -> torch.Tensor:
    """Returns the channels of each slice of a volume (C, H, W, D), made by hand."""
    last = volume.shape[-1] - 1
    return torch.stack(
        [
            torch.cat([volume[..., max(i - 1, 0)], volume[..., i], volume[..., min(i + 1, last)]])
            for i in range(last + 1)
        ]
    )


def by_hand(student: Path, scan: Path, change: Callable[[torch.Tensor], torch.Tensor] = stacks) -> np.ndarray:
    """Returns the class of each pixel (D, H, W) in the task's orientation."""
    network, task = load_student(student)
    volume = preprocessing(task)({"image": str(scan)})["image"].as_tensor()
    with torch.no_grad():
        return network(change(volume)).argmax(dim=1).numpy()


def segmented(student: Path, scan: Path, output_dir: Path, **options: Any) -> np.ndarray:
    """Returns the class of each pixel of a prediction by the bundle, without filters, as `by_hand`."""
    task = load_task(student / "configs/task.json")
    save_task(replace(task, unfiltered=task.keep_largest_component), output_dir.parent / "unfiltered.json")
    given = {"bundle_root": str(student), "image": str(scan), "output_dir": str(output_dir), "device": "cpu"}
    config = str(student / "configs/inference.json")
    run(config_file=config, logging_file=False, task=str(output_dir.parent / "unfiltered.json"), **given, **options)
    return classes(task, scan, next(output_dir.glob("*_seg.nii.gz")))


def classes(task: Task, scan: Path, label_map: Path) -> np.ndarray:
    item = training_preprocessing(task)({"image": str(scan), "label": str(label_map)})
    return item["label"].as_tensor()[0].movedim(-1, 0).numpy()


def test_inference_sees_the_neighbours_in_the_middle_and_at_the_ends(student: Path, scan: Path, tmp_path: Path) -> None:
    found = segmented(student, scan, tmp_path / "predictions", engine="torch", sw_batch_size=4)  # of six slices
    expected = by_hand(student, scan)
    assert found.shape == expected.shape and len(np.unique(found)) > 1
    for index in range(len(found)):
        assert (found[index] == expected[index]).mean() > 0.999, index
    alone = by_hand(student, scan, lambda volume: volume.movedim(-1, 0).repeat(1, 3, 1, 1))
    assert (found != alone).mean() > 0.001  # the neighbours matter


def test_exported_networks_agree(student: Path, scan: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    shutil.copytree(student, tmp_path / "student")
    rows = export_student(tmp_path / "student", ["onnxruntime"])
    assert all(row["accepted"] and row["max_difference"] < 1e-3 for row in rows)
    found = segmented(tmp_path / "student", scan, tmp_path / "predictions", engine="onnxruntime")
    assert (found == by_hand(student, scan)).mean() > 0.999


def test_monai_verifies_and_exports_the_bundle(student: Path, tmp_path: Path) -> None:
    metadata = student / "configs/metadata.json"
    verify_metadata(meta_file=str(metadata), filepath=str(Path(__file__).parent / "meta_schema_20240725.json"))
    image = read_json(metadata)["network_data_format"]["inputs"]["image"]
    assert image["channel_def"] == {"0": "image, slice -1", "1": "image", "2": "image, slice +1"}
    common = {"net_id": "network_def", "meta_file": str(metadata), "bundle_root": str(student),
              "config_file": str(student / "configs/inference.json")}  # fmt: skip
    verify_net_in_out(device="cpu", **common)
    program, weights = str(tmp_path / "model.ts"), str(student / "models/model.pt")
    ckpt_export(filepath=program, ckpt_file=weights, key_in_ckpt="", **common)
    network, task = load_student(student)
    images = torch.rand(2, 3, *task.image_size)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(program)(images), network(images))


def test_the_model_zoo_and_monai_label_see_the_same_network(student: Path, scan: Path, tmp_path: Path) -> None:
    contents = place_student(Trained(student), tmp_path / "export")
    assert contents.metadata["network_data_format"]["inputs"]["image"]["num_channels"] == 3
    assert contents.settings["inference.json"]["network_def"]["in_channels"] == 3
    shutil.copytree(student, tmp_path / "student")
    task = load_task(student / "configs/task.json")
    save_task(replace(task, unfiltered=task.keep_largest_component), tmp_path / "student/configs/task.json")
    pred = monai_label.infer(tmp_path / "student", scan)["pred"]
    segmented(student, scan, tmp_path / "predictions")
    written = LoadImage(image_only=True)(next((tmp_path / "predictions").glob("*_seg.nii.gz")))
    assert torch.equal(torch.as_tensor(pred[0]).long(), written.as_tensor().long())


def test_targets_are_the_same_files_for_2d_and_2_5d_students(study: Path, tmp_path: Path) -> None:
    flat = with_task(shutil.copytree(study, tmp_path / study.name), neighbours=0)
    targets = tmp_path / "targets"
    start(DISTIL, flat, tmp_path / "flat", cache_dir=str(targets), **SHORT)
    before = {path.name: path.stat().st_mtime_ns for path in targets.iterdir()}
    start(DISTIL, study, tmp_path / "stacked", cache_dir=str(targets), **SHORT)
    assert before and {path.name: path.stat().st_mtime_ns for path in targets.iterdir()} == before
    start(DISTIL, study, tmp_path / "online", cache_dir="$None", **SHORT)  # the teacher runs in each step
    assert load_student(tmp_path / "online")[1].neighbours == 1


def test_training_goes_on_from_a_student_of_the_same_neighbours(study: Path, student: Path, tmp_path: Path) -> None:
    start(FINE_TUNE, study, tmp_path / "tuned", initial_student=str(student), **SHORT)
    assert load_student(tmp_path / "tuned")[1].neighbours == 1
    with pytest.raises(RuntimeError) as raised:
        start(FINE_TUNE, study, tmp_path / "other", initial_student=str(study / "student"), **SHORT)
    message = str(user_error(raised.value))
    assert "Expected a student of 1 neighbouring slices on each side in student, found one of 0" in message
    own = shutil.copytree(student, tmp_path / study.name / "student").parent
    shutil.copy(study / "datalist.json", own)
    start(CONTINUE, own, tmp_path / "continued", **SHORT)
    assert (tmp_path / "continued" / "model.pt").is_file()


def test_a_student_of_neighbours_is_a_teacher_of_its_like_only(study: Path, student: Path, tmp_path: Path) -> None:
    task = study_task(study)
    start(DISTIL, study, tmp_path / "self", teacher_dir=str(student), cache_dir=str(tmp_path / "targets"), **SHORT)
    assert load_any_teacher(student, task).neighbours == 1
    assert load_any_teacher(study / "student", task).neighbours == 0  # the 2D student teaches both
    for neighbours in (0, 2):
        with pytest.raises(ValueError, match=f"Expected a student of {neighbours} neighbouring slices .* one of 1"):
            load_any_teacher(student, replace(task, neighbours=neighbours))


@pytest.mark.parametrize("training", [TRAININGS[0], DISTIL, FINE_TUNE, CONTINUE], ids=lambda training: training.name)
def test_dry_runs_try_a_step(training: Any, study: Path, student: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(study, tmp_path / study.name)
    shutil.rmtree(copy / "student")
    shutil.copytree(student, copy / "student")
    start(training, copy, tmp_path / "never", training.dry_run)
    assert not (tmp_path / "never").exists()

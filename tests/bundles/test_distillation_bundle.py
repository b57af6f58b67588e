"""The distillation bundle with and without cached targets, run by the bundle runner."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigWorkflow, run

from tests.support.paths import ROOT
from tskd_monai.bundle.options import user_error
from tskd_monai.bundle.student import load_student_weights
from tskd_monai.data.datalist import load_datalist
from tskd_monai.data.planning.rules import plan_task
from tskd_monai.data.task import load_task, save_task
from tskd_monai.datasets.phantom.study import write_study
from tskd_monai.distillation.target_cache import TargetCache
from tskd_monai.distillation.teachers import load_any_teacher
from tskd_monai.files.json_files import read_json
from tskd_monai.networks.teacher import state_sha256
from tskd_monai.networks.teacher_builder import build_teacher
from tskd_monai.networks.teacher_folder import save_teacher

pytestmark = pytest.mark.slow

BUNDLE = ROOT / "bundles" / "distillation"
SHORT = {"epoch_length": 2, "max_epochs": 1, "batch_size": 2, "val_interval": 1, "seed": 5, "device": "cpu"}
SLICES = 6


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a dataset of one training and one validation case of six slices, with an untrained teacher."""
    folder = tmp_path_factory.mktemp("study")
    write_study(
        folder, seed=3, sections={"training": 1, "validation": 1}, shape=(32, 32, 6), spacing=(10.8, 10.8, 27.0)
    )
    task = plan_task(load_datalist(folder / "datalist.json"), image_size=32)
    save_task(task, folder / "task.json")
    teacher = build_teacher(
        encoder="sam_demo",
        encoder_weights="random",
        image_size=task.image_size,
        num_classes=task.num_classes,
        decoder="light",
        rank=2,
        seed=3,
    )
    save_teacher(teacher, folder / "teacher", task_hash=task.hash)
    return folder


@pytest.fixture(autouse=True)
def info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="tskd_monai")


def options(study: Path, output_dir: Path, **changes: Any) -> dict[str, Any]:
    """Returns the options that a user gives on the command line."""
    files = {"datalist": "datalist.json", "task": "task.json", "teacher_dir": "teacher"}
    paths = {name: str(study / file) for name, file in files.items()}
    return {"bundle_root": str(BUNDLE), **paths, "output_dir": str(output_dir), **changes}


def distil(study: Path, output_dir: Path, **changes: Any) -> None:
    """Runs train.yaml as on the command line."""
    config = str(BUNDLE / "configs" / "train.yaml")
    run(config_file=config, logging_file=False, **{**SHORT, **options(study, output_dir, **changes)})


def asked(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Returns the lines of the log about cached targets, without their size."""
    return [message.split(";")[0] for message in caplog.messages if message.startswith("Teacher targets")]


def weights(study: Path, output_dir: Path) -> dict[str, torch.Tensor]:
    found = load_student_weights(output_dir, load_task(study / "task.json"))
    assert found is not None
    return found


def test_a_second_training_runs_no_teacher_and_ends_alike(
    study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    teacher = load_any_teacher(study / "teacher", load_task(study / "task.json"))
    before = state_sha256(teacher)
    distil(study, tmp_path / "first")
    targets = tmp_path / "first" / "teacher_targets"
    kept = {path.name: path.stat().st_mtime_ns for path in targets.iterdir()}
    assert 0 < len(kept) <= SLICES
    distil(study, tmp_path / "second", cache_dir=str(targets))
    assert asked(caplog) == [f"Teacher targets: {SLICES} images, {number} of them computed now" for number in (6, 0)]
    assert {path.name: path.stat().st_mtime_ns for path in targets.iterdir()} == kept
    assert not (tmp_path / "second" / "teacher_targets").exists()
    first, second = weights(study, tmp_path / "first"), weights(study, tmp_path / "second")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert state_sha256(load_any_teacher(study / "teacher", load_task(study / "task.json"))) == before


def test_without_a_cache_nothing_is_kept(study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    distil(study, tmp_path / "online", cache_dir="$None")
    assert asked(caplog) == []
    assert not list(tmp_path.rglob("*.npz"))
    assert weights(study, tmp_path / "online")
    assert read_json(tmp_path / "online" / "record.json")["stage"] == "distillation"


@pytest.mark.usefixtures("bfloat16_anywhere")
def test_the_student_is_trained_in_the_requested_precision(study: Path, tmp_path: Path) -> None:
    for precision in ("float32", "bfloat16"):
        distil(study, tmp_path / precision, precision=precision, cache_dir=str(tmp_path / "targets"))
    exact, rough = weights(study, tmp_path / "float32"), weights(study, tmp_path / "bfloat16")
    assert {value.dtype for value in rough.values()} == {torch.float32}
    assert any(not torch.equal(exact[name], rough[name]) for name in exact)
    assert all((exact[name] - rough[name]).abs().max() < 0.02 for name in exact)


def make_targets(study: Path, output_dir: Path, **changes: Any) -> None:
    """Runs targets.yaml as on the command line."""
    config = str(BUNDLE / "configs" / "targets.yaml")
    given = {**options(study, output_dir), "teacher_dirs": str(study / "teacher"), "device": "cpu", **changes}
    del given["teacher_dir"]
    run(config_file=config, logging_file=False, **given)


def test_targets_made_before_and_elsewhere_give_the_same_student(
    study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_targets(study, tmp_path / "targets")
    assert [path.name for path in tmp_path.iterdir()] == ["targets"]  # nothing was trained
    before = (tmp_path / "targets" / "targets.json").read_bytes()
    next((tmp_path / "targets").glob("*.npz")).unlink()  # as if it had been interrupted
    make_targets(study, tmp_path / "targets")
    assert (tmp_path / "targets" / "targets.json").read_bytes() == before
    distil(study, tmp_path / "read", targets=str(tmp_path / "targets"), teacher_dir="none")
    assert asked(caplog) == [] and not (tmp_path / "read" / "teacher_targets").exists()
    distil(study, tmp_path / "cached", cache_dir=str(tmp_path / "targets"))
    distil(study, tmp_path / "computed")
    assert asked(caplog) == [f"Teacher targets: 6 images, {number} of them computed now" for number in (0, 6)]
    computed = weights(study, tmp_path / "computed")
    for name in ("read", "cached"):
        found = weights(study, tmp_path / name)
        assert all(torch.equal(value, found[key]) for key, value in computed.items()), name


def test_targets_of_two_teachers_views_label_maps_and_a_refiner(study: Path, tmp_path: Path) -> None:
    distil(study, tmp_path / "control")
    datalist = load_datalist(study / "datalist.json")
    (tmp_path / "maps").mkdir()
    for entry in datalist["training"]:
        shutil.copy(entry["label"], tmp_path / "maps" / f"{entry['case']}_seg.nii.gz")
    folders = [str(study / "teacher"), str(tmp_path / "control")]
    changes = {"teacher_dirs": folders, "views": 2, "measure": "$None", "label_maps": str(tmp_path / "maps")}
    refined = {"refiner": "sam_demo", "refiner_size": 32, "min_area": 4}
    make_targets(study, tmp_path / "targets", **changes, **refined)
    manifest = read_json(tmp_path / "targets" / "targets.json")
    assert [source["kind"] for source in manifest["sources"]] == ["teacher", "teacher", "label_maps"]
    assert manifest["measured"] == {} and {len(entry["sources"]) for entry in manifest["images"].values()} == {3}
    assert (manifest["refiner"]["name"], manifest["refiner"]["image_size"]) == ("sam_demo", [32, 32])
    prompted = [entry for entry in manifest["images"].values() if entry["refined"]]
    assert len(prompted) == len(list((tmp_path / "targets" / "embeddings").glob("*.npy"))) > 0
    assert str(tmp_path) not in (tmp_path / "targets" / "targets.json").read_text()
    distil(study, tmp_path / "student", targets=str(tmp_path / "targets"))
    assert weights(study, tmp_path / "student")
    make_targets(study, tmp_path / "maps_only", **{**changes, "teacher_dirs": []})
    with pytest.raises(RuntimeError) as raised:
        distil(study, tmp_path / "refused", targets=str(tmp_path / "maps_only"))
    assert "give --feature_weight 0" in str(user_error(raised.value))
    distil(study, tmp_path / "hard", targets=str(tmp_path / "maps_only"), feature_weight=0)
    assert weights(study, tmp_path / "hard")


def test_a_student_is_a_teacher_too(study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    distil(study, tmp_path / "control")
    distil(study, tmp_path / "distilled", teacher_dir=str(tmp_path / "control"))
    assert asked(caplog) == ["Teacher targets: 6 images, 6 of them computed now"] * 2
    task = load_task(study / "task.json")
    folder = tmp_path / "distilled" / "teacher_targets"
    cache = TargetCache(folder, load_any_teacher(tmp_path / "control", task), task)
    other = TargetCache(folder, load_any_teacher(study / "teacher", task), task)
    assert cache.prefix != other.prefix


def train(study: Path, output_dir: Path, stop_after: int | None = None) -> dict[str, Any]:
    """Trains for three epochs, or until one is over; returns the content of the last checkpoint."""
    torch.manual_seed(0)  # the student's first weights
    workflow = ConfigWorkflow(
        config_file=str(BUNDLE / "configs" / "train.yaml"),
        meta_file=str(BUNDLE / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="train",
        **{**SHORT, "max_epochs": 3},
        **options(study, output_dir),
    )
    workflow.initialize()
    if stop_after is not None:
        trainer = workflow.parser.get_parsed_content("train#trainer")
        trainer.add_event_handler(Events.EPOCH_COMPLETED(once=stop_after), trainer.terminate)
    workflow.run()
    return torch.load(output_dir / "last.pt", weights_only=True)


def test_stopped_and_resumed_is_uninterrupted(study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = train(study, tmp_path / "whole")
    stopped = train(study, tmp_path / "parts", stop_after=1)
    assert (stopped["progress"]["epoch"], whole["progress"]["epoch"]) == (1, 3)
    resumed = train(study, tmp_path / "parts")
    assert asked(caplog)[-1] == "Teacher targets: 6 images, 0 of them computed now"
    assert not torch.equal(*(content["network"]["projection.weight"] for content in (stopped, resumed)))
    for name, value in whole["network"].items():
        assert torch.equal(resumed["network"][name], value), name
    for number, state in whole["optimizer"]["state"].items():
        assert torch.equal(resumed["optimizer"]["state"][number]["exp_avg_sq"], state["exp_avg_sq"]), number


def test_only_the_seed_determines_the_student(study: Path, tmp_path: Path) -> None:
    found = {}
    for name, seed in (("first", 5), ("again", 5), ("other", 6)):
        torch.rand(len(found) + 1)  # earlier code in this process has drawn numbers
        distil(study, tmp_path / name, cache_dir=str(tmp_path / "targets"), seed=seed)
        found[name] = weights(study, tmp_path / name)
    assert all(torch.equal(value, found["again"][name]) for name, value in found["first"].items())
    assert any(not torch.equal(value, found["other"][name]) for name, value in found["first"].items())

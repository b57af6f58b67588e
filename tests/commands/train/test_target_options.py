"""Several teachers, label maps and a refiner in a pipeline; without them, nothing changes."""

from __future__ import annotations

import argparse
import csv
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tests.commands.train.test_command import OPTIONS, check_messages, succeeded, tiny_study, train
from tskd_monai.commands.train.command import parse_arguments
from tskd_monai.commands.train.options import load_preset
from tskd_monai.commands.train.stages import PipelineOptions, PlannedDataset, pipeline_stages
from tskd_monai.commands.train.target_options import TargetOptions, check_target_options, with_hashes
from tskd_monai.data.datalist import load_datalist
from tskd_monai.datasets.phantom.study import write_study
from tskd_monai.files.checksum import ContentHashes
from tskd_monai.files.json_files import read_json


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_study(
        folder, seed=1, sections={"training": 2, "validation": 1}, shape=(16, 16, 2), spacing=(20.0, 20.0, 40.0)
    )
    return folder


@pytest.fixture
def maps(study: Path, tmp_path: Path) -> Path:
    """Returns a folder with the label map of each training case."""
    return copy_labels(study / "datalist.json", tmp_path / "maps")


def copy_labels(datalist: Path, folder: Path, measured: bool = False) -> Path:
    """Writes the label maps of the training cases, and of the validation cases if these are to be measured."""
    folder.mkdir()
    sections = load_datalist(datalist)
    for entry in sections["training"] + (sections["validation"] if measured else []):
        shutil.copy(entry["label"], folder / f"{entry['case']}.nii.gz")
    return folder


def parsed(*options: str) -> argparse.Namespace:
    return parse_arguments(["study/datalist.json", *options])


def stages(tmp_path: Path, make_task: Any, targets: TargetOptions) -> dict[str, Any]:
    """Returns the stages of a pipeline without synthesis, with a comparison, by name."""
    digests = {f"{s} {k}": ["0"] for s in ("training", "validation", "test", "unlabeled") for k in ("images", "labels")}
    dataset = PlannedDataset(Path("datalist.json"), Path("task.json"), make_task(), digests, 8)
    options = PipelineOptions(
        load_preset("demo"),
        "sam_demo",
        "shipped",
        None,
        "compact_unet_small",
        7,
        None,
        4,
        synthesis=False,
        targets=targets,
    )
    return {stage.name: stage for stage in pipeline_stages(tmp_path, dataset, options)}


def test_a_plain_pipeline_has_no_stage_of_targets(tmp_path: Path, make_task: Any, study: Path) -> None:
    options = check_target_options(parsed(), study / "datalist.json")
    assert options == TargetOptions() and not options.needs_stage and options.sentence == ""
    found = stages(tmp_path, make_task, options)
    assert [name for name in found if "predictions" not in name] == [
        "teacher", "distilled", "student", "scratch", "self_distilled", "self_trained"
    ]  # fmt: skip
    assert found["distilled"].needs == ["teacher"]
    assert "teacher_dir" in found["distilled"].paths() and "targets" not in found["distilled"].paths()


def test_teachers_differ_in_the_seed_and_only_the_first_is_scored(tmp_path: Path, make_task: Any) -> None:
    found = stages(tmp_path, make_task, TargetOptions(teachers=3))
    assert [found[name].settings["seed"] for name in ("teacher", "teacher_2", "teacher_3")] == [7, 8, 9]
    assert list(found["targets"].needs) == ["teacher", "teacher_2", "teacher_3"]
    names = ("teacher", "teacher_2", "teacher_3")
    assert found["targets"].paths()["teacher_dirs"] == [str(tmp_path / name) for name in names]
    assert found["targets"].paths()["embedding_dir"] == "$None" and "refiner" not in found["targets"].settings
    assert found["distilled"].needs == ["targets"] and found["distilled"].paths()["targets"] == tmp_path / "targets"
    assert "teacher_dir" not in found["distilled"].paths()
    assert found["self_distilled"].needs == ["scratch"] and "targets" not in found["self_distilled"].paths()
    assert "predictions_teacher_2" not in found


def test_targets_depend_on_the_content_of_maps_and_weights(tmp_path: Path, make_task: Any, maps: Path) -> None:
    given = TargetOptions(1, maps, "maps", "lite_medsam", "weights.pth", "weights")
    stage = stages(tmp_path, make_task, given)["targets"]
    assert stage.settings == {"refiner": "lite_medsam"}
    assert (stage.inputs["label maps"], stage.inputs["refiner"]) == ({"content": "maps"}, {"weights": "weights"})
    assert (stage.paths()["label_maps"], stage.paths()["refiner_weights"]) == (maps, "weights.pth")
    assert given.sentence == (
        " Its targets are the average of the teacher and the given label maps, refined by lite_medsam."
    )
    assert TargetOptions(teachers=2).sentence == " Its targets are the average of 2 teachers of different seeds."
    assert replace(given, label_maps=None).sentence.endswith("the predictions of the teacher, refined by lite_medsam.")


def test_label_maps_are_checked_before_anything_is_trained(study: Path, maps: Path, tmp_path: Path) -> None:
    found = check_target_options(parsed("--label-maps", str(maps)), study / "datalist.json")
    hashed = with_hashes(found, ContentHashes(tmp_path / "hashes.json"))
    assert found.label_maps == maps and found.label_maps_sha256 is None and len(str(hashed.label_maps_sha256)) == 64
    first = load_datalist(study / "datalist.json")["training"][0]["case"]
    path = maps / f"{first}.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 2), np.uint8), np.diag([40.0, 40.0, 40.0, 1.0])), path)
    with pytest.raises(ValueError, match=rf"label {first}.nii.gz of image .*: expected shape .*, found \(8, 8, 2\)"):
        check_target_options(parsed("--label-maps", str(maps)), study / "datalist.json")
    path.unlink()
    with pytest.raises(ValueError, match="Expected a label map of each of 2 images at --label_maps .*, found none for"):
        check_target_options(parsed("--label-maps", str(maps)), study / "datalist.json")


def test_an_unknown_refiner_or_missing_weights_end_the_run(study: Path) -> None:
    for value, told in (("nobody", "nobody"), ("lite_medsam=nowhere.pth", "nowhere.pth")):
        with pytest.raises((ValueError, FileNotFoundError), match=told):
            check_target_options(parsed("--refiner", value), study / "datalist.json")


def test_a_number_of_teachers_below_one_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("--teachers", "0")
    assert "expected a positive whole number, found 0" in capsys.readouterr().err


@pytest.mark.slow
def test_a_student_learns_from_two_teachers_and_label_maps(tmp_path: Path) -> None:
    tiny_study(tmp_path, training=2, validation=1, test=1)
    copy_labels(tmp_path / "study/datalist.json", tmp_path / "maps", measured=True)
    options = (*OPTIONS, "--no-compare", "--synthesis", "off", "--teachers", "2", "--label-maps", "maps")
    done = train(tmp_path, *options)
    succeeded(done)
    check_messages(done)
    run = tmp_path / "run"
    manifest = read_json(run / "targets/targets.json")
    assert [source["kind"] for source in manifest["sources"]] == ["teacher", "teacher", "label_maps"]
    assert not (run / "distilled/teacher_targets").exists()
    with (run / "targets/targets.csv").open() as file:
        assert {row["name"] for row in csv.DictReader(file)} >= {"liver"}
    report = (run / "report.html").read_text()
    assert "Targets of the student" in report
    assert "the average of 2 teachers of different seeds and the given label maps" in report
    assert succeeded(train(tmp_path, *options)).count("already finished") == 7
    shutil.copytree(tmp_path / "maps", tmp_path / "moved")
    assert succeeded(train(tmp_path, *options[:-1], "moved")).count("already finished") == 7

"""A dataset is planned once: later calls read the task, and report what no longer matches."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from tests.support.fork_server import python_command
from tskd_monai.commands.main import main as command
from tskd_monai.commands.task_files import plan_dataset
from tskd_monai.data.datalist import load_datalist
from tskd_monai.data.task import load_task
from tskd_monai.data.volume_reader import VolumeReader
from tskd_monai.datasets.phantom.study import write_study

SECTIONS = {"training": 3, "validation": 1, "test": 2, "unlabeled": 1}
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    write_study(folder, seed=5, sections=SECTIONS, shape=(32, 32, 6), spacing=(10.8, 10.8, 27.0))
    return folder


@pytest.fixture
def study(phantom: Path, tmp_path: Path) -> Path:
    """Returns the datalist of a phantom dataset for this test only."""
    shutil.copytree(phantom, tmp_path / "study")
    return tmp_path / "study" / "datalist.json"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Returns a list that collects the names of the files read from now on."""
    names: list[str] = []
    original = VolumeReader._read_path
    monkeypatch.setattr(VolumeReader, "_read_path", lambda self, path: names.append(path.name) or original(self, path))
    return names


def changed(datalist: Path, change: Change) -> Path:
    """Changes a datalist in place."""
    content = json.loads(datalist.read_text())
    change(content)
    datalist.write_text(json.dumps(content))
    return datalist


def states(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return inode and bytes of each file of a folder."""
    return {path.name: (path.stat().st_ino, path.read_bytes()) for path in folder.iterdir()}


def test_a_second_call_reads_no_image_and_writes_nothing(study: Path, tmp_path: Path, reads: list[str]) -> None:
    options = {"labelled_slices": 5, "seed": 1, "datalist_dir": tmp_path / "run" / "private"}
    datalist, path, task = plan_dataset(study, tmp_path / "run", **options)
    assert (datalist, path) == (tmp_path / "run/private/datalist.json", tmp_path / "run/task.json")
    assert [file.name for file in (tmp_path / "run").iterdir() if file.is_file()] == ["task.json"]
    before = states(tmp_path / "run/private")
    reads.clear()
    assert plan_dataset(study, tmp_path / "run", **options)[2] == task
    assert not reads and states(tmp_path / "run/private") == before


def test_a_budget_may_exceed_the_labelled_slices_only_if_it_is_a_limit(study: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="found 10000"):
        plan_dataset(study, tmp_path / "run", labelled_slices=10_000)
    datalist, *_ = plan_dataset(study, tmp_path / "run", labelled_slices=10_000, fewer_slices=True)
    training = json.loads(datalist.read_text())["training"]
    assert training and all(len(entry["slices"]) == 6 for entry in training)
    again, *_ = plan_dataset(study, tmp_path / "run", labelled_slices=10_000, fewer_slices=True)
    assert again == datalist


def test_a_budget_is_drawn_among_the_slices_that_the_datalist_states(study: Path, tmp_path: Path) -> None:
    stated = [[1, 4, 5], [2], [0, 3]]
    pairs = lambda content: zip(content["training"], stated, strict=True)  # noqa: E731
    changed(study, lambda content: [entry.update(slices=slices) for entry, slices in pairs(content)])
    datalist, *_ = plan_dataset(study, tmp_path / "run", labelled_slices=4)
    drawn = [entry["slices"] for entry in json.loads(datalist.read_text())["training"]]
    assert sum(map(len, drawn)) == 4 and all(set(found) <= set(s) for found, s in zip(drawn, stated, strict=True))
    with pytest.raises(ValueError, match="1 to 6 labelled slices, found 7"):
        plan_dataset(study, tmp_path / "other", labelled_slices=7)


def test_moved_files_and_another_order_are_the_same_study(study: Path, tmp_path: Path, reads: list[str]) -> None:
    written, _, task = plan_dataset(study, tmp_path / "run", labelled_slices=5)
    before = json.loads(written.read_text())
    moved = shutil.move(study.parent, tmp_path / "moved") / Path("datalist.json")
    changed(moved, lambda content: content["training"].reverse())
    shutil.move(tmp_path / "run", tmp_path / "run2")
    reads.clear()
    written, _, again = plan_dataset(moved, tmp_path / "run2", labelled_slices=5)
    assert again == task and not reads
    after = json.loads(written.read_text())
    assert [entry["case"] for entry in after["training"]] == [entry["case"] for entry in before["training"]]
    assert [entry["slices"] for entry in after["training"]] == [entry["slices"] for entry in before["training"]]
    assert all(str(moved.parent) in entry["image"] for entry in after["training"])
    assert load_datalist(written)["test"]


def test_other_test_cases_are_written_and_the_task_stays(study: Path, tmp_path: Path) -> None:
    written, path, _ = plan_dataset(study, tmp_path / "run")
    before = path.stat().st_ino
    changed(study, lambda content: content["test"].pop(0))
    plan_dataset(study, tmp_path / "run")
    assert len(load_datalist(written)["test"]) == 1 and path.stat().st_ino == before


def test_a_new_test_case_is_read_and_refused_as_scoring_would(study: Path, tmp_path: Path, reads: list[str]) -> None:
    content = json.loads(study.read_text())
    new, first = content["test"].pop(), content["training"][0]
    study.write_text(json.dumps(content))
    plan_dataset(study, tmp_path / "run")
    reads.clear()
    changed(study, lambda content: content["test"].append(new))
    plan_dataset(study, tmp_path / "run")
    assert sorted(reads) == [Path(new["image"]).name] * 2  # the image and its label
    for key in ("image", "label"):
        (study.parent / f"{key}.nii").write_bytes(gzip.decompress((study.parent / first[key]).read_bytes()))
    Image.new("L", (4, 4)).save(study.parent / "picture.png")
    for image, label, message in (
        ("image.nii", "label.nii", r"found the content of one in image\.nii \(case x\); leave it out"),
        ("image.nii", "picture.png", "`test` case x: label picture.png of image image.nii: expected shape"),
        ("picture.png", "label.nii", r"Expected volumes as .*, found picture\.png in `test` \(case x\)"),
    ):
        study.write_text(json.dumps({**content, "test": [{"image": image, "label": label, "case": "x"}]}))
        with pytest.raises(ValueError, match=message):
            plan_dataset(study, tmp_path / "run")


def _swap(content: dict[str, Any]) -> None:
    content["training"][0]["label"] = content["training"][1]["label"]
    content["training"].pop(1)


def _rename(content: dict[str, Any]) -> None:
    content["labels"]["1"] = "tumour"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["training"].pop(0), "`training` without case phantom_000; plan again with --replan"),
        (lambda content: content["unlabeled"].pop(0), "`unlabeled` without case phantom_006"),
        (
            lambda content: content["validation"].append(content["test"].pop(0)),
            "`validation` with the new case phantom_004",
        ),
        (
            _swap,
            "`training` without case phantom_001; `training` with other files, slices or structures of case .*000",
        ),
        (_rename, "`labels` was .*'1': 'liver'.* and is .*'1': 'tumour'"),
        (lambda content: content.update(channels=3), "`channels` was 1 and is 3"),
    ],
)
def test_a_datalist_that_does_not_fit_is_refused_by_what_differs(
    study: Path, tmp_path: Path, change: Change, message: str
) -> None:
    plan_dataset(study, tmp_path / "run")
    before = states(tmp_path / "run")
    with pytest.raises(ValueError, match=f"Expected the datalist that this task was planned from, found {message}"):
        plan_dataset(changed(study, change), tmp_path / "run")
    assert states(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labelled_slices": 6}, "Expected --labelled-slices 5 as this task was planned, found 6; plan again with"),
        ({"labelled_slices": None}, "Expected --labelled-slices 5 as this task was planned, found None"),
        ({"seed": 4}, "Expected --seed 0 as this task was planned, found 4"),
        ({"image_size": 64}, "Expected image_size 48 of task.json, found --image-size 64; leave the option out, or"),
        ({"intensity": "hu_window"}, "Expected intensity percentile of task.json, found --intensity hu_window"),
        ({"neighbours": 2}, "Expected neighbours 0 of task.json, found --neighbours 2; leave the option out, or"),
    ],
)
def test_an_option_that_contradicts_the_plan_is_refused(
    study: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    first = {"labelled_slices": 5, "image_size": 48}
    plan_dataset(study, tmp_path / "run", **first)
    with pytest.raises(ValueError, match=message):
        plan_dataset(study, tmp_path / "run", **{**first, **options})


def test_neighbours_are_written_into_the_task_and_kept(study: Path, tmp_path: Path) -> None:
    flat = plan_dataset(study, tmp_path / "flat", labelled_slices=5)[2]
    options = {"labelled_slices": 5, "neighbours": 1}
    _, path, task = plan_dataset(study, tmp_path / "run", **options)
    assert task == load_task(path) == replace(flat, neighbours=1)
    assert plan_dataset(study, tmp_path / "run", labelled_slices=5)[2] == task
    replanned = plan_dataset(study, tmp_path / "run", labelled_slices=5, neighbours=2, replan=True)[2]
    assert replanned == replace(flat, neighbours=2) and len(list(path.parent.glob("task.before-*.json"))) == 1


def test_neighbours_of_single_images_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
        for number in range(3):
            pixels = np.random.default_rng(number).integers(0, 2 if kind == "labels" else 255, (32, 32))
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / kind / f"{number}.png")
    entries = [{"case": str(n), "image": f"images/{n}.png", "label": f"labels/{n}.png"} for n in range(3)]
    content = {"labels": {"0": "background", "1": "spot"}, "training": entries[:2], "validation": entries[2:]}
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    message = (
        "--neighbours: expected 0 for single 2D images, which have no neighbouring slices, .*; leave the option out"
    )
    with pytest.raises(ValueError, match=message):
        plan_dataset(tmp_path / "datalist.json", tmp_path / "run", neighbours=1)
    assert not (tmp_path / "run").exists()


def test_the_seed_of_training_is_no_option_of_a_plan_without_a_draw(study: Path, tmp_path: Path) -> None:
    task = plan_dataset(study, tmp_path / "run", seed=1)[2]
    assert plan_dataset(study, tmp_path / "run", seed=2)[2] == task


def _spaced(datalist: Path, section: str, factor: float) -> None:
    """Writes the in-plane spacing of a section's first image and label in another unit."""
    entry = load_datalist(datalist)[section][0]
    for key in ("image", "label"):
        if key in entry:
            image = nib.load(entry[key])
            affine = image.affine @ np.diag([factor, factor, 1, 1])
            nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), entry[key])


@pytest.mark.parametrize("section", ["training", "validation", "test", "unlabeled"])
@pytest.mark.parametrize(("factor", "message"), [(1000, "pixels of at most 10 times"), (0.001, "at least 2 pixels")])
def test_a_spacing_that_training_would_refuse_is_refused(
    study: Path, tmp_path: Path, section: str, factor: float, message: str
) -> None:
    _spaced(study, section, factor)
    with pytest.raises(ValueError, match=rf"Expected .*{message}.* \(`{section}` case .*correct the spacing"):
        plan_dataset(study, tmp_path / "run")
    assert not (tmp_path / "run" / "task.json").exists()


def test_a_training_image_unlike_the_others_is_warned_of(
    study: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan_dataset(study, tmp_path / "sound")
    assert "unlike" not in caplog.text
    _spaced(study, "training", 0.1)
    case = load_datalist(study)["training"][0]["case"]
    task = plan_dataset(study, tmp_path / "run", labelled_slices=5)[2]
    assert caplog.text.count(f"Case {case} is unlike the other images: field of view") == 1
    assert task.training_images.pixel_mm == pytest.approx((1.08, 10.8))


@pytest.mark.parametrize(("suffix", "sentence"), [(".png", "each 1 image pixels wide"), (".nii", "2 mm per pixel")])
def test_the_command_states_mm_only_where_there_are_any(tmp_path: Path, suffix: str, sentence: str) -> None:
    pixels = np.arange(32 * 32, dtype=np.uint16).reshape(32, 32).astype(np.uint8)
    label = (pixels > 100).astype(np.uint8)
    for name, array in (("image", pixels), ("label", label)):
        if suffix == ".png":
            Image.fromarray(array).save(tmp_path / f"{name}.png")
        else:
            nib.save(nib.Nifti1Image(array[..., None].repeat(3, -1), np.diag([2, 2, 8, 1])), tmp_path / f"{name}.nii")
    entry = {"case": "a", "image": f"image{suffix}", "label": f"label{suffix}"}
    (tmp_path / "datalist.json").write_text(
        json.dumps({"labels": {"0": "background", "1": "organ"}, "training": [entry]})
    )
    command = [python_command(), "-m", "tskd_monai", "plan", str(tmp_path / "datalist.json")]
    done = subprocess.run([*command, "--output-dir", str(tmp_path / "run")], capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert sentence in last and (" mm " in last) == (suffix == ".nii") and "None" not in last


def edited(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_an_edited_task_stays_even_where_options_planned_it_otherwise(study: Path, tmp_path: Path) -> None:
    path = plan_dataset(study, tmp_path / "run", image_size=48)[1]
    edited(path, image_size=[64, 80], keep_largest_component=[])
    before = states(tmp_path / "run")
    task = plan_dataset(study, tmp_path / "run", image_size=48)[2]
    assert task.image_size == (64, 80) and states(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"channels": 3}, "Expected channels 1 in task.json, as the datalist .* have it, found 3; give the task of"),
        ({"axcodes": None}, "Expected images 'volumes' in task.json, .* found '2D images'"),
        ({"axcodes": "PLI"}, "Expected slices towards 'S' in task.json, .* found 'I'"),
    ],
)
def test_a_task_edited_into_one_of_other_data_is_refused(
    study: Path, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    path = plan_dataset(study, tmp_path / "run", labelled_slices=5)[1]
    edited(path, **values)
    with pytest.raises(ValueError, match=message):
        plan_dataset(study, tmp_path / "run", labelled_slices=5)


def test_a_task_can_be_brought_along(study: Path, tmp_path: Path) -> None:
    own = plan_dataset(study, tmp_path / "first", image_size=64)[1]
    path = plan_dataset(study, tmp_path / "run")[1]
    task = plan_dataset(study, tmp_path / "run", task_file=own)[2]
    assert task.image_size == (64, 64)
    kept = [file.name for file in (tmp_path / "run").glob("task.before-*.json")]
    assert len(kept) == 1
    assert plan_dataset(study, tmp_path / "run")[2] == task  # and remains the task
    fresh = plan_dataset(study, tmp_path / "fresh", task_file=own)[2]
    assert fresh == task
    edited(own, labels=json.loads(path.read_text())["labels"][:2], class_frequencies=[], keep_largest_component=[])
    with pytest.raises(ValueError, match=r"Expected label values \['0', '1', '2', '3', '4'\] in task.json"):
        plan_dataset(study, tmp_path / "run", task_file=own)


def test_replanning_keeps_the_old_task_and_datalist_beside(study: Path, tmp_path: Path) -> None:
    written, path, _ = plan_dataset(study, tmp_path / "run", labelled_slices=5)
    edited(path, name="mine")
    old = path.read_bytes(), written.read_bytes()
    task = plan_dataset(study, tmp_path / "run", labelled_slices=6, replan=True)[2]
    kept = [next((tmp_path / "run").glob(f"{name}.before-*.json")).read_bytes() for name in ("task", "datalist")]
    assert tuple(kept) == old and task.name == "phantom"
    assert sum(len(entry["slices"]) for entry in load_datalist(written)["training"]) == 6
    path.write_text("{")  # a damaged task is kept as well
    assert plan_dataset(study, tmp_path / "run", labelled_slices=6, replan=True)[2] == task
    assert len(list((tmp_path / "run").glob("task.before-*.json"))) == 2


def test_a_folder_of_an_earlier_version_is_compared_by_cases_and_slices(study: Path, tmp_path: Path) -> None:
    _, path, _ = plan_dataset(study, tmp_path / "run", labelled_slices=5)
    edited(path, keep_largest_component=[])
    for name in ("plan.json", "content_hashes.json"):
        (tmp_path / "run" / name).unlink()
    with pytest.raises(ValueError, match=r"Expected datalist\.json as it was planned, found `training` with"):
        plan_dataset(study, tmp_path / "run", labelled_slices=9, seed=7)
    task = plan_dataset(study, tmp_path / "run", labelled_slices=5)[2]
    assert task.keep_largest_component == () and (tmp_path / "run/plan.json").is_file()


@pytest.mark.parametrize("damage", ["{", "[]", '{"format_version": 1}', '{"format_version": 9, "options": {}}'])
def test_a_damaged_record_is_refused(study: Path, tmp_path: Path, damage: str) -> None:
    task = plan_dataset(study, tmp_path / "run")[2]
    (tmp_path / "run/plan.json").write_text(damage)
    with pytest.raises(ValueError, match=r"plan\.json"):
        plan_dataset(study, tmp_path / "run")
    assert plan_dataset(study, tmp_path / "run", replan=True)[2] == task


@pytest.mark.slow
def test_chaos_is_read_once_and_its_organs_are_one_component_each(
    real_data: Path, tmp_path: Path, reads: list[str]
) -> None:
    full = plan_dataset(real_data / "chaos_t2spir/datalist.json", tmp_path / "full")[2]
    assert sorted(reads) == sorted(set(reads)) and len(reads) == 30  # images and labels of 15 patients
    reads.clear()
    few = plan_dataset(real_data / "chaos_t2spir/datalist.json", tmp_path / "few", labelled_slices=25)[2]
    assert sorted(reads) == sorted(set(reads)) and len(reads) == 30
    assert full.keep_largest_component == few.keep_largest_component == (1, 2, 3, 4)
    assert (few.image_size, few.pixdim, few.axcodes) == (full.image_size, full.pixdim, full.axcodes)


def test_the_command_states_what_differs_in_one_line(study: Path, tmp_path: Path) -> None:
    def call(*options: str) -> subprocess.CompletedProcess[str]:
        command = [python_command(), "-m", "tskd_monai", "plan", str(study), "--output-dir", "run", *options]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)

    assert call("--image-size", "48").returncode == 0
    refused = call("--image-size", "64")
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert refused.stderr.splitlines()[-1].endswith(
        "plan again with --replan, which keeps the old task beside the new one."
    )
    assert call("--image-size", "64", "--replan").returncode == 0
    assert json.loads((tmp_path / "run/task.json").read_text())["image_size"] == [64, 64]


def test_a_datalist_is_not_overwritten(study: Path) -> None:
    before = study.read_bytes()
    with pytest.raises(ValueError, match="Expected another folder as --output-dir than that of .*, which"):
        plan_dataset(study, study.parent)
    assert study.read_bytes() == before and not (study.parent / "task.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fold", "1"], "datalist.json: expected `folds` for --fold 1, found none; leave --fold out."),
        (["--labels", "liver"], "Expected --labels with a folder only, found a datalist"),
        (["--labelled-slices", "2", "--seed", "-1"], "Expected --seed of 0 or more, found -1."),
        (["--output-dir", "."], "which would be overwritten; leave the option out"),
    ],
)
def test_mistakes_in_options(
    study: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    monkeypatch.chdir(study.parent)
    assert command(["plan", "datalist.json", *options]) == 1
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_the_default_folder_is_that_of_training(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(study.parent.parent)
    assert command(["plan", "study/datalist.json"]) == 0
    assert Path("runs/study/task.json").is_file()

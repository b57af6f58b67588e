from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tskd_monai.data.task import (
    NOT_LEARNED,
    Intensity,
    Label,
    Task,
    TrainingImages,
    load_task,
    require_same_task,
    save_task,
)

CODES = {"category": ["123037004", "SCT", "Anatomical Structure"], "type": ["10200004", "SCT", "Liver"]}
RANGES = TrainingImages((320.0, 380.0), (1.0, 1.25), (5.0, 7.7), (0.0, 995.0))


@pytest.fixture
def task() -> Task:
    labels = (Label(0, "background"), Label(63, "liver", CODES), Label(300, "spleen"))
    return Task(
        name="abdomen",
        labels=labels,
        channels=1,
        image_size=(64, 96),
        pixdim=(1.5, 1.5),
        axcodes="PLS",
        intensity=Intensity("percentile", 0.5, 99.5),
        class_frequencies=(0.9, 0.07, 0.03),
        keep_largest_component=(63,),
    )


def test_classes_are_the_order_of_the_labels(task: Task) -> None:
    assert task.num_classes == 3
    assert task.label_values == (0, 63, 300)
    assert task.foreground == {63: "liver", 300: "spleen"}


def test_a_task_comes_back_equal(task: Task, tmp_path: Path) -> None:
    save_task(task, tmp_path / "task.json")
    loaded = load_task(tmp_path / "task.json")
    assert loaded == task
    assert loaded.hash == task.hash


def test_the_hash_knows_every_field(task: Task) -> None:
    changes: dict[str, Any] = {
        "name": "other",
        "labels": (Label(0, "background"), Label(63, "kidney", CODES), Label(300, "spleen")),
        "channels": 3,
        "image_size": (96, 64),
        "pixdim": (1.5, 1.25),
        "axcodes": None,
        "intensity": Intensity("percentile", 1.0, 99.5),
        "class_frequencies": (),
        "foreground_oversampling": 0.6,
        "keep_largest_component": (),
    }
    assert set(changes) == set(task.__dataclass_fields__) - set(NOT_LEARNED)
    hashes = {replace(task, **{field: value}).hash for field, value in changes.items()} | {task.hash}
    assert len(hashes) == len(changes) + 1
    assert all(len(value) == 64 for value in hashes)


def test_the_hash_is_that_of_before_the_training_images_were_known(task: Task) -> None:
    assert task.hash == "a799aedac3e8f80eec805c9bb2a546817ceef577b665646f1d36447397c66d4a"
    assert replace(task, training_images=RANGES, unlike_training="refuse").hash == task.hash
    assert replace(task, unfiltered=task.keep_largest_component).hash == task.hash


@pytest.mark.parametrize("slices", [(5.0, 7.7), None])
def test_training_images_come_back_equal(task: Task, tmp_path: Path, slices: tuple[float, float] | None) -> None:
    known = replace(task, training_images=replace(RANGES, slice_mm=slices), unlike_training="refuse")
    save_task(known, tmp_path / "task.json")
    assert load_task(tmp_path / "task.json") == known


def test_a_filter_that_does_harm_is_left_out(task: Task, tmp_path: Path) -> None:
    kept = replace(task, keep_largest_component=(63, 300), unfiltered=(63,))
    save_task(kept, tmp_path / "task.json")
    assert load_task(tmp_path / "task.json") == kept
    assert kept.filtered == (300,) and task.filtered == task.keep_largest_component


def test_a_file_of_before_the_training_images_were_known_loads(task: Task, tmp_path: Path) -> None:
    path = tmp_path / "task.json"
    save_task(task, path)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in content.items() if key not in NOT_LEARNED}))
    assert load_task(path) == task
    assert (task.training_images, task.unlike_training) == (None, "warn")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("labels", (Label(0, "background"),), "expected background and at least one class in `labels`, found 1"),
        ("labels", (Label(0, "a"), Label(1, "b"), Label(1, "c")), "expected distinct values in `labels`"),
        ("labels", (Label(1, "liver"), Label(0, "background")), "background with value 0 first"),
        ("labels", (Label(0, "a"), Label(70000, "b")), "values from 0 to 65535 in `labels`"),
        ("channels", 2, "expected 1 or 3 in `channels`, found 2"),
        ("image_size", (64, 100), r"two positive multiples of 16 up to 4096 in `image_size`, found \(64, 100\)"),
        ("image_size", (8192, 64), "up to 4096 in `image_size`"),
        ("name", "$exit()", r"begin with a letter or digit in `name`, found '\$exit\(\)'"),
        ("image_size", (64,), "two positive multiples of 16 up to 4096 in `image_size`"),
        ("pixdim", (1.0, 0.0), "two positive numbers in `pixdim`"),
        ("axcodes", "PLL", "a letter each of R or L, A or P, S or I in `axcodes`, found PLL"),
        ("axcodes", "PL", "in `axcodes`, found PL"),
        ("intensity", Intensity("zscore", 0, 1), "found zscore"),
        ("intensity", Intensity("hu_window", 100, 100), "lower below upper"),
        ("foreground_oversampling", 1.2, "a fraction from 0 to 1"),
        ("unfiltered", (300,), r"expected values among \[63\] of `keep_largest_component` in `unfiltered`, found"),
        ("unlike_training", "ignore", "expected warn or refuse in `unlike_training`, found ignore"),
        ("training_images", replace(RANGES, values=(5.0, 1.0)), "two numbers, the lower first, in `training_images.v"),
        (
            "training_images",
            replace(RANGES, pixel_mm=(0.0, 1.0)),
            "two positive numbers, .* `training_images.pixel_mm`",
        ),
        ("training_images", replace(RANGES, field_of_view_mm=(1.0,)), "`training_images.field_of_view_mm`, found"),
        ("training_images", replace(RANGES, slice_mm=("a", "b")), "`training_images.slice_mm`"),
        ("keep_largest_component", (0,), r"values among \[63, 300\] in `keep_largest_component`"),
    ],
)
def test_a_field_out_of_range_is_named(task: Task, field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(task, **{field: value})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"format_version": 2}, "expected 1 in `format_version`, found 2"),
        ({"pixdims": [1, 1]}, r"fields among .*, found \['pixdims'\]"),
        ({"image_size": 64}, "expected a list in `image_size`, found 64"),
        ({"intensity": "percentile"}, "expected an object in `intensity`, found percentile"),
        ({"labels": [{"value": 0, "name": "background", "colour": "red"}]}, "colour"),
        ({"channels": 7}, "expected 1 or 3 in `channels`, found 7"),
        ({"training_images": [1, 2]}, "expected an object in `training_images`"),
        ({"training_images": {"values": [0, 1]}}, r"the fields \['field_of_view_mm', 'pixel_mm', 'slice_mm'\]"),
        ({"unlike_training": None}, "expected warn or refuse in `unlike_training`, found None"),
    ],
)
def test_a_wrong_file_is_named_with_its_field(task: Task, tmp_path: Path, edit: dict, message: str) -> None:
    path = tmp_path / "task.json"
    save_task(task, path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **edit}))
    with pytest.raises(ValueError, match=rf"task\.json: .*({message})"):
        load_task(path)


def test_a_missing_field_is_named(task: Task, tmp_path: Path) -> None:
    path = tmp_path / "task.json"
    save_task(task, path)
    content = json.loads(path.read_text())
    del content["pixdim"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"task\.json: .*'pixdim'"):
        load_task(path)


def test_a_missing_file_states_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Expected --task .*tskd plan"):
        load_task(None)
    with pytest.raises(FileNotFoundError, match=r"Expected the task at .*none\.json, found none.*--bundle_root"):
        load_task(tmp_path / "none.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ValueError, match=r"list\.json: expected an object, found list"):
        load_task(tmp_path / "list.json")


def test_an_artefact_of_another_task_is_refused(task: Task) -> None:
    require_same_task(task.hash, task, "best.pt")
    other = replace(task, image_size=(32, 32))
    with pytest.raises(ValueError, match=rf"best\.pt was made for another task: .*{task.hash[:12]} \(abdomen\), "):
        require_same_task(other.hash, task, "best.pt")

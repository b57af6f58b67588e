"""A student gets a class more: what it knows is kept, what was not drawn is its own prediction, the rest is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from tests.support.paths import ROOT
from tskd_monai.bundle.student import start_from, write_student_bundle
from tskd_monai.commands.extend import main, parse_arguments
from tskd_monai.commands.extension import extension_stages
from tskd_monai.data.growing_task import extended_task
from tskd_monai.data.task import Intensity, Label, Task, load_task
from tskd_monai.distillation.known_structures import completed, lacking
from tskd_monai.networks.students import build_student

TEMPLATE = ROOT / "bundles" / "segmentation"
SMALL = "compact_unet_small"
LIVER, SPLEEN, KIDNEY = 1, 4, 2
LABELS = [Label(0, "background"), Label(LIVER, "liver"), Label(KIDNEY, "kidney"), Label(SPLEEN, "spleen")]
NAMES = {str(label.value): label.name for label in LABELS}
MakeTask = Callable[..., Task]


def test_new_classes_come_behind_those_that_are_known(make_task: MakeTask) -> None:
    known = make_task(keep_largest_component=(LIVER,), class_frequencies=(0.8, 0.1, 0.1))
    task = extended_task(known, LABELS, "more")
    assert task.label_values == (0, LIVER, SPLEEN, KIDNEY) and task.label_names[-1] == "kidney"
    assert (task.pixdim, task.intensity, task.keep_largest_component) == (known.pixdim, known.intensity, (LIVER,))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:2], "Expected the student's spleen with its value 4 in the datalist's `labels`, found none"),
        ([LABELS[0], LABELS[3], Label(2, "liver")], "the student's liver with its value 1 .* found value 2"),
        ([*LABELS[:2], Label(SPLEEN, "pancreas")], "the student's spleen with its value 4 .* found pancreas"),
        ([*LABELS[:2], LABELS[3]], "Expected a structure besides liver, spleen .* found none"),
        (
            [*LABELS[:2], LABELS[3], Label(7, "liver")],
            "Expected a structure besides liver, spleen .* found liver again",
        ),
    ],
)
def test_labels_that_contradict_the_student_are_refused(make_task: MakeTask, labels: list[Label], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        extended_task(make_task(), labels, "more")
    assert "\n" not in str(error.value)


@pytest.fixture
def student(tmp_path: Path, make_task: MakeTask) -> Path:
    """A student of liver and spleen with random weights."""
    task = make_task(image_size=(32, 32), pixdim=(2.0, 2.0))
    torch.manual_seed(0)
    weights = build_student(SMALL, 1, 3, task.image_size).state_dict()
    write_student_bundle(TEMPLATE, tmp_path / "known", task, SMALL, weights)
    return tmp_path / "known"


def test_training_starts_from_the_student_unless_the_task_sees_images_otherwise(student: Path) -> None:
    task = extended_task(load_task(student / "configs" / "task.json"), LABELS, "more")
    grown, known = (
        start_from(build_student(SMALL, 1, 4, task.image_size), student, task),
        build_student(SMALL, 1, 3, task.image_size),
    )
    known.load_state_dict(torch.load(student / "models" / "model.pt", weights_only=True))
    image = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        after, before = grown.eval()(image).softmax(dim=1), known.eval()(image).softmax(dim=1)
    torch.testing.assert_close(after[:, 1:3], before[:, 1:3], atol=1e-5, rtol=1e-4)
    changes: list[dict[str, Any]] = [
        {"pixdim": (1.0, 1.0)}, {"axcodes": "PLI"}, {"intensity": Intensity("hu_window", -50, 200)}
    ]  # fmt: skip
    for change in changes:
        other = Task(**{**{name: getattr(task, name) for name in task.__dataclass_fields__}, **change})
        with pytest.raises(ValueError, match=f"Expected the student's {next(iter(change))} .* in the task with new"):
            start_from(build_student(SMALL, 1, 4, task.image_size), student, other)
    turned = Task(**{**{name: getattr(task, name) for name in task.__dataclass_fields__},
                     "labels": (task.labels[0], *task.labels[:0:-1])})  # fmt: skip
    with pytest.raises(ValueError, match="was made for another task"):
        start_from(build_student(SMALL, 1, 4, task.image_size), student, turned)


def volume(*boxes: tuple[int, slice]) -> np.ndarray:
    array = np.zeros((32, 32, 4), np.uint8)
    for value, rows in boxes:
        array[rows, 8:24] = value
    return array


def save(path: Path, array: np.ndarray) -> str:
    nib.save(nib.Nifti1Image(array, np.diag([2.0, 2, 8, 1])), path)
    return str(path)


def test_predictions_stand_in_only_where_a_known_structure_was_not_drawn(tmp_path: Path, make_task: MakeTask) -> None:
    known = make_task()
    task = extended_task(known, LABELS, "more")
    label = save(tmp_path / "b_label.nii.gz", volume((KIDNEY, np.s_[0:8]), (SPLEEN, np.s_[24:28])))
    image = save(tmp_path / "b.nii.gz", volume())
    entries: list[dict[str, Any]] = [
        {"case": "a", "image": save(tmp_path / "a.nii.gz", volume()), "label": label},
        {"case": "b", "image": image, "label": label, "structures": ["kidney", "spleen"]},
    ]
    assert [entry["case"] for entry in lacking(entries, known)] == ["b"]
    found = volume((LIVER, np.s_[4:16]), (SPLEEN, np.s_[16:28]))  # over the kidney too, and a spleen that was drawn
    save(tmp_path / "b_seg.nii.gz", found)
    complete, filled = completed(entries, known, task, tmp_path, tmp_path / "labels")
    assert complete == entries[0] and "structures" not in filled
    expected = volume((LIVER, np.s_[8:16]), (KIDNEY, np.s_[0:8]), (SPLEEN, np.s_[24:28]))
    assert (np.asarray(nib.load(filled["label"]).dataobj) == expected).all()
    partly = {**entries[1], "structures": ["spleen"], "label": save(tmp_path / "c.nii.gz", volume())}
    assert completed([partly], known, task, tmp_path, tmp_path / "labels")[0]["structures"] == ["liver", "spleen"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A datalist in which one training case shows the known structures, and another one the new one."""
    everything = ((LIVER, np.s_[2:10]), (KIDNEY, np.s_[12:20]), (SPLEEN, np.s_[22:30]))
    drawn = {"a": ["liver", "spleen"], "b": ["kidney"], "v": None, "t": None}
    entries = {}
    for number, (case, names) in enumerate(drawn.items()):
        image = 20.0 * volume(*everything) + np.random.default_rng(number).normal(size=(32, 32, 4))
        shown = [box for box in everything if names is None or NAMES[str(box[0])] in names]
        entries[case] = {
            "case": case,
            "image": save(tmp_path / f"{case}.nii.gz", image.astype(np.float32)),
            "label": save(tmp_path / f"{case}_label.nii.gz", volume(*shown)),
            **({"structures": names} if names else {}),
        }
    sections = {"training": [entries["a"], entries["b"]], "validation": [entries["v"]], "test": [entries["t"]]}
    path = tmp_path / "datalist.json"
    path.write_text(json.dumps({"name": "more", "modality": "MR", "labels": NAMES, **sections}))
    return path


def test_the_stages_predict_train_and_score(student: Path, data: Path, tmp_path: Path) -> None:
    arguments = [str(student), str(data), "--output-dir", str(tmp_path / "out")]
    stages = extension_stages(parse_arguments(arguments), student)
    assert [stage.name for stage in stages] == ["known_structures", "student", "predictions_student"]
    asked = json.loads(Path(stages[0].paths()["datalist"]).read_text())
    assert [entry["case"] for entry in asked["training"]] == ["b"]
    task = load_task(tmp_path / "out" / "task.json")
    assert task.label_values == (0, LIVER, SPLEEN, KIDNEY)
    assert extension_stages(parse_arguments(arguments), student)[1].inputs == stages[1].inputs  # called again
    content = json.loads(data.read_text())
    content["training"][1]["structures"] = ["kidney", "heart"]
    data.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="expected names among liver, kidney, spleen in `structures`"):
        extension_stages(parse_arguments(arguments), student)


@pytest.mark.slow
def test_a_student_learns_a_class_more(
    student: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(student), str(data), "--output-dir", str(tmp_path / "out"), "--max-epochs", "2", "--device", "cpu"]
    assert main(arguments) == 0
    assert "kidney: Dice" in capsys.readouterr().out
    written = load_task(tmp_path / "out" / "student" / "configs" / "task.json")
    assert written.label_names == ("background", "liver", "spleen", "kidney")
    assert main(arguments) == 0  # nothing is run again

"""Partly labelled cases from the datalist to losses and scores: what was not drawn is neither background nor wrong."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from tskd_monai.commands.check import main as check
from tskd_monai.data.datalist import load_datalist, load_section
from tskd_monai.data.drawn_structures import undrawn_code
from tskd_monai.data.planning.rules import plan_task
from tskd_monai.data.slices import SliceDataset
from tskd_monai.data.task import Task, load_task, save_task
from tskd_monai.distillation.targets_report import overlap_counts
from tskd_monai.evaluation.report.evaluation_page import write_evaluation_report
from tskd_monai.evaluation.scoring import score_segmentations
from tskd_monai.synthesis.diffusion import label_map_condition
from tskd_monai.training.samplers import checked_classes
from tskd_monai.training.validation import dice_evaluator, slice_inferer
from tskd_monai.transforms.pipelines import augmentation, preprocessing, training_preprocessing

LIVER, SPLEEN, IGNORE = 1, 4, 255
BOXES = {LIVER: np.s_[4:14, 4:14, :], SPLEEN: np.s_[18:26, 20:28, :]}
NAMES = {"0": "background", "1": "liver", "4": "spleen", "255": "ignore"}


def label_map(*values: int, ignored: bool = False) -> np.ndarray:
    label = np.zeros((32, 32, 4), np.uint8)
    for value in values:
        label[BOXES[value]] = value
    if ignored:
        label[:, 28:] = IGNORE
    return label


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a datalist: in training, case a shows both structures, b only the liver, and c has voxels to ignore."""

    def written(**changes: Any) -> Path:
        cases: dict[str, dict[str, Any]] = {
            "a": {"label": label_map(LIVER, SPLEEN)},
            "b": {"label": label_map(LIVER), "structures": ["liver"]},
            "c": {"label": label_map(LIVER, SPLEEN, ignored=True)},
        }
        cases["b"] |= changes
        entries = []
        for number, (case, content) in enumerate(cases.items()):
            image = 100.0 * (label_map(LIVER, SPLEEN) > 0) + np.random.default_rng(number).normal(size=(32, 32, 4))
            for key, array in (("image", image.astype(np.float32)), ("label", content["label"])):
                nib.save(nib.Nifti1Image(array, np.diag([2.0, 2, 8, 1])), tmp_path / f"{case}_{key}.nii.gz")
            entry = {"case": case, "image": f"{case}_image.nii.gz", "label": f"{case}_label.nii.gz"}
            entries.append({**entry, **{key: value for key, value in content.items() if key != "label"}})
        path = tmp_path / "datalist.json"
        path.write_text(json.dumps({"labels": NAMES, "training": entries}))
        return path

    return written


def test_planning_counts_what_was_drawn(write: Write, tmp_path: Path) -> None:
    task = plan_task(load_datalist(write()), image_size=32)
    voxels, ignored = 32 * 32 * 4, 32 * 4 * 4
    liver, spleen = 10 * 10 * 4, 8 * 8 * 4
    expected = [3 * liver / (3 * voxels - ignored), 2 * spleen / (2 * voxels - ignored)]
    assert task.class_frequencies[1:] == pytest.approx(expected, abs=1e-6)
    assert sum(task.class_frequencies) == pytest.approx(1, abs=1e-5)
    assert (task.ignore, task.label_values) == (IGNORE, (0, LIVER, SPLEEN))
    assert task.keep_largest_component == (LIVER, SPLEEN)  # the spleen's absence from case b is not counted
    save_task(task, tmp_path / "task.json")
    assert load_task(tmp_path / "task.json") == task


def test_no_border_turns_the_unknown_into_a_class(write: Write) -> None:
    """Spacing, padding, cropping and augmentation keep the codes; what they pad is the certain background."""
    path = write()
    task = plan_task(load_datalist(path), image_size=48)
    codes = {"a": {0, 1, 2}, "b": {1, undrawn_code([2])}, "c": {0, 1, 2, undrawn_code([1, 2])}}
    for entry in load_section(path, "training"):
        own = codes[entry["case"]]
        read = preprocessing(task, ["image", "label"])(dict(entry))
        assert set(read["label"].unique().int().tolist()) == own
        slices = SliceDataset([entry], training_preprocessing(task), augmentation())
        slices.set_random_state(0)
        for item in [slices[index] for index in range(4)] * 3:
            assert set(item["label"].unique().int().tolist()) <= own | {0}
            assert not (torch.as_tensor(item["label"]) < 0)[torch.as_tensor(item["image"]) == 0].all()
    dataset = SliceDataset(load_section(path, "training"), training_preprocessing(task))
    assert checked_classes(dataset, task) == [{1, 2}] * 4 + [{1}] * 4 + [{1, 2}] * 4
    with pytest.raises(ValueError, match="completely labelled images for condition label_map, found a case with"):
        label_map_condition(torch.stack(dataset.arrays("label")), 3, 1)


class Says(torch.nn.Module):
    """Predicts the class that the image's first channel holds."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(images[:, 0].long(), 3).movedim(-1, 1).float()


def validated(make_task: Callable[..., Task], predicted: torch.Tensor, label: torch.Tensor) -> float:
    case: Any = [{"image": predicted[None], "label": label[None]}]
    evaluator = dice_evaluator(Says(), case, slice_inferer(make_task()), make_task(), "cpu")
    evaluator.run()
    return float(evaluator.state.metrics["val_mean_dice"])


def test_validation_counts_known_voxels_only(make_task: Callable[..., Task]) -> None:
    """Where a structure was not drawn, or a voxel is ignored, predicting it costs nothing; elsewhere it does."""
    predicted = torch.zeros(32, 48, 2)
    predicted[:16, :16], predicted[16:, 16:] = 1, 2
    only_liver = torch.where(predicted == 1, 1.0, 0.0)
    spleen_undrawn = torch.where(predicted == 1, 1.0, float(undrawn_code([2])))
    halved = predicted.clone()
    halved[16:24, 16:] = 0
    ignored = halved.clone()
    ignored[16:24, 16:] = undrawn_code([1, 2])
    assert validated(make_task, predicted, spleen_undrawn) == validated(make_task, predicted, only_liver) == 1
    assert validated(make_task, predicted, halved) == pytest.approx((1 + 2 / 3) / 2)
    assert validated(make_task, predicted, ignored) == 1
    liver_missed = torch.where(predicted == 1, 0.0, predicted)
    assert validated(make_task, liver_missed, spleen_undrawn) == 0


def test_scores_leave_out_what_was_not_drawn_and_what_is_ignored(write: Write, tmp_path: Path) -> None:
    path = write()
    task = plan_task(load_datalist(path), image_size=32)
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "training": [], "test": content["training"]}))
    for case in "abc":
        found = label_map(LIVER, SPLEEN)
        found[:, 30:] = LIVER  # wrong in a and b, ignored in c
        (tmp_path / "out").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(found, np.diag([2.0, 2, 8, 1])), tmp_path / "out" / f"{case}_seg.nii.gz")
    summary = score_segmentations(task, path, "test", tmp_path / "out")
    with (tmp_path / "out" / "metrics.csv").open() as file:
        rows = {(row["case"], row["name"]): row for row in csv.DictReader(file)}
    liver = 10 * 10
    wrong = 2 * liver / (2 * liver + 2 * 32)
    assert float(rows["a", "liver"]["dice"]) == float(rows["b", "liver"]["dice"]) == pytest.approx(wrong, abs=1e-6)
    assert float(rows["c", "liver"]["dice"]) == float(rows["c", "spleen"]["dice"]) == 1
    unknown = rows["b", "spleen"]
    assert [unknown[key] for key in ("dice", "nsd", "reference_volume_ml", "missed")] == ["", "", "", "0"]
    assert float(unknown["volume_ml"]) > 0
    assert summary["classes"]["spleen"]["dice"] == {**summary["classes"]["spleen"]["dice"], "mean": 1.0, "cases": 2}
    page = write_evaluation_report(task, path, "test", tmp_path / "out").read_text()
    assert ">nan" not in page and "/ nan" not in page


def test_targets_are_not_compared_where_nothing_is_known() -> None:
    label = torch.tensor([[1, undrawn_code([2]), undrawn_code([2])]])
    predicted = torch.tensor([[1, 2, 0]])
    counts = overlap_counts(predicted, predicted, label, ["background", "liver", "spleen"])
    assert counts == {"liver": [1, 1, 1, 1, 1], "spleen": [0, 0, 0, 0, 0]}


def test_check_reports_the_structures_that_were_drawn(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check([str(write()), "--output-dir", str(tmp_path / "check")]) == 0
    text = capsys.readouterr().out
    assert "spleen was drawn in 2 of 3 labelled images" in text and "1 of 3 labelled images have voxels to" in text
    page = (tmp_path / "check" / "check.html").read_text()
    assert "not drawn" in page and "2 of 2" in page


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"structures": ["kidney"]}, "expected names among liver, spleen in `structures`, the structures that were"),
        ({"structures": []}, "found none; list an image in which nothing was drawn in `unlabeled`"),
        ({"structures": "liver"}, "expected names among liver, spleen in `structures`, found 'liver'"),
        ({"structures": ["spleen"]}, "expected no voxel of liver, which `structures` of the case does not list"),
        ({"label": np.full((32, 32, 4), IGNORE, np.uint8)}, "found only 255, the value to ignore; list the image in"),
    ],
)
def test_contradictions_are_refused_in_one_line(write: Write, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        plan_task(load_datalist(write(**change)), image_size=32)
    assert "\n" not in str(error.value) and "b" in str(error.value)


@pytest.mark.parametrize("value", ["0", "1"])
def test_the_value_to_ignore_is_no_label_s(write: Write, value: str) -> None:
    datalist = load_datalist(write())
    names = {"0": "background", "1": "liver", "4": "spleen", ("00" if value == "0" else "01"): "ignore"}
    with pytest.raises(ValueError, match="Expected one value above 0 that no other label has for `ignore`"):
        plan_task({**datalist, "labels": names}, image_size=32)
